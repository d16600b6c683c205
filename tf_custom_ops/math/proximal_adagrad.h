// Proximal Adagrad (Duchi and Singer, 2009):
//   a    <- a + g^2
//   rate =  lr / sqrt(a)
//   x    =  var - rate * g
//   var  <- sign(x) * max(|x| - l1 * rate, 0) / (1 + l2 * rate)
#ifndef KERAS_LEGACY_OPT_MATH_PROXIMAL_ADAGRAD_H_
#define KERAS_LEGACY_OPT_MATH_PROXIMAL_ADAGRAD_H_

#include "prelude.h"

namespace keras_legacy_opt {

template <class T, Path>
struct ProximalAdagrad {
  KLO_SLOTS(accum);
  KLO_HYPERS(lr, l1, l2);
  static constexpr bool kIdle = false;
  static constexpr bool kSumDuplicates = true;

  Hypers h;

  KLO_FN explicit ProximalAdagrad(const Hypers& hypers) : h(hypers) {}

  KLO_FN void operator()(T& var, T& accum, T g) const {
    accum += g * g;
    const T rate = h.lr * (T(1) / Sqrt(accum));
    const T x = var - g * rate;
    var = Sign(x) * MaxOrNan(Abs(x) - rate * h.l1, T(0)) / (T(1) + h.l2 * rate);
  }
};

KLO_FORMULA(ProximalAdagrad, ProximalAdagrad)

}  // namespace keras_legacy_opt

#endif  // KERAS_LEGACY_OPT_MATH_PROXIMAL_ADAGRAD_H_
