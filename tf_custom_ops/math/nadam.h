// Nadam (Dozat, 2016) with the momentum schedule u_t of Keras. The optimizer hands over the schedule's products:
//   g' = g / (1 - u_1...u_t)
//   m  <- beta_1 * m + (1 - beta_1) * g,    m' = m / (1 - u_1...u_(t+1))
//   v  <- beta_2 * v + (1 - beta_2) * g^2,  v' = v / (1 - beta_2^t)
//   var <- var - lr * ((1 - u_t) * g' + u_(t+1) * m') / (sqrt(v') + epsilon)
// Sparse gradients decay m and v of every row and move the rows that have a gradient.
#ifndef KERAS_LEGACY_OPT_MATH_NADAM_H_
#define KERAS_LEGACY_OPT_MATH_NADAM_H_

#include "prelude.h"

namespace keras_legacy_opt {

template <class T, Path>
struct Nadam {
  KLO_SLOTS(m, v);
  KLO_HYPERS(lr, beta_1, beta_2, one_minus_u, next_u, one_minus_product, one_minus_next_product, one_minus_beta_2_power,
             epsilon);
  static constexpr bool kIdle = true;
  static constexpr bool kSumDuplicates = true;

  T lr, beta_1, one_minus_beta_1, beta_2, one_minus_beta_2, one_minus_u, next_u;
  T one_minus_product, one_minus_next_product, one_minus_beta_2_power, epsilon;

  KLO_FN explicit Nadam(const Hypers& h)
      : lr(h.lr),
        beta_1(h.beta_1),
        one_minus_beta_1(T(1) - h.beta_1),
        beta_2(h.beta_2),
        one_minus_beta_2(T(1) - h.beta_2),
        one_minus_u(h.one_minus_u),
        next_u(h.next_u),
        one_minus_product(h.one_minus_product),
        one_minus_next_product(h.one_minus_next_product),
        one_minus_beta_2_power(h.one_minus_beta_2_power),
        epsilon(h.epsilon) {}

  KLO_FN void operator()(T& var, T& m, T& v, T g) const {
    m = MovingAverage<Average::kWeighted>(m, g, beta_1, one_minus_beta_1);
    v = MovingAverage<Average::kWeighted>(v, g * g, beta_2, one_minus_beta_2);
    const T lookahead = one_minus_u * (g / one_minus_product) + next_u * (m / one_minus_next_product);
    var -= lr * lookahead / (Sqrt(v / one_minus_beta_2_power) + epsilon);
  }

  KLO_FN void Idle(T&, T& m, T& v) const {
    m *= beta_1;
    v *= beta_2;
  }
};

KLO_FORMULA(Nadam, Nadam)

}  // namespace keras_legacy_opt

#endif  // KERAS_LEGACY_OPT_MATH_NADAM_H_
