// The element types: float and double compute in themselves; the two 16-bit types compute in float and round once, to
// nearest even, when stored. The conversions are branch-free integer arithmetic: they vectorise, and they keep 16-bit
// denormals also on threads that flush float denormals to zero.
#ifndef KERAS_LEGACY_OPT_APPLY_DTYPE_H_
#define KERAS_LEGACY_OPT_APPLY_DTYPE_H_

#include "../math/prelude.h"

#ifndef __CUDACC_RTC__
#include <cstdint>
#endif

#define KLO_INLINE KLO_FN

namespace keras_legacy_opt {

#ifdef __CUDACC_RTC__  // which has no headers
using int32_t = int;
using int64_t = long long;
using uint16_t = unsigned short;
using uint32_t = unsigned int;
using uint64_t = unsigned long long;
#endif

struct Half {
  uint16_t bits;
};
struct Bfloat16 {
  uint16_t bits;
};

template <class T>
struct ArithmeticOf {
  using Type = T;
};
template <>
struct ArithmeticOf<Half> {
  using Type = float;
};
template <>
struct ArithmeticOf<Bfloat16> {
  using Type = float;
};
template <class T>
using Arithmetic = typename ArithmeticOf<T>::Type;

namespace bits {
KLO_INLINE float Float(uint32_t x) {
  float f;
  KLO_BUILTIN(memcpy)(&f, &x, sizeof f);
  return f;
}
KLO_INLINE uint32_t Of(float f) {
  uint32_t x;
  KLO_BUILTIN(memcpy)(&x, &f, sizeof x);
  return x;
}
}  // namespace bits

KLO_INLINE float Load(float x) { return x; }
KLO_INLINE double Load(double x) { return x; }

KLO_INLINE float Load(Bfloat16 x) { return bits::Float(uint32_t{x.bits} << 16); }

KLO_INLINE float Load(Half x) {
  const uint32_t sign = uint32_t{x.bits & 0x8000u} << 16;
  const uint32_t magnitude = uint32_t{x.bits & 0x7fffu} << 13;
  const uint32_t special = magnitude >= 0x0f800000u ? 0x38000000u : 0u;  // Inf and NaN: lift the exponent once more.
  const uint32_t normal = magnitude + 0x38000000u + special;
  // A denormal: put its bits behind the exponent of 2^-14 and take that 2^-14 off again.
  const uint32_t denormal = bits::Of(bits::Float(magnitude | 0x38800000u) - bits::Float(0x38800000u));
  return bits::Float(sign | (magnitude < 0x00800000u ? denormal : normal));
}

KLO_INLINE void Store(float x, float& to) { to = x; }
KLO_INLINE void Store(double x, double& to) { to = x; }

KLO_INLINE void Store(float x, Bfloat16& to) {
  const uint32_t u = bits::Of(x);
  const uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  const uint32_t nan = (u >> 16) | 0x40u;
  to.bits = static_cast<uint16_t>((u & 0x7fffffffu) > 0x7f800000u ? nan : rounded);
}

KLO_INLINE void Store(float x, Half& to) {
  const uint32_t u = bits::Of(x);
  const uint32_t sign = (u >> 16) & 0x8000u, magnitude = u & 0x7fffffffu;
  // 65520 and above rounds to infinity; a NaN stays one.
  const uint32_t special = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
  const uint32_t normal = (magnitude - 0x38000000u + 0x0fffu + ((magnitude >> 13) & 1u)) >> 13;
  // Below 2^-14: adding 0.5 lets the hardware round at the last bit of a half denormal.
  const uint32_t denormal = bits::Of(bits::Float(magnitude) + 0.5f) - bits::Of(0.5f);
  const uint32_t finite = magnitude < 0x38800000u ? denormal : normal;
  to.bits = static_cast<uint16_t>(sign | (magnitude >= 0x477ff000u ? special : finite));
}

}  // namespace keras_legacy_opt

#endif  // KERAS_LEGACY_OPT_APPLY_DTYPE_H_
