// Adagrad (Duchi et al., 2011):
//   a   <- a + g^2
//   var <- var - lr * g / (sqrt(a) + epsilon)
#ifndef KERAS_LEGACY_OPT_MATH_ADAGRAD_H_
#define KERAS_LEGACY_OPT_MATH_ADAGRAD_H_

#include "prelude.h"

namespace keras_legacy_opt {

template <class T, Path>
struct Adagrad {
  KLO_SLOTS(accum);
  KLO_HYPERS(lr, epsilon);
  static constexpr bool kIdle = false;
  static constexpr bool kSumDuplicates = true;

  T lr, epsilon;

  KLO_FN explicit Adagrad(const Hypers& h) : lr(h.lr), epsilon(h.epsilon) {}

  KLO_FN void operator()(T& var, T& accum, T g) const {
    const T squares = accum + g * g;
    accum = squares;
    var -= g * lr / (Sqrt(squares) + epsilon);
  }
};

KLO_FORMULA(Adagrad, Adagrad)

}  // namespace keras_legacy_opt

#endif  // KERAS_LEGACY_OPT_MATH_ADAGRAD_H_
