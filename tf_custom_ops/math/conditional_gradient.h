// Conditional gradient in the Frobenius norm (Ravi et al., 2018):
//   var <- lr * var - (1 - lr) * radius * g / (|g| + epsilon)
// Of a sparse gradient, |g| is that of the rows that it has.
#ifndef KERAS_LEGACY_OPT_MATH_CONDITIONAL_GRADIENT_H_
#define KERAS_LEGACY_OPT_MATH_CONDITIONAL_GRADIENT_H_

#include "prelude.h"

namespace keras_legacy_opt {

template <class T, Path>
struct ConditionalGradient {
  KLO_SLOTS();
  KLO_SCALAR_SLOTS(0);
  KLO_HYPERS(lr, radius, epsilon);
  static constexpr bool kIdle = false;
  static constexpr bool kSumDuplicates = true;
  static constexpr int kDirectionReads = 0;
  static constexpr bool kNormOfVariable = false;

  T lr, length, epsilon;

  KLO_FN explicit ConditionalGradient(const Hypers& h)
      : lr(h.lr), length((T(1) - h.lr) * h.radius), epsilon(h.epsilon) {}

  KLO_FN T Direction(T, T g) const { return g; }

  KLO_FN T Scale(double, double direction_squares, T*) const { return NormOf(direction_squares, T()) + epsilon; }

  KLO_FN void Move(T& var, T g, T scale) const { var = var * lr - length * (g / scale); }
};

KLO_FORMULA(ConditionalGradient, ConditionalGradient)

}  // namespace keras_legacy_opt

#endif  // KERAS_LEGACY_OPT_MATH_CONDITIONAL_GRADIENT_H_
