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
#include "past_caches.h"
#include "rows.h"
#include "traits.h"

#if defined(__clang__)
#define KLO_NO_LOOP_DEPENDENCE _Pragma("clang loop vectorize(assume_safety)")
#else
#define KLO_NO_LOOP_DEPENDENCE _Pragma("GCC ivdep")
#endif

namespace keras_legacy_opt {

constexpr int kMaxSlots = 5;
constexpr int kMaxState = kMaxSlots + 2;  // the variable, its slots, its average

// A functor with its hyperparameters filled in, behind pointers to its innermost loops.
template <class C>
struct BoundFormula {
  using UpdateLoop = void (*)(const void* functor, int64_t count, const C* grad, C* const* state);
  using IdleLoop = void (*)(const void* functor, int64_t count, C* const* state);
  using DirectionLoop = void (*)(const void* functor, int64_t count, const C* grad, C* const* state, C* direction);
  using ScaleFunction = C (*)(const void* functor, double var_squares, double direction_squares, C* scalars);
  using MoveLoop = void (*)(const void* functor, int64_t count, const C* grad, C* const* state, C scale);
  using MoveAlongLoop = void (*)(const void* functor, int64_t count, const C* direction, C* var, C scale);

  UpdateLoop update;
  IdleLoop idle;  // null: rows without gradient stay as they are
  // Of a formula with norms, instead of both; what `idle` says by being there or not, idle_rows does.
  DirectionLoop direction;
  ScaleFunction scale;
  MoveLoop move;
  MoveAlongLoop move_along;  // may be null: it is the faster `move` of directions that were kept
  int direction_reads;       // of the state, how many tensors from the first on; 0: the direction is the gradient
  bool norm_of_variable;
  bool idle_rows;
  int state;    // tensors of the variable's shape: itself and its slots, without scalar ones
  int scalars;  // slots that are scalars, behind the others
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

template <class F, class C, class... State>
KLO_INLINE void DirectElements(const F& f, int64_t count, const C* __restrict__ grad, C* __restrict__ direction,
                               State* __restrict__... state) {
  KLO_NO_LOOP_DEPENDENCE
  for (int64_t i = 0; i < count; ++i) direction[i] = f.Direction(state[i]..., grad[i]);
}

template <class F, class C, class... State>
KLO_INLINE void MoveElements(const F& f, int64_t count, const C* __restrict__ grad, C scale,
                             State* __restrict__... state) {
  KLO_NO_LOOP_DEPENDENCE
  for (int64_t i = 0; i < count; ++i) f.Move(state[i]..., grad[i], scale);
}

template <class F, class C>
KLO_INLINE void MoveAlongElements(const F& f, int64_t count, const C* __restrict__ direction, C* __restrict__ var,
                                  C scale) {
  for (int64_t i = 0; i < count; ++i) f.MoveAlong(var[i], direction[i], scale);
}

template <class F, class C, size_t... k>
KLO_INLINE void Direct(const void* functor, int64_t count, const C* grad, C* const* state, C* direction,
                       std::index_sequence<k...>) {
  DirectElements(F(*static_cast<const F*>(functor)), count, grad, direction, state[k]...);
}

template <class F, class C, size_t... k>
KLO_INLINE void Move(const void* functor, int64_t count, const C* grad, C* const* state, C scale,
                     std::index_sequence<k...>) {
  MoveElements(F(*static_cast<const F*>(functor)), count, grad, scale, state[k]...);
}

template <class F, class C>
C Scale(const void* functor, double var_squares, double direction_squares, C* scalars) {
  return static_cast<const F*>(functor)->Scale(var_squares, direction_squares, scalars);
}

// Sums of squares have as many terms at a time, whatever the instruction set, so that their bits are the same.
constexpr int kLanes = 16;

#define KLO_DEFINE_LOOPS(LEVEL, TARGET)                                                                             \
  template <class F, class C>                                                                                       \
  TARGET void Update##LEVEL(const void* functor, int64_t count, const C* grad, C* const* state) {                   \
    Update<F>(functor, count, grad, state, std::make_index_sequence<F::kSlots + 1>());                              \
  }                                                                                                                 \
  template <class F, class C>                                                                                       \
  TARGET void Idle##LEVEL(const void* functor, int64_t count, C* const* state) {                                    \
    Idle<F>(functor, count, state, std::make_index_sequence<F::kSlots + 1>());                                      \
  }                                                                                                                 \
  template <class F, class C>                                                                                       \
  TARGET void Direct##LEVEL(const void* functor, int64_t count, const C* grad, C* const* state, C* direction) {     \
    Direct<F>(functor, count, grad, state, direction, std::make_index_sequence<F::kSlots + 1 - F::kScalarSlots>()); \
  }                                                                                                                 \
  template <class F, class C>                                                                                       \
  TARGET void Move##LEVEL(const void* functor, int64_t count, const C* grad, C* const* state, C scale) {            \
    Move<F>(functor, count, grad, state, scale, std::make_index_sequence<F::kSlots + 1 - F::kScalarSlots>());       \
  }                                                                                                                 \
  template <class F, class C>                                                                                       \
  TARGET void MoveAlong##LEVEL(const void* functor, int64_t count, const C* direction, C* var, C scale) {           \
    MoveAlongElements(F(*static_cast<const F*>(functor)), count, direction, var, scale);                            \
  }                                                                                                                 \
  template <class C>                                                                                                \
  TARGET void SumSquares##LEVEL(const C* __restrict__ from, int64_t count, double* __restrict__ lanes) {            \
    double sums[kLanes];                                                                                            \
    for (int j = 0; j < kLanes; ++j) sums[j] = lanes[j];                                                            \
    int64_t i = 0;                                                                                                  \
    for (; i + kLanes <= count; i += kLanes) {                                                                      \
      for (int j = 0; j < kLanes; ++j) sums[j] += double{from[i + j]} * double{from[i + j]};                        \
    }                                                                                                               \
    for (int j = 0; i < count; ++i, ++j) sums[j] += double{from[i]} * double{from[i]};                              \
    for (int j = 0; j < kLanes; ++j) lanes[j] = sums[j];                                                            \
  }                                                                                                                 \
  template <class C>                                                                                                \
  TARGET void Decay##LEVEL(C fraction, int64_t count, C* __restrict__ var) {                                        \
    for (int64_t i = 0; i < count; ++i) var[i] -= fraction * var[i];                                                \
  }                                                                                                                 \
  template <class C>                                                                                                \
  TARGET void Average##LEVEL(C weight, int64_t count, const C* __restrict__ var, C* __restrict__ average) {         \
    for (int64_t i = 0; i < count; ++i) average[i] -= (average[i] - var[i]) * weight;                               \
  }                                                                                                                 \
  template <class T>                                                                                                \
  TARGET void Load##LEVEL(const T* __restrict__ from, int64_t count, Arithmetic<T>* __restrict__ to) {              \
    for (int64_t i = 0; i < count; ++i) to[i] = Load(from[i]);                                                      \
  }                                                                                                                 \
  template <class T>                                                                                                \
  TARGET void Store##LEVEL(const Arithmetic<T>* __restrict__ from, int64_t count, T* __restrict__ to) {             \
    for (int64_t i = 0; i < count; ++i) Store(from[i], to[i]);                                                      \
  }                                                                                                                 \
  template <class T>                                                                                                \
  TARGET void Transform##LEVEL(const GradientTransform<Arithmetic<T>>& transform, const T* __restrict__ from,       \
                               int64_t count, Arithmetic<T>* __restrict__ to) {                                     \
    const auto t = transform;                                                                                       \
    for (int64_t i = 0; i < count; ++i) to[i] = t(Load(from[i]));                                                   \
  }                                                                                                                 \
  template <class C>                                                                                                \
  TARGET void Add##LEVEL(const C* __restrict__ from, int64_t count, C* __restrict__ to) {                           \
    for (int64_t i = 0; i < count; ++i) to[i] += from[i];                                                           \
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
  static_assert(IndexOfName(F::kHyperNames, "lr") >= 0, "the learning rate is called lr");
  bound.state = F::kSlots + 1;
  bound.sum_duplicates = F::kSumDuplicates;
  if constexpr (kHasNorms<F>) {
    static_assert(F::kSumDuplicates, "a gradient with norms has every row once");
    bound.direction = KLO_PICK(isa, Direct, F, C);
    bound.scale = &Scale<F, C>;
    bound.move = KLO_PICK(isa, Move, F, C);
    if constexpr (kMovesAlong<F>) bound.move_along = KLO_PICK(isa, MoveAlong, F, C);
    bound.direction_reads = F::kDirectionReads;
    bound.norm_of_variable = F::kNormOfVariable;
    bound.idle_rows = F::kIdle;
    bound.scalars = F::kScalarSlots;
    bound.state -= F::kScalarSlots;
  } else {
    bound.update = KLO_PICK(isa, Update, F, C);
    if constexpr (F::kIdle) bound.idle = KLO_PICK(isa, Idle, F, C);
    bound.idle_rows = F::kIdle;
  }
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

// Beside its formula, what happens to one variable: before its update, a fraction of it is subtracted; after it, an
// average of its values, which lies behind its slots, moves towards it.
template <class C>
struct Beside {
  C decay = 0;
  bool averages = false;
  C average_weight = 0;

  bool IsNothing() const { return decay == C(0) && !averages; }
};

// Of some elements, the sums of the squares of the variable and of its direction. They are doubles, and which element
// goes to which lane depends on nothing but where the elements begin.
struct Squares {
  double variable[cpu_internal::kLanes] = {};
  double direction[cpu_internal::kLanes] = {};
};

struct SumsOfSquares {
  double variable = 0, direction = 0;

  SumsOfSquares() = default;
  explicit SumsOfSquares(const Squares& squares) {
    for (double lane : squares.variable) variable += lane;
    for (double lane : squares.direction) direction += lane;
  }
  void operator+=(const SumsOfSquares& other) {
    variable += other.variable;
    direction += other.direction;
  }
};

// Applies a bound formula to variables of type T.
template <class T>
class Updater {
 public:
  using C = Arithmetic<T>;
  using Transform = GradientTransform<C>;

  // transform may be null. formula and transform must outlive the updater.
  Updater(Isa isa, const BoundFormula<C>& formula, const Transform* transform, Beside<C> beside = {})
      : isa_(isa), formula_(formula), transform_(transform), beside_(beside) {}

  // Elements [begin, begin + count) of a variable and its slots.
  void Dense(void* const* state, const void* grad, int64_t begin, int64_t count) const {
    const T* g = static_cast<const T*>(grad) + begin;
    if constexpr (std::is_same_v<T, C>) {
      if (transform_ == nullptr && beside_.IsNothing()) return Update(state, begin, count, g, {});
    }
    ForEachStage(g, count,
                 [&](int64_t done, int64_t n, const C* values) { Update(state, begin + done, n, values, beside_); });
  }

  // How many rows Sparse() walks over: of the table where rows without gradient change too, else of the plan.
  int64_t SparseRows(const RowPlan& plan, int64_t table_rows) const {
    return formula_.idle_rows ? table_rows : plan.size();
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

  // After a sparse gradient, which changes rows, the averages of all elements.
  void Averages(void* const* state, int64_t begin, int64_t count) const {
    void* const both[] = {state[0], state[formula_.state]};
    OnState(both, 2, begin, count, [&](int64_t, int64_t n, C* const* pointers) {
      KLO_PICK(isa_, Average, C)(beside_.average_weight, n, pointers[0], pointers[1]);
    });
  }

  // Whether DirectDense() can keep directions for MoveDense(), which then reads nothing else but the variable. The bits
  // are those of directions that are computed again.
  bool MovesAlong() const { return std::is_same_v<T, C> && formula_.move_along != nullptr; }

  // A formula with norms takes two passes over a variable, and Scale() with the sums of the first in between. The
  // directions that are kept begin with that of the variable's first element; they and `begin` are at the beginning of
  // a cache line.
  void DirectDense(void* const* state, const void* grad, int64_t begin, int64_t count, Squares* squares,
                   C* directions = nullptr) const {
    ForEachStage(static_cast<const T*>(grad) + begin, count, [&](int64_t done, int64_t n, const C* values) {
      Direct(state, begin + done, n, values, beside_.decay, squares, directions);
    });
    if (directions != nullptr) AfterPastCaches();
  }

  void MoveDense(void* const* state, const void* grad, int64_t begin, int64_t count, C scale,
                 const C* directions = nullptr) const {
    if (directions != nullptr) return MoveAlong(state, begin, count, directions + begin, scale);
    ForEachStage(static_cast<const T*>(grad) + begin, count, [&](int64_t done, int64_t n, const C* values) {
      Move(state, begin + done, n, values, scale, beside_.averages);
    });
  }

  void DirectSparse(void* const* state, const void* grad, const RowPlan& plan, int64_t width, int64_t begin,
                    int64_t end, Squares* squares) const {
    ForEachRun(static_cast<const T*>(grad), plan, width, begin, end,
               [&](int64_t first, int64_t n, const C* values, bool touched) {
                 Direct(state, first, n, values, touched ? beside_.decay : C(0), squares);
               });
  }

  void MoveSparse(void* const* state, const void* grad, const RowPlan& plan, int64_t width, int64_t begin, int64_t end,
                  C scale) const {
    ForEachRun(static_cast<const T*>(grad), plan, width, begin, end,
               [&](int64_t first, int64_t n, const C* values, bool) { Move(state, first, n, values, scale, false); });
  }

  // What the second pass needs to know of the sums; scalar slots, which lie behind all else, take their step.
  C Scale(void* const* state, double var_squares, double direction_squares) const {
    void* const* at = state + formula_.state + beside_.averages;
    C scalars[kMaxSlots];
    for (int k = 0; k < formula_.scalars; ++k) scalars[k] = Load(*static_cast<const T*>(at[k]));
    const C scale = formula_.scale(formula_.functor, var_squares, direction_squares, scalars);
    for (int k = 0; k < formula_.scalars; ++k) Store(scalars[k], *static_cast<T*>(at[k]));
    return scale;
  }

 private:
  // The 16-bit types and transformed gradients pass through small buffers in the first-level cache. So does what is
  // read and written there several times.
  static constexpr int64_t kStage = 512;
  // How far ahead the first of two passes fetches, over all that it reads: 4 KiB.
  static constexpr int64_t kFetchedAhead = 4096 / sizeof(C);
  static constexpr int64_t kAhead = 4;

  // Calls visit(offset, count, gradients as arithmetic values) for each piece of [0, count).
  template <class Visit>
  void ForEachStage(const T* grad, int64_t count, Visit visit) const {
    C stage[kStage];
    for (int64_t done = 0; done < count; done += kStage) {
      const int64_t n = std::min(kStage, count - done);
      if constexpr (std::is_same_v<T, C>) {
        if (transform_ == nullptr) {
          visit(done, n, grad + done);
          continue;
        }
      }
      Gradient(grad + done, n, stage);
      visit(done, n, static_cast<const C*>(stage));
    }
  }

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
  void OnState(void* const* state, int tensors, int64_t begin, int64_t count, Loop loop) const {
    C* pointers[kMaxState];
    if constexpr (std::is_same_v<T, C>) {
      for (int k = 0; k < tensors; ++k) pointers[k] = static_cast<C*>(state[k]) + begin;
      loop(0, count, pointers);
    } else {
      C stage[kMaxState][kStage];
      const auto load = KLO_PICK(isa_, Load, T);
      const auto store = KLO_PICK(isa_, Store, T);
      for (int64_t done = 0; done < count; done += kStage) {
        const int64_t n = std::min(kStage, count - done);
        for (int k = 0; k < tensors; ++k) {
          pointers[k] = stage[k];
          load(static_cast<T*>(state[k]) + begin + done, n, stage[k]);
        }
        loop(done, n, pointers);
        for (int k = 0; k < tensors; ++k) store(stage[k], n, static_cast<T*>(state[k]) + begin + done);
      }
    }
  }

  void Update(void* const* state, int64_t begin, int64_t count, const C* grad, const Beside<C>& beside) const {
    OnState(state, formula_.state + beside.averages, begin, count, [&](int64_t done, int64_t n, C* const* pointers) {
      if (beside.decay != C(0)) KLO_PICK(isa_, Decay, C)(beside.decay, n, pointers[0]);
      formula_.update(formula_.functor, n, grad + done, pointers);
      if (beside.averages) KLO_PICK(isa_, Average, C)(beside.average_weight, n, pointers[0], pointers[formula_.state]);
    });
  }

  void Idle(void* const* state, int64_t begin, int64_t count) const {
    OnState(state, formula_.state, begin, count,
            [&](int64_t, int64_t n, C* const* pointers) { formula_.idle(formula_.functor, n, pointers); });
  }

  void Direct(void* const* state, int64_t begin, int64_t count, const C* grad, C decay, Squares* squares,
              C* directions = nullptr) const {
    const auto sum = KLO_PICK(isa_, SumSquares, C);
    OnState(state, formula_.state, begin, count, [&](int64_t done, int64_t n, C* const* pointers) {
      alignas(kCacheLine) C found[kStage];
      const C* direction = grad + done;
      if (decay != C(0)) KLO_PICK(isa_, Decay, C)(decay, n, pointers[0]);
      if (formula_.direction_reads > 0) {
        formula_.direction(formula_.functor, n, grad + done, pointers, found);
        direction = found;
      }
      // Memory does not rest while squares are summed.
      const int64_t ahead = kFetchedAhead / (formula_.direction_reads + 1);
      for (int k = 0; k < formula_.direction_reads; ++k) PrefetchStage(pointers[k] + ahead);
      PrefetchStage(grad + done + ahead);
      if (formula_.norm_of_variable) sum(pointers[0], n, squares->variable);
      sum(direction, n, squares->direction);
      if (directions != nullptr) StorePastCaches(found, n, directions + begin + done);
    });
  }

  // What lies behind the last element is fetched in vain.
  static void PrefetchStage(const C* from) {
    for (int64_t i = 0; i < kStage; i += kCacheLine / sizeof(C)) __builtin_prefetch(from + i, 0, 2);
  }

  void MoveAlong(void* const* state, int64_t begin, int64_t count, const C* directions, C scale) const {
    OnState(state, formula_.state + beside_.averages, begin, count, [&](int64_t done, int64_t n, C* const* pointers) {
      formula_.move_along(formula_.functor, n, directions + done, pointers[0], scale);
      if (beside_.averages) {
        KLO_PICK(isa_, Average, C)(beside_.average_weight, n, pointers[0], pointers[formula_.state]);
      }
    });
  }

  void Move(void* const* state, int64_t begin, int64_t count, const C* grad, C scale, bool averages) const {
    OnState(state, formula_.state + averages, begin, count, [&](int64_t done, int64_t n, C* const* pointers) {
      formula_.move(formula_.functor, n, grad + done, pointers, scale);
      if (averages) KLO_PICK(isa_, Average, C)(beside_.average_weight, n, pointers[0], pointers[formula_.state]);
    });
  }

  // Calls visit(first element, count, gradients, whether there are any) for what rows [begin, end) consist of, in
  // pieces.
  template <class Visit>
  void ForEachRun(const T* grad, const RowPlan& plan, int64_t width, int64_t begin, int64_t end, Visit visit) const {
    static constexpr C kZeros[kStage] = {};
    std::vector<C> buffer(2 * width);
    const auto idle = [&](int64_t first, int64_t count) {
      for (int64_t done = 0; done < count; done += kStage) {
        visit(first + done, std::min(kStage, count - done), kZeros, false);
      }
    };
    const auto row = [&](int64_t entry) {
      const C* values = SumOfRow(grad, plan, entry, width, buffer.data());
      for (int64_t done = 0; done < width; done += kStage) {
        visit(plan.rows[entry] * width + done, std::min(kStage, width - done), values + done, true);
      }
    };
    if (!formula_.idle_rows) {
      for (int64_t entry = begin; entry < end; ++entry) row(entry);
      return;
    }
    int64_t entry = std::lower_bound(plan.rows.begin(), plan.rows.end(), begin) - plan.rows.begin();
    while (begin < end) {
      const int64_t touched = entry < plan.size() ? std::min(plan.rows[entry], end) : end;
      idle(begin * width, (touched - begin) * width);
      if (touched < end) row(entry++);
      begin = touched + 1;
    }
  }

  // The sum of the gradients of a row, in the order of their appearance.
  const C* SumOfRow(const T* grad, const RowPlan& plan, int64_t entry, int64_t width, C* buffer) const {
    const int64_t first = plan.first[entry], last = plan.first[entry + 1];
    if constexpr (std::is_same_v<T, C>) {
      if (transform_ == nullptr && last - first == 1) return grad + plan.positions[first] * width;
    }
    Gradient(grad + plan.positions[first] * width, width, buffer);
    const auto add = KLO_PICK(isa_, Add, C);
    for (int64_t k = first + 1; k < last; ++k) {
      Gradient(grad + plan.positions[k] * width, width, buffer + width);
      add(buffer + width, width, buffer);
    }
    return buffer;
  }

  // One row that has gradients: their sum in the order of their appearance, or one after the other. It decays once.
  void Row(void* const* state, const T* grad, const RowPlan& plan, int64_t entry, int64_t width, C* buffer) const {
    const int64_t begin = plan.rows[entry] * width;
    Beside<C> beside;
    beside.decay = beside_.decay;
    if (formula_.sum_duplicates) {
      return Update(state, begin, width, SumOfRow(grad, plan, entry, width, buffer), beside);
    }
    for (int64_t k = plan.first[entry]; k < plan.first[entry + 1]; ++k) {
      const T* row = grad + plan.positions[k] * width;
      const C* values = buffer;
      if (std::is_same_v<T, C> && transform_ == nullptr) {
        values = reinterpret_cast<const C*>(row);
      } else {
        Gradient(row, width, buffer);
      }
      Update(state, begin, width, values, beside);
      beside.decay = 0;
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
  const Beside<C> beside_;
};

}  // namespace keras_legacy_opt

#endif  // KERAS_LEGACY_OPT_APPLY_CPU_H_
