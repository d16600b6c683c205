// Adamax (Kingma & Ba, 2014, section 7.1):
//   m   <- beta_1 * m + (1 - beta_1) * g
//   v   <- max(beta_2 * v, |g|)
//   var <- var - lr / (1 - beta_1^t) * m / (v + epsilon)
#ifndef KERAS_LEGACY_OPT_MATH_ADAMAX_H_
#define KERAS_LEGACY_OPT_MATH_ADAMAX_H_

#include "prelude.h"

namespace keras_legacy_opt {

template <class T, Path kPath>
struct Adamax {
  KLO_SLOTS(m, v);
  KLO_HYPERS(lr, beta_1_power, beta_1, beta_2, epsilon);
  static constexpr bool kIdle = false;
  static constexpr bool kSumDuplicates = true;

  T alpha, beta_1, one_minus_beta_1, beta_2, epsilon;

  KLO_FN explicit Adamax(const Hypers& h)
      : alpha(h.lr / (T(1) - h.beta_1_power)),
        beta_1(h.beta_1),
        one_minus_beta_1(T(1) - h.beta_1),
        beta_2(h.beta_2),
        epsilon(h.epsilon) {}

  KLO_FN void operator()(T& var, T& m, T& v, T g) const {
    m = MovingAverage<AverageOn(kPath)>(m, g, beta_1, one_minus_beta_1);
    v = MaxOn<kPath>(beta_2 * v, Abs(g));
    var -= alpha * (m / (v + epsilon));
  }
};

KLO_FORMULA(Adamax, Adamax)

}  // namespace keras_legacy_opt

#endif  // KERAS_LEGACY_OPT_MATH_ADAMAX_H_
