// Gradient descent, with momentum in the Keras convention (the accumulator holds steps, not gradients):
//   a   <- momentum * a - lr * g
//   var <- var + a                      plain
//   var <- var + momentum * a - lr * g  Nesterov (Sutskever et al., 2013)
#ifndef KERAS_LEGACY_OPT_MATH_SGD_H_
#define KERAS_LEGACY_OPT_MATH_SGD_H_

#include "prelude.h"

namespace keras_legacy_opt {

template <class T, Path>
struct Sgd {
  KLO_SLOTS();
  KLO_HYPERS(lr);
  static constexpr bool kIdle = false;
  static constexpr bool kSumDuplicates = false;  // legacy scatters them one after the other

  T lr;

  KLO_FN explicit Sgd(const Hypers& h) : lr(h.lr) {}

  KLO_FN void operator()(T& var, T g) const { var -= g * lr; }
};

template <bool kNesterov>
struct Momentum {
  template <class T, Path>
  struct Functor {
    KLO_SLOTS(accum);
    KLO_HYPERS(lr, momentum);
    static constexpr bool kIdle = false;
    static constexpr bool kSumDuplicates = true;

    T lr, momentum;

    KLO_FN explicit Functor(const Hypers& h) : lr(h.lr), momentum(h.momentum) {}

    KLO_FN void operator()(T& var, T& accum, T g) const {
      const T step = accum * momentum - g * lr;
      accum = step;
      var += kNesterov ? step * momentum - g * lr : step;
    }
  };
};

KLO_FORMULA(Sgd, Sgd)
KLO_FORMULA(Momentum, Momentum<false>::Functor)
KLO_FORMULA(Nesterov, Momentum<true>::Functor)

}  // namespace keras_legacy_opt

#endif  // KERAS_LEGACY_OPT_MATH_SGD_H_
