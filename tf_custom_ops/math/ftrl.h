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
  static constexpr int kSlots = 2, kHypers = 6;
  static constexpr bool kIdle = false;
  static constexpr bool kSumDuplicates = true;

  // What TensorFlow's sparse kernel refuses; its dense one takes anything.
  static KLO_FN const char* Refusal(const T* hyper) {
    if constexpr (kPath == Path::kDense) return nullptr;
    if (!(hyper[0] > T(0))) return "lr must be positive";
    if (!(hyper[1] <= T(0))) return "lr_power must not be positive";
    if (!(hyper[2] >= T(0))) return "l1 must not be negative";
    if (!(hyper[3] + hyper[4] / (T(2) * hyper[0]) >= T(0))) return "l2 must not be negative";
    if (!(hyper[5] >= T(0))) return "l2_shrinkage must not be negative";
    return nullptr;
  }

  T lr, l1, two_l2, two_shrinkage, power;

  KLO_FN explicit FtrlFunctor(const T* hyper)
      : lr(hyper[0]),
        l1(hyper[2]),
        two_l2(T(2) * (hyper[3] + hyper[4] / (T(2) * lr))),
        two_shrinkage(T(2) * hyper[5]),
        power(-hyper[1]) {}

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

    // The loops ask this once a step and run the special case where the hyperparameters allow it.
    using Special = FtrlFunctor<T, kPath, kShrink, true>;
    static KLO_FN bool IsSpecial(const T* hyper) { return hyper[1] == T(-0.5); }
  };
};

}  // namespace keras_legacy_opt

#endif  // KERAS_LEGACY_OPT_MATH_FTRL_H_
