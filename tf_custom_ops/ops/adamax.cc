#include "../math/adamax.h"

#include "registration.h"

namespace keras_legacy_opt {

KLO_REGISTER_OPTIMIZER(Adamax, Adamax, KLO_NAMES("m", "v"),
                       KLO_NAMES("lr", "beta_1_power", "beta_1", "beta_2", "epsilon"))

}  // namespace keras_legacy_opt
