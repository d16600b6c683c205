#include "../math/adadelta.h"

#include "registration.h"

namespace keras_legacy_opt {

KLO_REGISTER_OPTIMIZER(Adadelta, Adadelta, KLO_NAMES("accum_grad", "accum_var"), KLO_NAMES("lr", "rho", "epsilon"))

}  // namespace keras_legacy_opt
