// The L2 norm of gradients, of all tensors of a dtype together or of each, and what clips it, in one launch: see
// apply/norm.h, whose bits these are.
#ifndef KERAS_LEGACY_OPT_GPU_NORM_H_
#define KERAS_LEGACY_OPT_GPU_NORM_H_

#include "../apply/norm.h"
#include "device.h"

namespace keras_legacy_opt {
namespace gpu {

// By all threads; the first one gets the sum.
KLO_DEVICE double SumOfThreads(double number) {
  __shared__ double numbers[kThreads];
  const int thread = static_cast<int>(threadIdx.x);
  numbers[thread] = number;
  KLO_ROLLED
  for (int half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (thread < half) numbers[thread] += numbers[thread + half];
  }
  return numbers[0];
}

// What a thread sums up of a chunk.
template <class T>
KLO_DEVICE double SumOfThread(const T* tensor, int count, const GradientTransform<Arithmetic<T>>& transform) {
  static_assert(kSummedAtOnce<T> == kWidth<T> && kSummers == kThreads, "norms have the bits of the CPU's");
  double sums[kWidth<T>] = {};
  ForEachRange<T>(reinterpret_cast<uint64_t>(tensor) % sizeof(Pack<T>) == 0, 0, count, [&](const Range& range) {
    Arithmetic<T> values[kWidth<T>];
    range.Load(tensor, values);
    KLO_UNROLL
    for (int j = 0; j < kWidth<T>; ++j) {
      const double value = transform.Bounded(values[j]);
      if (j < range.count) sums[j] += value * value;
    }
  });
  double sum = 0;
  KLO_UNROLL
  for (int j = 0; j < kWidth<T>; ++j) sum += sums[j];
  return sum;
}

// Whether this block is the last one of `blocks` that has come here. What the others stored before, it reads then.
KLO_DEVICE bool IsLast(uint32_t* counter, int64_t blocks) {
  __shared__ bool is_last;
  if (threadIdx.x == 0) {
    __threadfence();
    is_last = atomicAdd(counter, 1u) + 1 == blocks;
    if (is_last) *counter = 0;  // as the next launch wants it
    __threadfence();
  }
  __syncthreads();
  return is_last;
}

// A block for each chunk; the last of those that share a norm makes it of what they have stored, in the order of their
// chunks.
template <class T>
KLO_DEVICE void Norm(const NormLaunch<Arithmetic<T>>& launch) {
  using C = Arithmetic<T>;
  const Chunk chunk = launch.chunks[blockIdx.x];
  const T* tensor = static_cast<const T*>(launch.tensors[chunk.tensor]) + chunk.offset;
  GradientTransform<C> transform = Unchanged<C>();
  if (launch.transform != nullptr) {
    const C* given = launch.transform;
    transform = {given[0], given[1], given[2], given[3]};
  }
  const double squares = SumOfThreads(SumOfThread(tensor, chunk.count, transform));
  if (threadIdx.x == 0) launch.squares[blockIdx.x] = squares;

  const int row = launch.of_each ? chunk.tensor : 0;
  const int64_t begin = launch.of_each ? launch.first[row] : 0;
  const int64_t end = launch.of_each ? launch.first[row + 1] : gridDim.x;
  if (!IsLast(launch.counters + row, end - begin)) return;
  double sum = 0;
  for (int64_t i = begin + threadIdx.x; i < end; i += kThreads) sum += launch.squares[i];
  sum = SumOfThreads(sum);
  if (threadIdx.x != 0) return;
  const C norm = NormOfSquares<T>(sum);
  const GradientTransform<C> clipping = Clipping(transform, norm, *launch.limit, launch.of_each != 0);
  launch.norms[row] = norm;
  C* numbers = launch.clippings + 4 * int64_t{row};
  numbers[0] = clipping.unscale;
  numbers[1] = clipping.limit;
  numbers[2] = clipping.factor;
  numbers[3] = clipping.divisor;
}

}  // namespace gpu
}  // namespace keras_legacy_opt

#define KLO_NORM_KERNEL(SYMBOL, T)                                                                         \
  KLO_KERNEL SYMBOL(const ::keras_legacy_opt::gpu::NormLaunch<::keras_legacy_opt::Arithmetic<T>> launch) { \
    ::keras_legacy_opt::gpu::Norm<T>(launch);                                                              \
  }

#endif  // KERAS_LEGACY_OPT_GPU_NORM_H_
