// LARS (You et al., 2017): gradient descent with momentum, and a learning rate for each layer. With
//   g'  = g + weight_decay * var
//   r(d) = eeta * |var| / |d|                        (1 where either norm is 0, or adapt is)
// a step is, where the momentum holds steps ("classic"),
//   a   <- momentum * a + lr * r(g') * g'
//   var <- var - a                                   or, with Nesterov: momentum * a + lr * r(g') * g'
// and where it holds gradients ("popular"),
//   a   <- momentum * a + g'
//   d   =  a                                         or, with Nesterov: momentum * a + g'
//   var <- var - lr * r(d) * d
// Sparse gradients update every row: one without gradient takes a step with g = 0.
#ifndef KERAS_LEGACY_OPT_MATH_LARS_H_
#define KERAS_LEGACY_OPT_MATH_LARS_H_

#include "prelude.h"

namespace keras_legacy_opt {

template <bool kClassic, bool kNesterov>
struct Lars {
  template <class T, Path>
  struct Functor {
    KLO_SLOTS(accum);
    KLO_SCALAR_SLOTS(0);
    KLO_HYPERS(lr, momentum, weight_decay, eeta, adapt);
    static constexpr bool kIdle = true;
    static constexpr bool kSumDuplicates = true;
    static constexpr int kDirectionReads = kClassic ? 1 : 2;
    static constexpr bool kNormOfVariable = true;

    Hypers h;

    KLO_FN explicit Functor(const Hypers& hypers) : h(hypers) {}

    KLO_FN T Direction(T var, T& accum, T g) const {
      const T decayed = g + h.weight_decay * var;
      if constexpr (kClassic) return decayed;
      accum = h.momentum * accum + decayed;
      return Popular(accum, decayed);
    }

    KLO_FN T Scale(double var_squares, double direction_squares, T*) const {
      return h.adapt != T(0) ? TrustRatio(h.eeta, var_squares, direction_squares) * h.lr : h.lr;
    }

    KLO_FN void Move(T& var, T& accum, T g, T scale) const {
      const T decayed = g + h.weight_decay * var;
      if constexpr (kClassic) {
        const T step = scale * decayed;
        accum = h.momentum * accum + step;
        var -= kNesterov ? h.momentum * accum + step : accum;
      } else {
        var -= scale * Popular(accum, decayed);
      }
    }

   private:
    KLO_FN T Popular(T accum, T decayed) const { return kNesterov ? h.momentum * accum + decayed : accum; }
  };
};

// Named, because the commas of template arguments would split those of a macro.
template <class T, Path kPath>
using LarsClassic = typename Lars<true, false>::template Functor<T, kPath>;
template <class T, Path kPath>
using LarsClassicNesterov = typename Lars<true, true>::template Functor<T, kPath>;
template <class T, Path kPath>
using LarsPopular = typename Lars<false, false>::template Functor<T, kPath>;
template <class T, Path kPath>
using LarsPopularNesterov = typename Lars<false, true>::template Functor<T, kPath>;

KLO_FORMULA(Lars, LarsClassic)
KLO_FORMULA(LarsNesterov, LarsClassicNesterov)
KLO_FORMULA(LarsPopular, LarsPopular)
KLO_FORMULA(LarsPopularNesterov, LarsPopularNesterov)

}  // namespace keras_legacy_opt

#endif  // KERAS_LEGACY_OPT_MATH_LARS_H_
