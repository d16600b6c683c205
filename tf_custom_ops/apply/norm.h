// The L2 norm of gradients, of all together or of each, and the transform that clips it: numbers that are the same on
// every device.
#ifndef KERAS_LEGACY_OPT_APPLY_NORM_H_
#define KERAS_LEGACY_OPT_APPLY_NORM_H_

#include "dtype.h"
#include "gradient.h"

namespace keras_legacy_opt {

// Squares are summed up in double: those of a block of elements, by so many, each of which takes kSummedAtOnce
// elements in turn; then the sums of the blocks, by as many. What they have is added up pairwise.
constexpr int kSummers = 256;
template <class T>
constexpr int kSummedAtOnce = sizeof(T) == 8 ? 2 : 4;

// Changes nothing.
template <class C>
KLO_INLINE GradientTransform<C> Unchanged() {
  return {C(1), C(bits::Float(0x7f800000u)), C(1), C(1)};
}

// As TensorFlow's, it overflows where the sum of the squares is no T any more.
template <class T>
KLO_INLINE Arithmetic<T> NormOfSquares(double squares) {
  T stored;
  Store(static_cast<Arithmetic<T>>(squares), stored);
  return Sqrt(Load(stored));
}

// `transform`, and then what tf.clip_by_norm does; or tf.clip_by_global_norm, where a norm that is not finite makes
// gradients that are not.
template <class C>
KLO_INLINE GradientTransform<C> Clipping(GradientTransform<C> transform, C norm, C limit, bool of_each) {
  if (of_each) {
    transform.factor = limit;
    transform.divisor = MaxOrNan(norm, limit);
  } else {
    transform.factor = limit * Min(C(1) / norm, C(1) / limit) + (norm - norm);
  }
  return transform;
}

#ifndef __CUDACC_RTC__
// Of what kSummers have.
inline double SumPairwise(double (&sums)[kSummers]) {
  for (int half = kSummers / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) sums[i] += sums[i + half];
  }
  return sums[0];
}

// The sum of the squares of a block, of elements as they are before they are clipped by their norm.
template <class T>
double SumOfSquares(const T* x, int64_t count, const GradientTransform<Arithmetic<T>>& transform) {
  constexpr int kWidth = kSummedAtOnce<T>, kLanes = kSummers * kWidth;
  double lanes[kLanes] = {}, sums[kSummers] = {};
  for (int64_t begin = 0; begin < count; begin += kLanes) {
    const int64_t n = count - begin < kLanes ? count - begin : kLanes;
    for (int64_t i = 0; i < n; ++i) {
      const double value = transform.Bounded(Load(x[begin + i]));
      lanes[i] += value * value;
    }
  }
  for (int i = 0; i < kLanes; ++i) sums[i / kWidth] += lanes[i];
  return SumPairwise(sums);
}

// Of the sums of some blocks.
inline double SumOfBlocks(const double* blocks, int64_t count) {
  double sums[kSummers] = {};
  for (int64_t i = 0; i < count; ++i) sums[i % kSummers] += blocks[i];
  return SumPairwise(sums);
}
#endif

}  // namespace keras_legacy_opt

#endif  // KERAS_LEGACY_OPT_APPLY_NORM_H_
