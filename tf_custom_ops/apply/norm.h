// The sum of the squares of a gradient, in double, in an order that depends on the size alone.
#ifndef KERAS_LEGACY_OPT_APPLY_NORM_H_
#define KERAS_LEGACY_OPT_APPLY_NORM_H_

#include <cstdint>

#include "dtype.h"
#include "gradient.h"
#include "isa.h"

namespace keras_legacy_opt {

// Sums of this many elements are added up one after the other: the unit of work for threads.
constexpr int64_t kNormBlock = 1 << 14;

struct SquareSum {
  double sum = 0;
  bool finite = true;  // of the elements, not of the sum: squares of doubles may overflow
};

namespace norm_internal {

template <class T>
KLO_INLINE SquareSum Squares(const T* x, int64_t count, const GradientTransform<Arithmetic<T>>& transform) {
  using C = Arithmetic<T>;
  constexpr int kLanes = 16;
  double lane[kLanes] = {};
  C zero[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int k = 0; k < kLanes; ++k) {
      const C raw = Load(x[i + k]);
      const double g = transform.Bounded(raw);
      lane[k] += g * g;
      zero[k] += raw * C(0);  // NaN once an element is not finite
    }
  }
  for (int k = 0; i < count; ++i, ++k) {
    const C raw = Load(x[i]);
    const double g = transform.Bounded(raw);
    lane[k] += g * g;
    zero[k] += raw * C(0);
  }
  SquareSum result;
  C check = 0;
  for (int k = 0; k < kLanes; ++k) {
    result.sum += lane[k];
    check += zero[k];
  }
  result.finite = check == C(0);
  return result;
}

template <class T>
SquareSum SquaresBase(const T* x, int64_t count, const GradientTransform<Arithmetic<T>>& transform) {
  return Squares(x, count, transform);
}
template <class T>
KLO_TARGET_AVX2 SquareSum SquaresAvx2(const T* x, int64_t count, const GradientTransform<Arithmetic<T>>& transform) {
  return Squares(x, count, transform);
}
template <class T>
KLO_TARGET_AVX512 SquareSum SquaresAvx512(const T* x, int64_t count,
                                          const GradientTransform<Arithmetic<T>>& transform) {
  return Squares(x, count, transform);
}

}  // namespace norm_internal

template <class T>
SquareSum SquaresOf(Isa isa, const T* x, int64_t count, const GradientTransform<Arithmetic<T>>& transform) {
  switch (isa) {
    case Isa::kAvx512:
      return norm_internal::SquaresAvx512(x, count, transform);
    case Isa::kAvx2:
      return norm_internal::SquaresAvx2(x, count, transform);
    default:
      return norm_internal::SquaresBase(x, count, transform);
  }
}

}  // namespace keras_legacy_opt

#endif  // KERAS_LEGACY_OPT_APPLY_NORM_H_
