// Lion (Chen et al., 2023, arXiv:2302.06675):
//   c   =  beta_1 * m + (1 - beta_1) * g
//   var <- var - lr * (sign(c) + weight_decay * var)
//   m   <- beta_2 * m + (1 - beta_2) * g
#ifndef KERAS_LEGACY_OPT_MATH_LION_H_
#define KERAS_LEGACY_OPT_MATH_LION_H_

#include "prelude.h"

namespace keras_legacy_opt {

template <class T, Path>
struct Lion {
  KLO_SLOTS(m);
  KLO_HYPERS(lr, beta_1, beta_2, weight_decay);
  static constexpr bool kIdle = false;
  static constexpr bool kSumDuplicates = true;

  Hypers h;

  KLO_FN explicit Lion(const Hypers& hypers) : h(hypers) {}

  KLO_FN void operator()(T& var, T& m, T g) const {
    const T c = MovingAverage<Average::kWeighted>(m, g, h.beta_1, T(1) - h.beta_1);
    m = MovingAverage<Average::kWeighted>(m, g, h.beta_2, T(1) - h.beta_2);
    var -= h.lr * (Sign(c) + h.weight_decay * var);
  }
};

KLO_FORMULA(Lion, Lion)

}  // namespace keras_legacy_opt

#endif  // KERAS_LEGACY_OPT_MATH_LION_H_
