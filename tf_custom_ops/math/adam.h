// Adam (Kingma & Ba, 2014, the efficient form before section 2.1) and AMSGrad (Reddi et al., 2018):
//   m    <- beta_1 * m + (1 - beta_1) * g
//   v    <- beta_2 * v + (1 - beta_2) * g^2
//   vhat <- max(vhat, v)                                   AMSGrad only
//   var  <- var - alpha * m / (sqrt(v or vhat) + epsilon),  alpha = lr * sqrt(1 - beta_2^t) / (1 - beta_1^t)
// Sparse gradients update every row: one without gradient takes a step with g = 0. LazyAdam's leave such a row alone.
#ifndef KERAS_LEGACY_OPT_MATH_ADAM_H_
#define KERAS_LEGACY_OPT_MATH_ADAM_H_

#include "prelude.h"

namespace keras_legacy_opt {

template <class T, Path kPath>
struct Adam {
  KLO_SLOTS(m, v);
  KLO_HYPERS(lr, beta_1_power, beta_2_power, beta_1, beta_2, epsilon);
  static constexpr bool kIdle = true;
  static constexpr bool kSumDuplicates = true;

  T alpha, beta_1, one_minus_beta_1, beta_2, one_minus_beta_2, epsilon;

  KLO_FN explicit Adam(const Hypers& h)
      : alpha(BiasCorrectedRate(h.lr, h.beta_1_power, h.beta_2_power)),
        beta_1(h.beta_1),
        one_minus_beta_1(T(1) - h.beta_1),
        beta_2(h.beta_2),
        one_minus_beta_2(T(1) - h.beta_2),
        epsilon(h.epsilon) {}

  KLO_FN void operator()(T& var, T& m, T& v, T g) const {
    Moments(m, v, g);
    Move(var, m, v);
  }

  KLO_FN void Idle(T& var, T& m, T& v) const { (*this)(var, m, v, T(0)); }

  KLO_FN void Moments(T& m, T& v, T g) const {
    m = MovingAverage<AverageOn(kPath)>(m, g, beta_1, one_minus_beta_1);
    v = MovingAverage<AverageOn(kPath)>(v, g * g, beta_2, one_minus_beta_2);
  }

  KLO_FN void Move(T& var, T m, T v) const { var -= (m * alpha) / (Sqrt(v) + epsilon); }

  static KLO_FN T BiasCorrectedRate(T lr, T beta_1_power, T beta_2_power) {
    const T root = Sqrt(T(1) - beta_2_power), rest = T(1) - beta_1_power;
    return kPath == Path::kDense ? lr * root / rest : lr * (root / rest);
  }
};

template <class T, Path kPath>
struct AdamAmsgrad : Adam<T, kPath> {
  KLO_SLOTS(m, v, vhat);

  using Adam<T, kPath>::Adam;

  KLO_FN void operator()(T& var, T& m, T& v, T& vhat, T g) const {
    this->Moments(m, v, g);
    vhat = MaxOn<kPath>(vhat, v);
    this->Move(var, m, vhat);
  }

  KLO_FN void Idle(T& var, T& m, T& v, T& vhat) const { (*this)(var, m, v, vhat, T(0)); }
};

// With the slots of Base, Adam or AdamAmsgrad.
template <template <class, Path> class Base>
struct Lazy {
  template <class T, Path kPath>
  struct Functor : Base<T, kPath> {
    using typename Base<T, kPath>::Hypers;
    static constexpr bool kIdle = false;

    // Of sparse gradients, too, tensorflow_addons rounds the rate as Adam's dense kernel does.
    KLO_FN explicit Functor(const Hypers& h) : Base<T, kPath>(h) {
      this->alpha = Adam<T, Path::kDense>::BiasCorrectedRate(h.lr, h.beta_1_power, h.beta_2_power);
    }
  };
};

KLO_FORMULA(Adam, Adam)
KLO_FORMULA(AdamAmsgrad, AdamAmsgrad)
KLO_FORMULA(LazyAdam, Lazy<Adam>::Functor)
KLO_FORMULA(LazyAdamAmsgrad, Lazy<AdamAmsgrad>::Functor)

}  // namespace keras_legacy_opt

#endif  // KERAS_LEGACY_OPT_MATH_ADAM_H_
