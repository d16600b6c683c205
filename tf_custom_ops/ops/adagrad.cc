#include "../math/adagrad.h"

#include "registration.h"

namespace keras_legacy_opt {

KLO_REGISTER_OPTIMIZER(Adagrad, Adagrad, {"accum"}, KLO_NAMES("lr", "epsilon"))

}  // namespace keras_legacy_opt
