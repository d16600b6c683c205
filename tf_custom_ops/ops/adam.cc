#include "../math/adam.h"

#include "registration.h"

namespace keras_legacy_opt {

KLO_REGISTER_OPTIMIZER(Adam, Adam, KLO_NAMES("m", "v"),
                       KLO_NAMES("lr", "beta_1_power", "beta_2_power", "beta_1", "beta_2", "epsilon"))
KLO_REGISTER_OPTIMIZER(AdamAmsgrad, AdamAmsgrad, KLO_NAMES("m", "v", "vhat"),
                       KLO_NAMES("lr", "beta_1_power", "beta_2_power", "beta_1", "beta_2", "epsilon"))

}  // namespace keras_legacy_opt
