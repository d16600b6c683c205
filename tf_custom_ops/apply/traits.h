// What a functor of math/ has beyond what all of them have, and how the loops call it.
#ifndef KERAS_LEGACY_OPT_APPLY_TRAITS_H_
#define KERAS_LEGACY_OPT_APPLY_TRAITS_H_

namespace keras_legacy_opt {

template <class...>
using Void = void;

// A functor for special hyperparameters, which F::IsSpecial tells.
template <class F, class = void>
constexpr bool kHasSpecial = false;
template <class F>
constexpr bool kHasSpecial<F, Void<typename F::Special>> = true;

template <class F, class = void>
constexpr bool kHasRefusal = false;
template <class F>
constexpr bool kHasRefusal<F, Void<decltype(&F::Refusal)>> = true;

// Whether a functor is one of a formula with norms.
template <class F, class = void>
constexpr bool kHasNorms = false;
template <class F>
constexpr bool kHasNorms<F, Void<decltype(&F::Direction)>> = true;

// Whether its second pass needs nothing but the direction of the first, which can be kept.
template <class F, class = void>
constexpr bool kMovesAlong = false;
template <class F>
constexpr bool kMovesAlong<F, Void<decltype(&F::MoveAlong)>> = true;

template <class F, class = void>
constexpr int kScalarSlotsOf = 0;
template <class F>
constexpr int kScalarSlotsOf<F, Void<decltype(F::kScalarSlots)>> = F::kScalarSlots;

}  // namespace keras_legacy_opt

#endif  // KERAS_LEGACY_OPT_APPLY_TRAITS_H_
