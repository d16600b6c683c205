#include "../math/nadam.h"

#include "registration.h"

namespace keras_legacy_opt {

KLO_REGISTER_OPTIMIZER(Nadam, Nadam, KLO_NAMES("m", "v"),
                       KLO_NAMES("lr", "beta_1", "beta_2", "one_minus_u", "next_u", "one_minus_product",
                                 "one_minus_next_product", "one_minus_beta_2_power", "epsilon"))

}  // namespace keras_legacy_opt
