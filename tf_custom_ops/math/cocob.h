// COCOB-Backprop (Orabona and Tommasi, 2017), which bets on every coordinate and has no learning rate:
//   scale  <- max(scale, |g|)
//   norms  <- norms + |g|
//   sum    <- sum + g
//   reward <- max(reward - g * bet, 0)
//   bet'   =  -sum / (scale * max(norms + scale, alpha * scale)) * (reward + scale)
//   var    <- var - lr * bet + lr * bet',  bet <- bet'       lr: 1, or a factor that the variable has
#ifndef KERAS_LEGACY_OPT_MATH_COCOB_H_
#define KERAS_LEGACY_OPT_MATH_COCOB_H_

#include "prelude.h"

namespace keras_legacy_opt {

template <class T, Path>
struct Cocob {
  KLO_SLOTS(scale, norms, sum, bet, reward);
  KLO_HYPERS(lr, alpha);
  static constexpr bool kIdle = false;
  static constexpr bool kSumDuplicates = true;

  T lr, alpha;

  KLO_FN explicit Cocob(const Hypers& h) : lr(h.lr), alpha(h.alpha) {}

  KLO_FN void operator()(T& var, T& scale, T& norms, T& sum, T& bet, T& reward, T g) const {
    scale = MaxOrNan(scale, Abs(g));
    norms += Abs(g);
    sum += g;
    reward = MaxOrNan(reward - g * bet, T(0));
    const T largest = MaxOrNan(norms + scale, alpha * scale);
    const T next = -sum / (scale * largest) * (reward + scale);
    var = var - lr * bet + lr * next;
    bet = next;
  }
};

KLO_FORMULA(Cocob, Cocob)

}  // namespace keras_legacy_opt

#endif  // KERAS_LEGACY_OPT_MATH_COCOB_H_
