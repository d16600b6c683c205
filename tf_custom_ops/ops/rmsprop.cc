#include "../math/rmsprop.h"

#include "registration.h"

namespace keras_legacy_opt {

KLO_REGISTER_OPTIMIZER(RmsProp, RmsProp, {"ms"}, KLO_NAMES("lr", "rho", "momentum", "epsilon"))
KLO_REGISTER_OPTIMIZER(RmsPropCentered, RmsPropCentered, KLO_NAMES("ms", "mg"),
                       KLO_NAMES("lr", "rho", "momentum", "epsilon"))
KLO_REGISTER_OPTIMIZER(RmsPropMomentum, RmsPropMomentum, KLO_NAMES("ms", "mom"),
                       KLO_NAMES("lr", "rho", "momentum", "epsilon"))
KLO_REGISTER_OPTIMIZER(RmsPropCenteredMomentum, RmsPropCenteredMomentum, KLO_NAMES("ms", "mom", "mg"),
                       KLO_NAMES("lr", "rho", "momentum", "epsilon"))

}  // namespace keras_legacy_opt
