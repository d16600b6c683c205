// The CPU loops around a functor of math/: over the elements of a dense gradient, and over the rows of a sparse one.
//
// Compiled per functor is only the innermost loop, once per arithmetic type and instruction set. What surrounds it
// (16-bit types, gradient transforms, rows) takes it as a pointer and knows no optimizer.
#ifndef KERAS_LEGACY_OPT_APPLY_CPU_H_
#define KERAS_LEGACY_OPT_APPLY_CPU_H_

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <new>
#include <type_traits>
#include <utility>
#include <vector>

#include "../math/prelude.h"
#include "dtype.h"
#include "gradient.h"
#include "isa.h"
#include "rows.h"

#if defined(__clang__)
#define KLO_NO_LOOP_DEPENDENCE _Pragma("clang loop vectorize(assume_safety)")
#else
#define KLO_NO_LOOP_DEPENDENCE _Pragma("GCC ivdep")
#endif

namespace keras_legacy_opt {

constexpr int kMaxSlots = 5;
constexpr int kMaxState = kMaxSlots + 1;  // the variable, then its slots

// A functor with its hyperparameters filled in, behind pointers to its innermost loops.
template <class C>
struct BoundFormula {
  using UpdateLoop = void (*)(const void* functor, int64_t count, const C* grad, C* const* state);
  using IdleLoop = void (*)(const void* functor, int64_t count, C* const* state);

  UpdateLoop update;
  IdleLoop idle;  // null: rows without gradient stay as they are
  int state;
  bool sum_duplicates;
  const char* refusal;  // why the hyperparameters are not allowed, or null
  alignas(16) unsigned char functor[128];
};

namespace cpu_internal {

template <class F, class C, class... State>
KLO_INLINE void UpdateElements(const F& f, int64_t count, const C* __restrict__ grad, State* __restrict__... state) {
  KLO_NO_LOOP_DEPENDENCE
  for (int64_t i = 0; i < count; ++i) f(state[i]..., grad[i]);
}

template <class F, class... State>
KLO_INLINE void IdleElements(const F& f, int64_t count, State* __restrict__... state) {
  KLO_NO_LOOP_DEPENDENCE
  for (int64_t i = 0; i < count; ++i) f.Idle(state[i]...);
}

template <class F, class C, size_t... k>
KLO_INLINE void Update(const void* functor, int64_t count, const C* grad, C* const* state, std::index_sequence<k...>) {
  UpdateElements(F(*static_cast<const F*>(functor)), count, grad, state[k]...);
}

template <class F, class C, size_t... k>
KLO_INLINE void Idle(const void* functor, int64_t count, C* const* state, std::index_sequence<k...>) {
  IdleElements(F(*static_cast<const F*>(functor)), count, state[k]...);
}

#define KLO_DEFINE_LOOPS(LEVEL, TARGET)                                                                       \
  template <class F, class C>                                                                                 \
  TARGET void Update##LEVEL(const void* functor, int64_t count, const C* grad, C* const* state) {             \
    Update<F>(functor, count, grad, state, std::make_index_sequence<F::kSlots + 1>());                        \
  }                                                                                                           \
  template <class F, class C>                                                                                 \
  TARGET void Idle##LEVEL(const void* functor, int64_t count, C* const* state) {                              \
    Idle<F>(functor, count, state, std::make_index_sequence<F::kSlots + 1>());                                \
  }                                                                                                           \
  template <class T>                                                                                          \
  TARGET void Load##LEVEL(const T* __restrict__ from, int64_t count, Arithmetic<T>* __restrict__ to) {        \
    for (int64_t i = 0; i < count; ++i) to[i] = Load(from[i]);                                                \
  }                                                                                                           \
  template <class T>                                                                                          \
  TARGET void Store##LEVEL(const Arithmetic<T>* __restrict__ from, int64_t count, T* __restrict__ to) {       \
    for (int64_t i = 0; i < count; ++i) Store(from[i], to[i]);                                                \
  }                                                                                                           \
  template <class T>                                                                                          \
  TARGET void Transform##LEVEL(const GradientTransform<Arithmetic<T>>& transform, const T* __restrict__ from, \
                               int64_t count, Arithmetic<T>* __restrict__ to) {                               \
    const auto t = transform;                                                                                 \
    for (int64_t i = 0; i < count; ++i) to[i] = t(Load(from[i]));                                             \
  }                                                                                                           \
  template <class C>                                                                                          \
  TARGET void Add##LEVEL(const C* __restrict__ from, int64_t count, C* __restrict__ to) {                     \
    for (int64_t i = 0; i < count; ++i) to[i] += from[i];                                                     \
  }
KLO_DEFINE_LOOPS(Base, )
KLO_DEFINE_LOOPS(Avx2, KLO_TARGET_AVX2)
KLO_DEFINE_LOOPS(Avx512, KLO_TARGET_AVX512)
#undef KLO_DEFINE_LOOPS

// The instance of a loop for an instruction set.
#define KLO_PICK(ISA, NAME, ...)                                    \
  ((ISA) == Isa::kAvx512 ? &cpu_internal::NAME##Avx512<__VA_ARGS__> \
   : (ISA) == Isa::kAvx2 ? &cpu_internal::NAME##Avx2<__VA_ARGS__>   \
                         : &cpu_internal::NAME##Base<__VA_ARGS__>)

template <class F, class = void>
constexpr bool kHasSpecial = false;
template <class F>
constexpr bool kHasSpecial<F, std::void_t<typename F::Special>> = true;

template <class F, class = void>
constexpr bool kHasRefusal = false;
template <class F>
constexpr bool kHasRefusal<F, std::void_t<decltype(&F::Refusal)>> = true;

template <class F, class C>
BoundFormula<C> BindFunctor(Isa isa, const C* hyper) {
  using Hypers = typename F::Hypers;
  static_assert(sizeof(Hypers) == F::kHypers * sizeof(C) && std::is_trivially_copyable_v<Hypers>, "scalars, no more");
  Hypers h;
  std::memcpy(&h, hyper, sizeof h);
  if constexpr (kHasSpecial<F>) {
    if (F::IsSpecial(h)) return BindFunctor<typename F::Special>(isa, hyper);
  }
  BoundFormula<C> bound = {};
  static_assert(sizeof(F) <= sizeof bound.functor && std::is_trivially_copyable_v<F>, "a functor is a few scalars");
  static_assert(F::kSlots <= kMaxSlots, "raise kMaxSlots");
  bound.update = KLO_PICK(isa, Update, F, C);
  if constexpr (F::kIdle) bound.idle = KLO_PICK(isa, Idle, F, C);
  bound.state = F::kSlots + 1;
  bound.sum_duplicates = F::kSumDuplicates;
  if constexpr (kHasRefusal<F>) bound.refusal = F::Refusal(h);
  new (bound.functor) F(h);
  return bound;
}

}  // namespace cpu_internal

// The formula of math/ with these hyperparameters on this path.
template <template <class, Path> class F, Path kPath, class C>
BoundFormula<C> Bind(Isa isa, const C* hyper) {
  return cpu_internal::BindFunctor<F<C, kPath>>(isa, hyper);
}

// Applies a bound formula to variables of type T.
template <class T>
class Updater {
 public:
  using C = Arithmetic<T>;
  using Transform = GradientTransform<C>;

  // transform may be null. formula and transform must outlive the updater.
  Updater(Isa isa, const BoundFormula<C>& formula, const Transform* transform)
      : isa_(isa), formula_(formula), transform_(transform) {}

  // Elements [begin, begin + count) of a variable and its slots.
  void Dense(void* const* state, const void* grad, int64_t begin, int64_t count) const {
    const T* g = static_cast<const T*>(grad) + begin;
    if constexpr (std::is_same_v<T, C>) {
      if (transform_ == nullptr) return Update(state, begin, count, g);
    }
    C stage[kStage];
    for (int64_t done = 0; done < count; done += kStage) {
      const int64_t n = std::min(kStage, count - done);
      Gradient(g + done, n, stage);
      Update(state, begin + done, n, stage);
    }
  }

  // How many rows Sparse() walks over: of the table where rows without gradient change too, else of the plan.
  int64_t SparseRows(const RowPlan& plan, int64_t table_rows) const {
    return formula_.idle != nullptr ? table_rows : plan.size();
  }

  void Sparse(void* const* state, const void* grad, const RowPlan& plan, int64_t width, int64_t begin,
              int64_t end) const {
    std::vector<C> buffer(2 * width);
    const T* g = static_cast<const T*>(grad);
    if (formula_.idle == nullptr) {
      for (int64_t entry = begin; entry < end; ++entry) {
        if (entry + kAhead < end) Prefetch(state, plan.rows[entry + kAhead] * width, width);
        Row(state, g, plan, entry, width, buffer.data());
      }
      return;
    }
    int64_t entry = std::lower_bound(plan.rows.begin(), plan.rows.end(), begin) - plan.rows.begin();
    while (begin < end) {
      const int64_t touched = entry < plan.size() ? std::min(plan.rows[entry], end) : end;
      Idle(state, begin * width, (touched - begin) * width);
      if (touched < end) Row(state, g, plan, entry++, width, buffer.data());
      begin = touched + 1;
    }
  }

 private:
  // The 16-bit types and transformed gradients pass through small buffers in the first-level cache.
  static constexpr int64_t kStage = 512;
  static constexpr int64_t kAhead = 4;

  void Gradient(const T* from, int64_t count, C* to) const {
    if (transform_ != nullptr) {
      const auto transform = KLO_PICK(isa_, Transform, T);
      transform(*transform_, from, count, to);
    } else {
      const auto load = KLO_PICK(isa_, Load, T);
      load(from, count, to);
    }
  }

  // Calls loop(offset, count, pointers to arithmetic values), by pieces where the values must be converted.
  template <class Loop>
  void OnState(void* const* state, int64_t begin, int64_t count, Loop loop) const {
    C* pointers[kMaxState];
    if constexpr (std::is_same_v<T, C>) {
      for (int k = 0; k < formula_.state; ++k) pointers[k] = static_cast<C*>(state[k]) + begin;
      loop(0, count, pointers);
    } else {
      C stage[kMaxState][kStage];
      const auto load = KLO_PICK(isa_, Load, T);
      const auto store = KLO_PICK(isa_, Store, T);
      for (int64_t done = 0; done < count; done += kStage) {
        const int64_t n = std::min(kStage, count - done);
        for (int k = 0; k < formula_.state; ++k) {
          pointers[k] = stage[k];
          load(static_cast<T*>(state[k]) + begin + done, n, stage[k]);
        }
        loop(done, n, pointers);
        for (int k = 0; k < formula_.state; ++k) store(stage[k], n, static_cast<T*>(state[k]) + begin + done);
      }
    }
  }

  void Update(void* const* state, int64_t begin, int64_t count, const C* grad) const {
    OnState(state, begin, count, [&](int64_t done, int64_t n, C* const* pointers) {
      formula_.update(formula_.functor, n, grad + done, pointers);
    });
  }

  void Idle(void* const* state, int64_t begin, int64_t count) const {
    OnState(state, begin, count,
            [&](int64_t, int64_t n, C* const* pointers) { formula_.idle(formula_.functor, n, pointers); });
  }

  // One row that has gradients: their sum in the order of their appearance, or one after the other.
  void Row(void* const* state, const T* grad, const RowPlan& plan, int64_t entry, int64_t width, C* buffer) const {
    const int64_t begin = plan.rows[entry] * width;
    const int64_t first = plan.first[entry], last = plan.first[entry + 1];
    const auto add = KLO_PICK(isa_, Add, C);
    for (int64_t k = first; k < last; ++k) {
      const T* row = grad + plan.positions[k] * width;
      const C* values = buffer;
      if (std::is_same_v<T, C> && transform_ == nullptr && (last - first == 1 || !formula_.sum_duplicates)) {
        values = reinterpret_cast<const C*>(row);
      } else {
        C* const to = k == first || !formula_.sum_duplicates ? buffer : buffer + width;
        Gradient(row, width, to);
        if (to != buffer) add(to, width, buffer);
      }
      if (k + 1 == last || !formula_.sum_duplicates) Update(state, begin, width, values);
    }
  }

  void Prefetch(void* const* state, int64_t begin, int64_t width) const {
    constexpr int64_t kLine = 64 / sizeof(T), kMost = 16 * kLine;
    for (int k = 0; k < formula_.state; ++k) {
      const T* at = static_cast<const T*>(state[k]) + begin;
      for (int64_t i = 0; i < std::min(width, kMost); i += kLine) __builtin_prefetch(at + i, 1);
    }
  }

  const Isa isa_;
  const BoundFormula<C>& formula_;
  const Transform* const transform_;
};

}  // namespace keras_legacy_opt

#endif  // KERAS_LEGACY_OPT_APPLY_CPU_H_
