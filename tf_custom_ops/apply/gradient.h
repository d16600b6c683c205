// What happens to a gradient on its way into the formula, without a pass of its own.
#ifndef KERAS_LEGACY_OPT_APPLY_GRADIENT_H_
#define KERAS_LEGACY_OPT_APPLY_GRADIENT_H_

#include "dtype.h"

namespace keras_legacy_opt {

// Four numbers: loss unscale, value clipping, and the norm clipping of TensorFlow: a factor (clip_by_global_norm), or a
// factor and a divisor (clip_by_norm). Multiplying or dividing by 1 and clipping at infinity change nothing.
template <class C>
struct GradientTransform {
  C unscale, limit, factor, divisor;

  KLO_INLINE C Bounded(C g) const {
    g *= unscale;
    g = g > limit ? limit : g;
    return g < -limit ? -limit : g;
  }
  KLO_INLINE C operator()(C g) const { return Bounded(g) * factor / divisor; }
};

template <class C>
struct NoTransform {
  KLO_INLINE C operator()(C g) const { return g; }
};

}  // namespace keras_legacy_opt

#endif  // KERAS_LEGACY_OPT_APPLY_GRADIENT_H_
