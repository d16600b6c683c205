#include "../math/ftrl.h"

#include "registration.h"

namespace keras_legacy_opt {

KLO_REGISTER_OPTIMIZER(Ftrl, Ftrl<false>::Functor, KLO_NAMES("accum", "linear"),
                       KLO_NAMES("lr", "lr_power", "l1", "l2", "beta", "l2_shrinkage"))
KLO_REGISTER_OPTIMIZER(FtrlShrinkage, Ftrl<true>::Functor, KLO_NAMES("accum", "linear"),
                       KLO_NAMES("lr", "lr_power", "l1", "l2", "beta", "l2_shrinkage"))

}  // namespace keras_legacy_opt
