// The few kernels that tests/driver.cc runs.
#include "../gpu/dense.h"
#include "../gpu/finite.h"
#include "../math/sgd.h"

namespace keras_legacy_opt {
KLO_DENSE_KERNEL(Dense_Sgd_float, Dense, Sgd, float)
KLO_FINITE_KERNEL(Finite_float, float)
}  // namespace keras_legacy_opt
