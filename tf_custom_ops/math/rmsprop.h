// RMSprop (Hinton, 2012), in the four forms of legacy. With
//   ms <- rho * ms + (1 - rho) * g^2
//   mg <- rho * mg + (1 - rho) * g     centered only
//   d  =  ms - mg^2                    (uncentered: ms)
// the step is
//   var <- var - lr * g / (sqrt(d) + epsilon)                               without momentum
//   mom <- momentum * mom + lr * g / sqrt(d + epsilon),  var <- var - mom   with momentum
// Sparse gradients without momentum decay the averages of every row and move the rows that have a gradient.
#ifndef KERAS_LEGACY_OPT_MATH_RMSPROP_H_
#define KERAS_LEGACY_OPT_MATH_RMSPROP_H_

#include "prelude.h"

namespace keras_legacy_opt {

template <class T, Path kPath, Average kAverage>
struct RmsPropBase {
  KLO_HYPERS(lr, rho, momentum, epsilon);
  static constexpr bool kSumDuplicates = true;

  T lr, rho, one_minus_rho, momentum, epsilon;

  KLO_FN explicit RmsPropBase(const Hypers& h)
      : lr(h.lr), rho(h.rho), one_minus_rho(T(1) - h.rho), momentum(h.momentum), epsilon(h.epsilon) {}

  KLO_FN T Averaged(T a, T x) const { return MovingAverage<kAverage>(a, x, rho, one_minus_rho); }
  KLO_FN void Move(T& var, T d, T g) const { var -= lr * g / (Sqrt(d) + epsilon); }
  KLO_FN void MoveWithMomentum(T& var, T& mom, T d_plus_epsilon, T g) const {
    // The sparse kernels multiply by the inverse root.
    const T root = Sqrt(d_plus_epsilon);
    mom = mom * momentum + (kPath == Path::kDense ? (g * lr) / root : T(1) / root * lr * g);
    var -= mom;
  }
};

template <class T, Path kPath>
struct RmsProp : RmsPropBase<T, kPath, Average::kWeighted> {
  KLO_SLOTS(ms);
  static constexpr bool kIdle = true;

  using RmsPropBase<T, kPath, Average::kWeighted>::RmsPropBase;

  KLO_FN void operator()(T& var, T& ms, T g) const {
    ms = this->Averaged(ms, g * g);
    this->Move(var, ms, g);
  }

  KLO_FN void Idle(T&, T& ms) const { ms *= this->rho; }
};

template <class T, Path kPath>
struct RmsPropCentered : RmsPropBase<T, kPath, Average::kWeighted> {
  KLO_SLOTS(ms, mg);
  static constexpr bool kIdle = true;

  using RmsPropBase<T, kPath, Average::kWeighted>::RmsPropBase;

  KLO_FN void operator()(T& var, T& ms, T& mg, T g) const {
    ms = this->Averaged(ms, g * g);
    mg = this->Averaged(mg, g);
    this->Move(var, ms - mg * mg, g);
  }

  KLO_FN void Idle(T&, T& ms, T& mg) const {
    ms *= this->rho;
    mg *= this->rho;
  }
};

template <class T, Path kPath>
struct RmsPropMomentum : RmsPropBase<T, kPath, AverageOn(kPath)> {
  KLO_SLOTS(ms, mom);
  static constexpr bool kIdle = false;

  using RmsPropBase<T, kPath, AverageOn(kPath)>::RmsPropBase;

  KLO_FN void operator()(T& var, T& ms, T& mom, T g) const {
    ms = this->Averaged(ms, g * g);
    this->MoveWithMomentum(var, mom, ms + this->epsilon, g);
  }
};

template <class T, Path kPath>
struct RmsPropCenteredMomentum : RmsPropBase<T, kPath, AverageOn(kPath)> {
  KLO_SLOTS(ms, mom, mg);
  static constexpr bool kIdle = false;

  using RmsPropBase<T, kPath, AverageOn(kPath)>::RmsPropBase;

  KLO_FN void operator()(T& var, T& ms, T& mom, T& mg, T g) const {
    ms = this->Averaged(ms, g * g);
    mg = this->Averaged(mg, g);
    this->MoveWithMomentum(var, mom,
                           kPath == Path::kDense ? ms - mg * mg + this->epsilon : ms + this->epsilon - mg * mg, g);
  }
};

KLO_FORMULA(RmsProp, RmsProp)
KLO_FORMULA(RmsPropCentered, RmsPropCentered)
KLO_FORMULA(RmsPropMomentum, RmsPropMomentum)
KLO_FORMULA(RmsPropCenteredMomentum, RmsPropCenteredMomentum)

}  // namespace keras_legacy_opt

#endif  // KERAS_LEGACY_OPT_MATH_RMSPROP_H_
