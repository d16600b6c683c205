#include "../math/sgd.h"

#include "registration.h"

namespace keras_legacy_opt {

KLO_REGISTER_OPTIMIZER(Sgd, Sgd, {}, KLO_NAMES("lr"))
KLO_REGISTER_OPTIMIZER(Momentum, Momentum<false>::Functor, {"accum"}, KLO_NAMES("lr", "momentum"))
KLO_REGISTER_OPTIMIZER(Nesterov, Momentum<true>::Functor, {"accum"}, KLO_NAMES("lr", "momentum"))

}  // namespace keras_legacy_opt
