// The textbook formulas, in long double, written independently of math/: what the functors are tested against.
#ifndef KERAS_LEGACY_OPT_TESTS_FORMULAS_H_
#define KERAS_LEGACY_OPT_TESTS_FORMULAS_H_

#include <algorithm>
#include <cmath>
#include <vector>

#include "../math/adadelta.h"
#include "../math/adagrad.h"
#include "../math/adam.h"
#include "../math/adamax.h"
#include "../math/cocob.h"
#include "../math/conditional_gradient.h"
#include "../math/ftrl.h"
#include "../math/lamb.h"
#include "../math/lars.h"
#include "../math/lion.h"
#include "../math/nadam.h"
#include "../math/novograd.h"
#include "../math/proximal_adagrad.h"
#include "../math/rectified.h"
#include "../math/rmsprop.h"
#include "../math/sgd.h"
#include "../math/yogi.h"

namespace keras_legacy_opt {

using Real = long double;
using Hypers = const std::vector<Real>&;

// step(s, g, h): s[0] is the variable, s[1...] its slots.
// idle: what happens to a row without gradient; null where nothing does.
struct Formula {
  const char* name;
  std::vector<Real> hypers;
  std::vector<Real> first_state;
  void (*step)(Real* s, Real g, Hypers h);
  void (*idle)(Real* s, Hypers h);
  bool bounded = false;    // whether an infinite gradient moves the variable no further than others do
  Real smallest_slot = 0;  // what the first slot is at least
};

inline Real Blend(Real a, Real x, Real decay) { return decay * a + (1 - decay) * x; }

inline Formula SgdFormula() {
  return {"Sgd", {0.01L}, {0.5L}, [](Real* s, Real g, Hypers h) { s[0] -= h[0] * g; }, nullptr};
}

template <bool kNesterov>
Formula MomentumFormula() {
  return {"Momentum",
          {0.01L, 0.9L},
          {0.5L, 0.02L},
          [](Real* s, Real g, Hypers h) {
            s[1] = h[1] * s[1] - h[0] * g;
            s[0] += kNesterov ? h[1] * s[1] - h[0] * g : s[1];
          },
          nullptr};
}

template <bool kAmsgrad>
Formula AdamFormula() {
  static const auto step = [](Real* s, Real g, Hypers h) {
    const Real alpha = h[0] * std::sqrt(1 - h[2]) / (1 - h[1]);
    s[1] = Blend(s[1], g, h[3]);
    s[2] = Blend(s[2], g * g, h[4]);
    if (kAmsgrad) s[3] = std::max(s[3], s[2]);
    s[0] -= alpha * s[1] / (std::sqrt(s[kAmsgrad ? 3 : 2]) + h[5]);
  };
  std::vector<Real> state = {0.5L, 0.02L, 0.01L};
  if (kAmsgrad) state.push_back(0.011L);
  return {"Adam",
          {0.001L, 0.729L, 0.997002999L, 0.9L, 0.999L, 1e-7L},
          state,
          [](Real* s, Real g, Hypers h) { step(s, g, h); },
          [](Real* s, Hypers h) { step(s, 0, h); }};
}

template <bool kAmsgrad>
Formula LazyAdamFormula() {
  Formula formula = AdamFormula<kAmsgrad>();
  formula.idle = nullptr;
  return formula;
}

template <bool kMomentum, bool kCentered>
Formula RmsPropFormula() {
  static const auto mg = kMomentum ? 3 : 2;
  std::vector<Real> state = {0.5L, 0.5L};
  if (kMomentum) state.push_back(0.02L);
  if (kCentered) state.push_back(0.1L);
  Formula formula = {"RmsProp", {0.001L, 0.9L, 0.8L, 1e-3L}, state, nullptr, nullptr};
  formula.step = [](Real* s, Real g, Hypers h) {
    s[1] = Blend(s[1], g * g, h[1]);
    if (kCentered) s[mg] = Blend(s[mg], g, h[1]);
    const Real d = kCentered ? s[1] - s[mg] * s[mg] : s[1];
    if (kMomentum) {
      s[2] = h[2] * s[2] + h[0] * g / std::sqrt(d + h[3]);
      s[0] -= s[2];
    } else {
      s[0] -= h[0] * g / (std::sqrt(d) + h[3]);
    }
  };
  if (!kMomentum) {
    formula.idle = [](Real* s, Hypers h) {
      s[1] *= h[1];
      if (kCentered) s[mg] *= h[1];
    };
  }
  return formula;
}

inline Formula AdadeltaFormula() {
  return {"Adadelta",
          {0.5L, 0.95L, 1e-6L},
          {0.5L, 0.1L, 0.01L},
          [](Real* s, Real g, Hypers h) {
            s[1] = Blend(s[1], g * g, h[1]);
            const Real u = std::sqrt((s[2] + h[2]) / (s[1] + h[2])) * g;
            s[2] = Blend(s[2], u * u, h[1]);
            s[0] -= h[0] * u;
          },
          nullptr};
}

inline Formula AdagradFormula() {
  return {"Adagrad",
          {0.01L, 1e-7L},
          {0.5L, 0.1L},
          [](Real* s, Real g, Hypers h) {
            s[1] += g * g;
            s[0] -= h[0] * g / (std::sqrt(s[1]) + h[1]);
          },
          nullptr};
}

inline Formula AdamaxFormula() {
  return {"Adamax",
          {0.001L, 0.729L, 0.9L, 0.999L, 1e-7L},
          {0.5L, 0.02L, 0.3L},
          [](Real* s, Real g, Hypers h) {
            s[1] = Blend(s[1], g, h[2]);
            s[2] = std::max(h[3] * s[2], std::fabs(g));
            s[0] -= h[0] / (1 - h[1]) * s[1] / (s[2] + h[4]);
          },
          nullptr};
}

inline Formula NadamFormula() {
  return {"Nadam",
          {0.001L, 0.9L, 0.999L, 0.45L, 0.56L, 0.7L, 0.85L, 0.003L, 1e-7L},
          {0.5L, 0.02L, 0.01L},
          [](Real* s, Real g, Hypers h) {
            s[1] = Blend(s[1], g, h[1]);
            s[2] = Blend(s[2], g * g, h[2]);
            const Real ahead = h[3] * g / h[5] + h[4] * s[1] / h[6];
            s[0] -= h[0] * ahead / (std::sqrt(s[2] / h[7]) + h[8]);
          },
          [](Real* s, Hypers h) {
            s[1] *= h[1];
            s[2] *= h[2];
          }};
}

template <bool kShrink>
Formula FtrlFormula(Real power) {
  Formula formula = {"Ftrl", {0.05L, power, 0.01L, 0.02L, 0.3L, 0.04L}, {0.5L, 0.1L, -0.3L}, nullptr, nullptr};
  formula.step = [](Real* s, Real g, Hypers h) {
    const Real n = s[1] + g * g, l2 = h[3] + h[4] / (2 * h[0]);
    const Real sigma = (std::pow(n, -h[1]) - std::pow(s[1], -h[1])) / h[0];
    s[2] += (kShrink ? g + 2 * h[5] * s[0] : g) - sigma * s[0];
    const Real sign = s[2] > 0 ? 1 : -1;
    s[0] = std::fabs(s[2]) > h[2] ? (sign * h[2] - s[2]) / (std::pow(n, -h[1]) / h[0] + 2 * l2) : 0;
    s[1] = n;
  };
  return formula;
}

inline Formula LionFormula() {
  return {"Lion",
          {0.01L, 0.9L, 0.99L, 0.1L},
          {0.5L, 0.02L},
          [](Real* s, Real g, Hypers h) {
            const Real c = Blend(s[1], g, h[1]);
            s[0] -= h[0] * ((c > 0) - (c < 0) + h[3] * s[0]);
            s[1] = Blend(s[1], g, h[2]);
          },
          nullptr,
          true};
}

template <bool kBelief, bool kAmsgrad>
Formula RectifiedFormula(Real is_adaptive) {
  std::vector<Real> state = {0.5L, 0.02L, 0.1L};
  if (kAmsgrad) state.push_back(0.11L);
  // Of an average of squares, AdaBelief divides by what is left, and RectifiedAdam multiplies by its inverse.
  const Real rest_1 = 0.271L, rest_2 = 0.3L;
  return {
      "Rectified",
      {0.01L, 0.9L, 0.8L, kBelief ? rest_1 : 1 / rest_1, kBelief ? rest_2 : 1 / rest_2, 0.6L, is_adaptive, 1e-3L, 0.2L},
      state,
      [](Real* s, Real g, Hypers h) {
        s[1] = Blend(s[1], g, h[1]);
        s[2] = kBelief ? Blend(s[2], (g - s[1]) * (g - s[1]), h[2]) + h[7] : Blend(s[2], g * g, h[2]);
        if (kAmsgrad) s[3] = std::max(s[3], s[2]);
        const Real v = s[kAmsgrad ? 3 : 2];
        const Real mean = kBelief ? s[1] / h[3] : s[1] * h[3];
        const Real root = std::sqrt(kBelief ? v / h[4] : v * h[4]);
        s[0] -= h[0] * ((h[6] != 0 ? h[5] * mean / (root + h[7]) : mean) + h[8] * s[0]);
      },
      [](Real* s, Hypers h) {
        s[1] *= h[1];
        s[2] *= h[2];
      }};
}

// Minimizes (w - x)^2 / (2 * rate) + l1 * |w| + l2 * w^2 / 2.
inline Real Proximal(Real x, Real rate, Real l1, Real l2) {
  const Real sign = x > 0 ? 1 : -1;
  return sign * std::max(std::fabs(x) - l1 * rate, Real(0)) / (1 + l2 * rate);
}

template <bool kMomentum>
Formula YogiFormula() {
  Formula formula = {"Yogi", {0.01L, 0.729L, 0.512L, 0.9L, 0.8L, 1e-2L, 0.2L, 0.3L}, {0.5L, 0.1L}, nullptr, nullptr};
  if (kMomentum) formula.first_state = {0.5L, 0.02L, 0.1L};
  formula.step = [](Real* s, Real g, Hypers h) {
    Real& v = s[kMomentum ? 2 : 1];
    if (kMomentum) s[1] = Blend(s[1], g, h[3]);
    v -= (1 - h[4]) * ((v > g * g) - (v < g * g)) * g * g;
    const Real rate = h[0] * std::sqrt(1 - h[2]) / (1 - h[1]) / (std::sqrt(v) + h[5]);
    s[0] = Proximal(s[0] - rate * (kMomentum ? s[1] : g), rate, h[6], h[7]);
  };
  if (kMomentum) formula.idle = [](Real* s, Hypers h) { s[1] *= h[3]; };
  return formula;
}

inline Formula ProximalAdagradFormula() {
  return {"ProximalAdagrad",
          {0.01L, 0.2L, 0.3L},
          {0.5L, 0.1L},
          [](Real* s, Real g, Hypers h) {
            s[1] += g * g;
            const Real rate = h[0] / std::sqrt(s[1]);
            s[0] = Proximal(s[0] - rate * g, rate, h[1], h[2]);
          },
          nullptr,
          false,
          1e-8L};
}

inline Formula CocobFormula() {
  return {"Cocob",
          {0.8L, 50},
          {0.5L, 0.8L, 2, 0.3L, -0.02L, 0.1L},
          [](Real* s, Real g, Hypers h) {
            s[1] = std::max(s[1], std::fabs(g));
            s[2] += std::fabs(g);
            s[3] += g;
            s[5] = std::max(s[5] - g * s[4], Real(0));
            const Real beta = s[3] / (s[1] * std::max(s[2] + s[1], h[1] * s[1]));
            s[0] -= h[0] * s[4];
            s[4] = -beta * (s[1] + s[5]);
            s[0] += h[0] * s[4];
          },
          nullptr,
          false,
          1e-8L};
}

// Calls visit with each functor and its formula.
template <class Visitor>
void ForEachFormula(Visitor visit) {
  visit.template operator()<Sgd>(SgdFormula());
  visit.template operator()<Momentum<false>::Functor>(MomentumFormula<false>());
  visit.template operator()<Momentum<true>::Functor>(MomentumFormula<true>());
  visit.template operator()<Adam>(AdamFormula<false>());
  visit.template operator()<AdamAmsgrad>(AdamFormula<true>());
  visit.template operator()<RmsProp>(RmsPropFormula<false, false>());
  visit.template operator()<RmsPropCentered>(RmsPropFormula<false, true>());
  visit.template operator()<RmsPropMomentum>(RmsPropFormula<true, false>());
  visit.template operator()<RmsPropCenteredMomentum>(RmsPropFormula<true, true>());
  visit.template operator()<Adadelta>(AdadeltaFormula());
  visit.template operator()<Adagrad>(AdagradFormula());
  visit.template operator()<Adamax>(AdamaxFormula());
  visit.template operator()<Nadam>(NadamFormula());
  visit.template operator()<Ftrl<false>::Functor>(FtrlFormula<false>(-0.5L));
  visit.template operator()<Ftrl<true>::Functor>(FtrlFormula<true>(-0.5L));
  visit.template operator()<Ftrl<false>::Functor>(FtrlFormula<false>(-0.7L));
  visit.template operator()<Lion>(LionFormula());
  visit.template operator()<Lazy<Adam>::Functor>(LazyAdamFormula<false>());
  visit.template operator()<Lazy<AdamAmsgrad>::Functor>(LazyAdamFormula<true>());
  visit.template operator()<Rectified<false>::Functor>(RectifiedFormula<false, false>(1));
  visit.template operator()<Rectified<false>::Functor>(RectifiedFormula<false, false>(0));
  visit.template operator()<Rectified<false>::Amsgrad>(RectifiedFormula<false, true>(1));
  visit.template operator()<Rectified<true>::Functor>(RectifiedFormula<true, false>(1));
  visit.template operator()<Rectified<true>::Amsgrad>(RectifiedFormula<true, true>(1));
  visit.template operator()<Yogi>(YogiFormula<false>());
  visit.template operator()<YogiMomentum>(YogiFormula<true>());
  visit.template operator()<ProximalAdagrad>(ProximalAdagradFormula());
  visit.template operator()<Cocob>(CocobFormula());
}

// A formula with norms. step(s, g, h): s[0] is the whole variable, s[1...] its slots; of a scalar slot, one element.
struct NormFormula {
  const char* name;
  std::vector<Real> hypers;
  std::vector<Real> first_state;
  void (*step)(std::vector<std::vector<Real>>& s, const std::vector<Real>& g, Hypers h);
};

inline Real Norm(const std::vector<Real>& x) {
  Real sum = 0;
  for (Real each : x) sum += each * each;
  return std::sqrt(sum);
}

// What a step along d is multiplied by.
inline Real Trust(Real eeta, const std::vector<Real>& w, const std::vector<Real>& d, Real adapt) {
  const Real norm = Norm(w), other = Norm(d);
  return adapt != 0 && norm > 0 && other > 0 ? eeta * norm / other : 1;
}

inline NormFormula LambFormula(Real adapt) {
  return {"Lamb",
          {0.01L, 0.9L, 0.999L, 0.271L, 0.002997001L, 1e-6L, 0.1L, adapt},
          {0.5L, 0.02L, 0.01L},
          [](auto& s, const auto& g, Hypers h) {
            std::vector<Real> d(g.size());
            for (size_t i = 0; i < g.size(); ++i) {
              s[1][i] = Blend(s[1][i], g[i], h[1]);
              s[2][i] = Blend(s[2][i], g[i] * g[i], h[2]);
              d[i] = s[1][i] / h[3] / (std::sqrt(s[2][i] / h[4]) + h[5]) + h[6] * s[0][i];
            }
            const Real rate = h[0] * Trust(1, s[0], d, h[7]);
            for (size_t i = 0; i < g.size(); ++i) s[0][i] -= rate * d[i];
          }};
}

template <bool kClassic, bool kNesterov>
NormFormula LarsFormula() {
  return {"Lars", {0.5L, 0.9L, 0.1L, 0.02L, 1}, {0.5L, 0.02L}, [](auto& s, const auto& g, Hypers h) {
            std::vector<Real> d(g.size()), move(g.size());
            for (size_t i = 0; i < g.size(); ++i) d[i] = g[i] + h[2] * s[0][i];
            const Real before = kClassic ? h[0] * Trust(h[3], s[0], d, h[4]) : 1;
            for (size_t i = 0; i < g.size(); ++i) {
              s[1][i] = h[1] * s[1][i] + before * d[i];
              move[i] = kNesterov ? h[1] * s[1][i] + before * d[i] : s[1][i];
            }
            const Real after = kClassic ? 1 : h[0] * Trust(h[3], s[0], move, h[4]);
            for (size_t i = 0; i < g.size(); ++i) s[0][i] -= after * move[i];
          }};
}

template <bool kAmsgrad>
NormFormula NovoGradFormula() {
  std::vector<Real> state = {0.5L, 0.02L};
  if (kAmsgrad) state.push_back(0.3L);
  state.push_back(0.2L);
  return {"NovoGrad", {0.01L, 0.9L, 0.95L, 0.05L, 1e-3L, 0.1L, 0.5L}, state, [](auto& s, const auto& g, Hypers h) {
            Real& v = s.back()[0];
            v = h[2] * v + h[3] * Norm(g) * Norm(g);
            for (size_t i = 0; i < g.size(); ++i) {
              if (kAmsgrad) s[2][i] = std::max(s[2][i], v);
              const Real d = (g[i] / (std::sqrt(kAmsgrad ? s[2][i] : v) + h[4]) + h[5] * s[0][i]) * h[6];
              s[1][i] = h[1] * s[1][i] - h[0] * d;
              s[0][i] += s[1][i];
            }
          }};
}

inline NormFormula ConditionalGradientFormula() {
  return {"ConditionalGradient", {0.9L, 0.5L, 1e-7L}, {0.5L}, [](auto& s, const auto& g, Hypers h) {
            const Real norm = Norm(g) + h[2];
            for (size_t i = 0; i < g.size(); ++i) s[0][i] = s[0][i] * h[0] - (1 - h[0]) * h[1] * g[i] / norm;
          }};
}

template <class Visitor>
void ForEachNormFormula(Visitor visit) {
  visit.template operator()<ConditionalGradient>(ConditionalGradientFormula());
  visit.template operator()<Lamb>(LambFormula(1));
  visit.template operator()<Lamb>(LambFormula(0));
  visit.template operator()<LarsClassic>(LarsFormula<true, false>());
  visit.template operator()<LarsClassicNesterov>(LarsFormula<true, true>());
  visit.template operator()<LarsPopular>(LarsFormula<false, false>());
  visit.template operator()<LarsPopularNesterov>(LarsFormula<false, true>());
  visit.template operator()<NovoGrad>(NovoGradFormula<false>());
  visit.template operator()<NovoGradAmsgrad>(NovoGradFormula<true>());
}

}  // namespace keras_legacy_opt

#endif  // KERAS_LEGACY_OPT_TESTS_FORMULAS_H_
