// Yogi (Zaheer et al., 2018), with proximal regularization:
//   m   <- beta_1 * m + (1 - beta_1) * g                       YogiMomentum only; else m = g
//   v   <- v + (1 - beta_2) * sign(g^2 - v) * g^2
//   a   =  lr * sqrt(1 - beta_2^t) / (1 - beta_1^t) / (sqrt(v) + epsilon)
//   x   =  var - a * m
//   var <- sign(x) * max(|x| - l1 * a, 0) / (1 + l2 * a)
// Sparse gradients decay m of every row.
#ifndef KERAS_LEGACY_OPT_MATH_YOGI_H_
#define KERAS_LEGACY_OPT_MATH_YOGI_H_

#include "prelude.h"

namespace keras_legacy_opt {

template <class T, Path>
struct Yogi {
  KLO_SLOTS(v);
  KLO_HYPERS(lr, beta_1_power, beta_2_power, beta_1, beta_2, epsilon, l1, l2);
  static constexpr bool kIdle = false;
  static constexpr bool kSumDuplicates = true;

  T lr, beta_1, one_minus_beta_1, one_minus_beta_2, epsilon, l1, l2;

  KLO_FN explicit Yogi(const Hypers& h)
      : lr(h.lr * Sqrt(T(1) - h.beta_2_power) / (T(1) - h.beta_1_power)),
        beta_1(h.beta_1),
        one_minus_beta_1(T(1) - h.beta_1),
        one_minus_beta_2(T(1) - h.beta_2),
        epsilon(h.epsilon),
        l1(h.l1),
        l2(h.l2) {}

  KLO_FN void operator()(T& var, T& v, T g) const { Move(var, v, g, g); }

  KLO_FN void Move(T& var, T& v, T m, T g) const {
    const T square = g * g;
    v += one_minus_beta_2 * Sign(square - v) * square;
    const T rate = lr / (Sqrt(v) + epsilon);
    const T x = var - rate * m, threshold = l1 * rate;
    const T shrunk = (x - threshold * Sign(x)) / (T(1) + l2 * rate);
    var = Abs(x) > threshold ? shrunk : T(0) * shrunk;  // NaN stays.
  }
};

template <class T, Path kPath>
struct YogiMomentum : Yogi<T, kPath> {
  KLO_SLOTS(m, v);
  static constexpr bool kIdle = true;

  using Yogi<T, kPath>::Yogi;

  KLO_FN void operator()(T& var, T& m, T& v, T g) const {
    m = MovingAverage<Average::kWeighted>(m, g, this->beta_1, this->one_minus_beta_1);
    this->Move(var, v, m, g);
  }

  KLO_FN void Idle(T&, T& m, T&) const { m *= this->beta_1; }
};

KLO_FORMULA(Yogi, Yogi)
KLO_FORMULA(YogiMomentum, YogiMomentum)

}  // namespace keras_legacy_opt

#endif  // KERAS_LEGACY_OPT_MATH_YOGI_H_
