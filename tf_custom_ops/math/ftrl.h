// FTRL-proximal (McMahan et al., 2013), with p = -learning_rate_power:
//   s      =  g + 2 * l2_shrinkage * var              (without shrinkage: g)
//   n'     =  n + g^2
//   linear <- linear + s - (n'^p - n^p) / lr * var
//   var    <- (clip(linear, -l1, l1) - linear) / (n'^p / lr + 2 * l2),  l2 = l2_regularization + beta / (2 * lr)
//   n      <- n'
#ifndef KERAS_LEGACY_OPT_MATH_FTRL_H_
#define KERAS_LEGACY_OPT_MATH_FTRL_H_

#include "prelude.h"

namespace keras_legacy_opt {

// kRoot: learning_rate_power is -0.5, so that n^p is a square root and the loop vectorises.
template <class T, Path kPath, bool kShrink, bool kRoot>
struct FtrlFunctor {
  KLO_SLOTS(accum, linear);
  KLO_HYPERS(lr, lr_power, l1, l2, beta, l2_shrinkage);
  static constexpr bool kIdle = false;
  static constexpr bool kSumDuplicates = true;

  // What TensorFlow's sparse kernel refuses; its dense one takes anything.
  static KLO_FN const char* Refusal(const Hypers& h) {
    if constexpr (kPath == Path::kDense) return nullptr;
    if (!(h.lr > T(0))) return "lr must be positive";
    if (!(h.lr_power <= T(0))) return "lr_power must not be positive";
    if (!(h.l1 >= T(0))) return "l1 must not be negative";
    if (!(h.l2 + h.beta / (T(2) * h.lr) >= T(0))) return "l2 must not be negative";
    if (!(h.l2_shrinkage >= T(0))) return "l2_shrinkage must not be negative";
    return nullptr;
  }

  T lr, l1, two_l2, two_shrinkage, power;

  KLO_FN explicit FtrlFunctor(const Hypers& h)
      : lr(h.lr),
        l1(h.l1),
        two_l2(T(2) * (h.l2 + h.beta / (T(2) * lr))),
        two_shrinkage(T(2) * h.l2_shrinkage),
        power(-h.lr_power) {}

  KLO_FN void operator()(T& var, T& accum, T& linear, T g) const {
    const T shrunk = kShrink ? g + two_shrinkage * var : g;
    const T squares = accum + g * g;
    const T power_now = Powered(squares);
    const T z = linear + (shrunk - (power_now - Powered(accum)) / lr * var);
    accum = squares;
    linear = z;
    var = Shrunk(z, power_now / lr + two_l2);
  }

 private:
  // Where z is NaN, or the quotient has no value, TensorFlow's dense kernel yields 0, its sparse one NaN.
  KLO_FN T Shrunk(T z, T quadratic) const {
    const T moved = (Max(Min(z, l1), -l1) - z) / quadratic;
    return kPath == Path::kSparse || Abs(z) > l1 ? moved : T(0);
  }

  KLO_FN T Powered(T n) const { return kRoot ? Sqrt(n) : Pow(n, power); }
};

template <bool kShrink>
struct Ftrl {
  template <class T, Path kPath>
  struct Functor : FtrlFunctor<T, kPath, kShrink, false> {
    using FtrlFunctor<T, kPath, kShrink, false>::FtrlFunctor;
    using typename FtrlFunctor<T, kPath, kShrink, false>::Hypers;

    // The loops ask this once a step and run the special case where the hyperparameters allow it.
    using Special = FtrlFunctor<T, kPath, kShrink, true>;
    static KLO_FN bool IsSpecial(const Hypers& h) { return h.lr_power == T(-0.5); }
  };
};

KLO_FORMULA(Ftrl, Ftrl<false>::Functor)
KLO_FORMULA(FtrlShrinkage, Ftrl<true>::Functor)

}  // namespace keras_legacy_opt

#endif  // KERAS_LEGACY_OPT_MATH_FTRL_H_
