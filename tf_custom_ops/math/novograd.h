// NovoGrad (Ginsburg et al., 2019): the second moment is one number for each variable.
//   v   <- v_decay * v + v_weight * |g|^2
//   g'  =  (g / (sqrt(v) + epsilon) + weight_decay * var) * grad_weight
//   m   <- beta_1 * m - lr * g'
//   var <- var + m
// With AMSGrad, sqrt(v) is sqrt(vhat), where vhat <- max(vhat, v) has the variable's shape. v_decay is 0 and v_weight 1
// in the first step. Sparse gradients update their rows only.
#ifndef KERAS_LEGACY_OPT_MATH_NOVOGRAD_H_
#define KERAS_LEGACY_OPT_MATH_NOVOGRAD_H_

#include "prelude.h"

namespace keras_legacy_opt {

template <class T, Path>
struct NovoGrad {
  KLO_SLOTS(m, v);
  KLO_SCALAR_SLOTS(1);
  KLO_HYPERS(lr, beta_1, v_decay, v_weight, epsilon, weight_decay, grad_weight);
  static constexpr bool kIdle = false;
  static constexpr bool kSumDuplicates = true;
  static constexpr int kDirectionReads = 0;
  static constexpr bool kNormOfVariable = false;

  Hypers h;

  KLO_FN explicit NovoGrad(const Hypers& hypers) : h(hypers) {}

  KLO_FN T Direction(T, T, T g) const { return g; }

  KLO_FN T Scale(double, double direction_squares, T* v) const {
    return Sqrt(Moment(direction_squares, v)) + h.epsilon;
  }

  KLO_FN void Move(T& var, T& m, T g, T scale) const {
    m = m * h.beta_1 - (g / scale + h.weight_decay * var) * h.grad_weight * h.lr;
    var += m;
  }

  KLO_FN T Moment(double squares, T* v) const { return *v = *v * h.v_decay + static_cast<T>(squares) * h.v_weight; }
};

template <class T, Path kPath>
struct NovoGradAmsgrad : NovoGrad<T, kPath> {
  KLO_SLOTS(m, vhat, v);

  using NovoGrad<T, kPath>::NovoGrad;

  KLO_FN T Direction(T, T, T, T g) const { return g; }

  KLO_FN T Scale(double, double direction_squares, T* v) const { return this->Moment(direction_squares, v); }

  KLO_FN void Move(T& var, T& m, T& vhat, T g, T scale) const {
    vhat = MaxOrNan(vhat, scale);
    NovoGrad<T, kPath>::Move(var, m, g, Sqrt(vhat) + this->h.epsilon);
  }
};

KLO_FORMULA(NovoGrad, NovoGrad)
KLO_FORMULA(NovoGradAmsgrad, NovoGradAmsgrad)

}  // namespace keras_legacy_opt

#endif  // KERAS_LEGACY_OPT_MATH_NOVOGRAD_H_
