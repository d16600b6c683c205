// Adadelta (Zeiler, 2012), with a learning rate:
//   a   <- rho * a + (1 - rho) * g^2
//   u   =  sqrt(b + epsilon) / sqrt(a + epsilon) * g
//   b   <- rho * b + (1 - rho) * u^2
//   var <- var - lr * u
#ifndef KERAS_LEGACY_OPT_MATH_ADADELTA_H_
#define KERAS_LEGACY_OPT_MATH_ADADELTA_H_

#include "prelude.h"

namespace keras_legacy_opt {

template <class T, Path>
struct Adadelta {
  KLO_SLOTS(accum_grad, accum_var);
  KLO_HYPERS(lr, rho, epsilon);
  static constexpr bool kIdle = false;
  static constexpr bool kSumDuplicates = true;

  T lr, rho, one_minus_rho, epsilon;

  KLO_FN explicit Adadelta(const Hypers& h) : lr(h.lr), rho(h.rho), one_minus_rho(T(1) - h.rho), epsilon(h.epsilon) {}

  KLO_FN void operator()(T& var, T& accum_grad, T& accum_var, T g) const {
    const T squares = Averaged(accum_grad, g * g);
    const T update = Sqrt(accum_var + epsilon) * (T(1) / Sqrt(squares + epsilon)) * g;
    accum_grad = squares;
    accum_var = Averaged(accum_var, update * update);
    var -= update * lr;
  }

 private:
  KLO_FN T Averaged(T a, T x) const { return MovingAverage<Average::kWeighted>(a, x, rho, one_minus_rho); }
};

KLO_FORMULA(Adadelta, Adadelta)

}  // namespace keras_legacy_opt

#endif  // KERAS_LEGACY_OPT_MATH_ADADELTA_H_
