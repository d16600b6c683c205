// Whether the elements of a gradient are finite, once they are unscaled.
#ifndef KERAS_LEGACY_OPT_APPLY_FINITE_H_
#define KERAS_LEGACY_OPT_APPLY_FINITE_H_

#include <cstdint>

#include "dtype.h"
#include "isa.h"

namespace keras_legacy_opt {
namespace finite_internal {

template <class T>
KLO_INLINE bool AllFinite(const T* x, int64_t count, Arithmetic<T> factor) {
  using C = Arithmetic<T>;
  constexpr int kLanes = 32;
  C zero[kLanes] = {};  // NaN once an element is not finite
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int k = 0; k < kLanes; ++k) zero[k] += Load(x[i + k]) * factor * C(0);
  }
  for (int k = 0; i < count; ++i, ++k) zero[k] += Load(x[i]) * factor * C(0);
  C sum = 0;
  for (int k = 0; k < kLanes; ++k) sum += zero[k];
  return sum == C(0);
}

template <class T>
bool AllFiniteBase(const T* x, int64_t count, Arithmetic<T> factor) {
  return AllFinite(x, count, factor);
}
template <class T>
KLO_TARGET_AVX2 bool AllFiniteAvx2(const T* x, int64_t count, Arithmetic<T> factor) {
  return AllFinite(x, count, factor);
}
template <class T>
KLO_TARGET_AVX512 bool AllFiniteAvx512(const T* x, int64_t count, Arithmetic<T> factor) {
  return AllFinite(x, count, factor);
}

}  // namespace finite_internal

// Whether all x[i] * factor are finite.
template <class T>
bool AllFinite(Isa isa, const T* x, int64_t count, Arithmetic<T> factor) {
  switch (isa) {
    case Isa::kAvx512:
      return finite_internal::AllFiniteAvx512(x, count, factor);
    case Isa::kAvx2:
      return finite_internal::AllFiniteAvx2(x, count, factor);
    default:
      return finite_internal::AllFiniteBase(x, count, factor);
  }
}

}  // namespace keras_legacy_opt

#endif  // KERAS_LEGACY_OPT_APPLY_FINITE_H_
