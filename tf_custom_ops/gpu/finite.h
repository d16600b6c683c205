// Whether gradients are finite once they are unscaled, see apply/finite.h: of all tensors of a dtype in one launch.
#ifndef KERAS_LEGACY_OPT_GPU_FINITE_H_
#define KERAS_LEGACY_OPT_GPU_FINITE_H_

#include "device.h"

namespace keras_legacy_opt {
namespace gpu {

// A block for each chunk. *launch.finite was true before; whoever finds another value makes it false.
template <class T>
KLO_DEVICE void CheckFinite(const FiniteLaunch& launch) {
  using C = Arithmetic<T>;
  const Chunk chunk = launch.chunks[blockIdx.x];
  const T* tensor = static_cast<const T*>(launch.tensors[chunk.tensor]) + chunk.offset;
  const C factor = static_cast<C>(*launch.factor);
  bool is_finite = true;
  ForEachRange<T>(reinterpret_cast<uint64_t>(tensor) % sizeof(Pack<T>) == 0, 0, chunk.count, [&](const Range& range) {
    C values[kWidth<T>];
    range.Load(tensor, values);
    KLO_UNROLL
    for (int j = 0; j < kWidth<T>; ++j) is_finite = is_finite && values[j] * factor * C(0) == C(0);
  });
  if (!is_finite) *launch.finite = false;
}

}  // namespace gpu
}  // namespace keras_legacy_opt

#define KLO_FINITE_KERNEL(SYMBOL, T)                                      \
  KLO_KERNEL SYMBOL(const ::keras_legacy_opt::gpu::FiniteLaunch launch) { \
    ::keras_legacy_opt::gpu::CheckFinite<T>(launch);                      \
  }

#endif  // KERAS_LEGACY_OPT_GPU_FINITE_H_
