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
  static constexpr int kSlots = 2, kHypers = 9;
  static constexpr bool kIdle = true;
  static constexpr bool kSumDuplicates = true;

  T lr, beta_1, one_minus_beta_1, beta_2, one_minus_beta_2, one_minus_u, next_u;
  T one_minus_product, one_minus_next_product, one_minus_beta_2_power, epsilon;

  KLO_FN explicit Nadam(const T* hyper)
      : lr(hyper[0]),
        beta_1(hyper[1]),
        one_minus_beta_1(T(1) - hyper[1]),
        beta_2(hyper[2]),
        one_minus_beta_2(T(1) - hyper[2]),
        one_minus_u(hyper[3]),
        next_u(hyper[4]),
        one_minus_product(hyper[5]),
        one_minus_next_product(hyper[6]),
        one_minus_beta_2_power(hyper[7]),
        epsilon(hyper[8]) {}

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

}  // namespace keras_legacy_opt

#endif  // KERAS_LEGACY_OPT_MATH_NADAM_H_
