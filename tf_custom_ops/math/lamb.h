// LAMB (You et al., 2020), with unbias_m = 1 - beta_1^t, unbias_v = 1 - beta_2^t:
//   m   <- beta_1 * m + (1 - beta_1) * g
//   v   <- beta_2 * v + (1 - beta_2) * g^2
//   u   =  m / unbias_m / (sqrt(v / unbias_v) + epsilon) + weight_decay * var
//   var <- var - lr * |var| / |u| * u               (where either norm is 0, or adapt is: var - lr * u)
// Sparse gradients update every row: one without gradient takes a step with g = 0.
#ifndef KERAS_LEGACY_OPT_MATH_LAMB_H_
#define KERAS_LEGACY_OPT_MATH_LAMB_H_

#include "prelude.h"

namespace keras_legacy_opt {

template <class T, Path>
struct Lamb {
  KLO_SLOTS(m, v);
  KLO_SCALAR_SLOTS(0);
  KLO_HYPERS(lr, beta_1, beta_2, unbias_m, unbias_v, epsilon, weight_decay, adapt);
  static constexpr bool kIdle = true;
  static constexpr bool kSumDuplicates = true;
  static constexpr int kDirectionReads = 3;
  static constexpr bool kNormOfVariable = true;

  T lr, beta_1, one_minus_beta_1, beta_2, one_minus_beta_2, unbias_m, unbias_v;
  T epsilon, weight_decay, adapt;

  KLO_FN explicit Lamb(const Hypers& h)
      : lr(h.lr),
        beta_1(h.beta_1),
        one_minus_beta_1(T(1) - h.beta_1),
        beta_2(h.beta_2),
        one_minus_beta_2(T(1) - h.beta_2),
        unbias_m(h.unbias_m),
        unbias_v(h.unbias_v),
        epsilon(h.epsilon),
        weight_decay(h.weight_decay),
        adapt(h.adapt) {}

  KLO_FN T Direction(T var, T& m, T& v, T g) const {
    m = MovingAverage<Average::kWeighted>(m, g, beta_1, one_minus_beta_1);
    v = MovingAverage<Average::kWeighted>(v, g * g, beta_2, one_minus_beta_2);
    return Towards(var, m, v);
  }

  KLO_FN T Scale(double var_squares, double direction_squares, T*) const {
    return adapt != T(0) ? TrustRatio(T(1), var_squares, direction_squares) * lr : lr;
  }

  KLO_FN void Move(T& var, T m, T v, T, T scale) const { MoveAlong(var, Towards(var, m, v), scale); }

  KLO_FN void MoveAlong(T& var, T direction, T scale) const { var -= scale * direction; }

 private:
  KLO_FN T Towards(T var, T m, T v) const {
    return (m / unbias_m) / (Sqrt(v / unbias_v) + epsilon) + weight_decay * var;
  }
};

KLO_FORMULA(Lamb, Lamb)

}  // namespace keras_legacy_opt

#endif  // KERAS_LEGACY_OPT_MATH_LAMB_H_
