// RectifiedAdam (Liu et al., 2019), AdaBelief (Zhuang et al., 2020), and their AMSGrad variants:
//   m    <- beta_1 * m + (1 - beta_1) * g
//   v    <- beta_2 * v + (1 - beta_2) * g^2                    RectifiedAdam
//   v    <- beta_2 * v + (1 - beta_2) * (g - m)^2 + epsilon    AdaBelief
//   vhat <- max(vhat, v)                                       AMSGrad only
//   m'   =  m / (1 - beta_1^t),  v' = (v or vhat) / (1 - beta_2^t)
//   step =  rectification * m' / (sqrt(v') + epsilon), or m' while the average of v is too short to be adapted to
//   var  <- var - lr * (step + weight_decay * var)
// Sparse gradients decay m and v of every row and move the rows that have a gradient.
#ifndef KERAS_LEGACY_OPT_MATH_RECTIFIED_H_
#define KERAS_LEGACY_OPT_MATH_RECTIFIED_H_

#include "prelude.h"

namespace keras_legacy_opt {

template <class T, bool kBelief>
struct RectifiedBase {
  // unbias_m and unbias_v: AdaBelief divides by them, RectifiedAdam multiplies by them, as tensorflow_addons does.
  KLO_HYPERS(lr, beta_1, beta_2, unbias_m, unbias_v, rectification, is_adaptive, epsilon, weight_decay);
  static constexpr bool kIdle = true;
  static constexpr bool kSumDuplicates = true;

  Hypers h;
  T one_minus_beta_1, one_minus_beta_2;

  KLO_FN explicit RectifiedBase(const Hypers& hypers)
      : h(hypers), one_minus_beta_1(T(1) - h.beta_1), one_minus_beta_2(T(1) - h.beta_2) {}

  KLO_FN void Moments(T& m, T& v, T g) const {
    m = MovingAverage<Average::kWeighted>(m, g, h.beta_1, one_minus_beta_1);
    if constexpr (kBelief) {
      const T surprise = g - m;
      v = h.beta_2 * v + (one_minus_beta_2 * (surprise * surprise) + h.epsilon);
    } else {
      v = MovingAverage<Average::kWeighted>(v, g * g, h.beta_2, one_minus_beta_2);
    }
  }

  KLO_FN void Move(T& var, T m, T v) const {
    const T mean = kBelief ? m / h.unbias_m : m * h.unbias_m;
    const T root = Sqrt(kBelief ? v / h.unbias_v : v * h.unbias_v);
    const T adapted = h.rectification * mean / (root + h.epsilon);
    var -= h.lr * ((h.is_adaptive != T(0) ? adapted : mean) + h.weight_decay * var);
  }

  KLO_FN void Decay(T& m, T& v) const {
    m *= h.beta_1;
    v *= h.beta_2;
  }
};

template <bool kBelief>
struct Rectified {
  template <class T, Path>
  struct Functor : RectifiedBase<T, kBelief> {
    KLO_SLOTS(m, v);

    using RectifiedBase<T, kBelief>::RectifiedBase;

    KLO_FN void operator()(T& var, T& m, T& v, T g) const {
      this->Moments(m, v, g);
      this->Move(var, m, v);
    }

    KLO_FN void Idle(T&, T& m, T& v) const { this->Decay(m, v); }
  };

  template <class T, Path>
  struct Amsgrad : RectifiedBase<T, kBelief> {
    KLO_SLOTS(m, v, vhat);

    using RectifiedBase<T, kBelief>::RectifiedBase;

    KLO_FN void operator()(T& var, T& m, T& v, T& vhat, T g) const {
      this->Moments(m, v, g);
      vhat = MaxOrNan(vhat, v);
      this->Move(var, m, vhat);
    }

    KLO_FN void Idle(T&, T& m, T& v, T&) const { this->Decay(m, v); }
  };
};

KLO_FORMULA(RectifiedAdam, Rectified<false>::Functor)
KLO_FORMULA(RectifiedAdamAmsgrad, Rectified<false>::Amsgrad)
KLO_FORMULA(AdaBelief, Rectified<true>::Functor)
KLO_FORMULA(AdaBeliefAmsgrad, Rectified<true>::Amsgrad)

}  // namespace keras_legacy_opt

#endif  // KERAS_LEGACY_OPT_MATH_RECTIFIED_H_
