// Sparse gradients of one variable, after gpu/row_plan.h has found their rows: one launch; of a formula with norms
// three, as in gpu/dense.h. Averages take one more.
#ifndef KERAS_LEGACY_OPT_GPU_SPARSE_H_
#define KERAS_LEGACY_OPT_GPU_SPARSE_H_

#include "dense.h"
#include "row_plan.h"

namespace keras_legacy_opt {
namespace gpu {

// The first of the heads [begin, end) whose row is not below `row`; or end.
KLO_DEVICE uint32_t FirstHead(const Rows& rows, uint32_t begin, uint32_t end, int64_t row) {
  KLO_ROLLED
  while (begin < end) {
    const uint32_t middle = begin + (end - begin) / 2;
    if (RowOf(rows.keys[rows.heads[middle]]) < row) {
      begin = middle + 1;
    } else {
      end = middle;
    }
  }
  return begin;
}

// What a line is: a row, and the places in `keys` of its gradients, if it has any.
struct Line {
  int64_t row;
  uint32_t first, last;

  KLO_DEVICE bool IsTouched() const { return first < last; }
};

// The lines of a block, [begin, begin + count).
template <class F, class C>
class Lines {
 public:
  KLO_DEVICE explicit Lines(const SparseLaunch<C>& launch) : rows_(launch.rows) {
    const int64_t all = F::kIdle ? launch.lines : int64_t{*rows_.head_count};
    begin_ = int64_t{blockIdx.x} * launch.lines_of_block;
    const int64_t end = begin_ + launch.lines_of_block < all ? begin_ + launch.lines_of_block : all;
    count_ = begin_ < end ? static_cast<int>(end - begin_) : 0;
    if constexpr (F::kIdle) {
      first_head_ = FirstHead(rows_, 0, *rows_.head_count, begin_);
      last_head_ = FirstHead(rows_, first_head_, *rows_.head_count, begin_ + count_);
    }
  }

  KLO_DEVICE int count() const { return count_; }

  KLO_DEVICE Line At(int i) const {
    uint32_t head = static_cast<uint32_t>(begin_ + i);
    if constexpr (F::kIdle) {
      head = FirstHead(rows_, first_head_, last_head_, begin_ + i);
      if (head == last_head_ || RowOf(rows_.keys[rows_.heads[head]]) != begin_ + i) return {begin_ + i, 0, 0};
    }
    return {RowOf(rows_.keys[rows_.heads[head]]), rows_.heads[head], rows_.heads[head + 1]};
  }

 private:
  const Rows& rows_;
  int64_t begin_;
  int count_;
  uint32_t first_head_ = 0, last_head_ = 0;
};

// Calls visit(line, range in its row, number of the element in the block) for elements [begin, end) of some lines.
template <class T, class Visit>
KLO_DEVICE void ForEachOfRows(int64_t width, bool is_single, bool is_aligned, int64_t begin, int64_t end, Visit visit) {
  // Where rows are no multiple of it, elements go one by one.
  const int step = is_aligned ? kWidth<T> : 1;
  for (int64_t i = begin + int64_t{threadIdx.x} * step; i < end; i += int64_t{kThreads} * step) {
    // Several lines have fewer than 2^31 elements.
    const uint32_t line = is_single ? 0 : static_cast<uint32_t>(i) / static_cast<uint32_t>(width);
    visit(static_cast<int>(line), Range{i - line * width, step, is_aligned}, i);
  }
}

// Where the rows of a variable lie.
template <class F, class T>
struct Table {
  using C = Arithmetic<T>;

  const SparseLaunch<C>& launch;
  const Around<C> around;
  const Place<F, T> place;
  const bool is_aligned;

  KLO_DEVICE explicit Table(const SparseLaunch<C>& l)
      : launch(l),
        around(l.all, 0),
        place(l.all, Chunk{0, 0, 0}),
        is_aligned(place.is_aligned && l.width % kWidth<T> == 0) {}

  KLO_DEVICE Place<F, T> At(const Line& line) const { return place.From(line.row * launch.width); }

  // One gradient of a row: that at a place of `keys`.
  KLO_DEVICE void LoadGradient(const Range& range, uint32_t key, C (&g)[kWidth<T>]) const {
    const int64_t position = PositionOf(launch.rows.keys[key]);
    range.Load(place.grad + position * launch.width, g);
    KLO_UNROLL
    for (int j = 0; j < kWidth<T>; ++j) g[j] = around.Gradient(g[j]);
  }

  // The sum of all gradients of a row, in the order of their appearance; zeros where it has none.
  KLO_DEVICE void SumGradients(const Line& line, const Range& range, C (&sum)[kWidth<T>]) const {
    KLO_UNROLL
    for (int j = 0; j < kWidth<T>; ++j) sum[j] = C(0);
    KLO_ROLLED
    for (uint32_t key = line.first; key < line.last; ++key) {
      C g[kWidth<T>];
      LoadGradient(range, key, g);
      KLO_UNROLL
      for (int j = 0; j < kWidth<T>; ++j) sum[j] = key == line.first ? g[j] : sum[j] + g[j];
    }
  }

  KLO_DEVICE void Decay(C (&var)[kWidth<T>]) const {
    KLO_UNROLL
    for (int j = 0; j < kWidth<T>; ++j) around.Decay(var[j]);
  }
};

template <class F, class C, int n, int... k>
KLO_DEVICE void CallIdle(const F& f, C (&state)[sizeof...(k)][n], Indices<k...>) {
  KLO_UNROLL
  for (int j = 0; j < n; ++j) f.Idle(state[k][j]...);
}

// A row with gradients: one step with their sum, or one after the other. It decays once.
template <class F, class T>
KLO_DEVICE void UpdateRow(const F& f, const Table<F, T>& table, const Line& line, const Range& range,
                          Arithmetic<T> (&state)[Place<F, T>::kTensors][kWidth<T>]) {
  constexpr IndicesTo<Place<F, T>::kTensors> kAll = {};
  Arithmetic<T> g[kWidth<T>];
  table.Decay(state[0]);
  if constexpr (F::kSumDuplicates) {
    table.SumGradients(line, range, g);
    CallUpdate(f, state, g, kAll);
    return;
  }
  for (uint32_t key = line.first; key < line.last; ++key) {
    table.LoadGradient(range, key, g);
    CallUpdate(f, state, g, kAll);
    KLO_UNROLL
    for (int k = 0; k < Place<F, T>::kTensors; ++k) {
      KLO_UNROLL
      for (int j = 0; j < kWidth<T>; ++j) state[k][j] = Rounded<T>(state[k][j]);
    }
  }
}

template <class F, class T>
KLO_DEVICE void UpdateLines(const SparseLaunch<Arithmetic<T>>& launch) {
  using C = Arithmetic<T>;
  const typename F::Hypers h = HypersOf<F>(launch.all, 0);
  if constexpr (kHasRefusal<F>) {
    if (F::Refusal(h) != nullptr) {
      *launch.rows.refusal = -1;
      return;
    }
  }
  const F f(h);
  const Lines<F, C> lines(launch);
  const Table<F, T> table(launch);
  const int64_t elements = lines.count() * launch.width;
  ForEachOfRows<T>(launch.width, lines.count() == 1, table.is_aligned, 0, elements,
                   [&](int i, const Range& range, int64_t) {
                     const Line line = lines.At(i);
                     const Place<F, T> place = table.At(line);
                     C state[Place<F, T>::kTensors][kWidth<T>];
                     place.LoadState(range, state);
                     if constexpr (F::kIdle) {
                       if (!line.IsTouched()) CallIdle(f, state, IndicesTo<Place<F, T>::kTensors>());
                     }
                     if (line.IsTouched()) UpdateRow(f, table, line, range, state);
                     place.StoreState(range, state, ~0u);
                   });
}

template <class F, class T>
KLO_DEVICE void Sparse(const SparseLaunch<Arithmetic<T>>& launch) {
  if (!Goes(launch.rows)) return;
  if constexpr (kHasSpecial<F>) {
    if (F::IsSpecial(HypersOf<F>(launch.all, 0))) return UpdateLines<typename F::Special, T>(launch);
  }
  UpdateLines<F, T>(launch);
}

// Which elements of a block belong to a lane of its sums. A row with gradients begins with the first lane, and so does
// a run of rows without.
template <class F, class C>
class Lane {
 public:
  KLO_DEVICE Lane(const Lines<F, C>& lines, int64_t width, int lane) : lines_(lines), width_(width), lane_(lane) {}

  // Calls visit(element) for those before `end`, where it stopped before.
  template <class Visit>
  KLO_DEVICE void Until(int64_t end, Visit visit) {
    KLO_ROLLED
    while (line_ < lines_.count()) {
      if (!is_entered_) Enter();
      for (; column_ < width_; column_ += kLanes) {
        if (start_ + column_ >= end) return;
        visit(start_ + column_);
      }
      start_ += width_;
      phase_ = is_touched_ ? 0 : static_cast<int>((phase_ + width_) % kLanes);
      ++line_;
      is_entered_ = false;
    }
  }

 private:
  KLO_DEVICE void Enter() {
    is_entered_ = true;
    is_touched_ = lines_.At(line_).IsTouched();
    if (is_touched_) phase_ = 0;
    column_ = (lane_ + kLanes - phase_) % kLanes;
  }

  const Lines<F, C>& lines_;
  const int64_t width_;
  const int lane_;
  int line_ = 0, phase_ = 0;
  int64_t start_ = 0, column_ = 0;
  bool is_entered_ = false, is_touched_ = false;
};

template <class F, class T>
KLO_DEVICE void SparseDirect(const SparseLaunch<Arithmetic<T>>& launch) {
  using C = Arithmetic<T>;
  constexpr int kStage = 1024;
  __shared__ C values[2][2][kStage];
  if (!Goes(launch.rows)) return;
  const F f(HypersOf<F>(launch.all, 0));
  const Lines<F, C> lines(launch);
  const Table<F, T> table(launch);
  constexpr unsigned kChanged = ChangedBy(&F::Direction);
  const unsigned changed = kChanged | (table.around.decay != C(0));
  const int thread = static_cast<int>(threadIdx.x), which = thread / kLanes;
  const int64_t elements = lines.count() * launch.width;
  Lane<F, C> lane(lines, launch.width, thread % kLanes);
  double sum = 0;
  int half = 0;
  KLO_ROLLED
  for (int64_t begin = 0; begin < elements; begin += kStage, half ^= 1) {
    const int64_t end = elements - begin < kStage ? elements : begin + kStage;
    ForEachOfRows<T>(launch.width, lines.count() == 1, table.is_aligned, begin, end,
                     [&](int i, const Range& range, int64_t element) {
                       const Line line = lines.At(i);
                       const Place<F, T> place = table.At(line);
                       C state[Place<F, T>::kTensors][kWidth<T>], g[kWidth<T>], direction[kWidth<T>];
                       place.LoadState(range, state);
                       table.SumGradients(line, range, g);
                       if (line.IsTouched()) table.Decay(state[0]);
                       CallDirection(f, state, g, direction, IndicesTo<Place<F, T>::kTensors>());
                       place.StoreState(range, state, changed);
                       KLO_UNROLL
                       for (int j = 0; j < kWidth<T>; ++j) {
                         if (j >= range.count) continue;
                         values[half][0][element - begin + j] = direction[j];
                         values[half][1][element - begin + j] = state[0][j];
                       }
                     });
    __syncthreads();
    if (which > F::kNormOfVariable) continue;
    lane.Until(end, [&](int64_t element) {
      const double x = values[half][which][element - begin];
      sum += x * x;
    });
  }
  StoreSquares(sum, launch.all.squares + blockIdx.x);
}

// One block.
template <class F, class T>
KLO_DEVICE void SparseScale(const SparseLaunch<Arithmetic<T>>& launch) {
  if (!Goes(launch.rows)) return;
  const int64_t lines = F::kIdle ? launch.lines : int64_t{*launch.rows.head_count};
  const int64_t blocks = (lines + launch.lines_of_block - 1) / launch.lines_of_block;
  const Squares sums = SumOfChunks(launch.all.squares, blocks);
  if (threadIdx.x == 0) launch.all.scales[0] = TakeScale<F, T>(launch.all, 0, sums);
}

template <class F, class T>
KLO_DEVICE void SparseMove(const SparseLaunch<Arithmetic<T>>& launch) {
  using C = Arithmetic<T>;
  if (!Goes(launch.rows)) return;
  const F f(HypersOf<F>(launch.all, 0));
  const Lines<F, C> lines(launch);
  const Table<F, T> table(launch);
  const C scale = launch.all.scales[0];
  constexpr unsigned kChanged = ChangedBy(&F::Move);
  const int64_t elements = lines.count() * launch.width;
  ForEachOfRows<T>(launch.width, lines.count() == 1, table.is_aligned, 0, elements,
                   [&](int i, const Range& range, int64_t) {
                     const Line line = lines.At(i);
                     const Place<F, T> place = table.At(line);
                     C state[Place<F, T>::kTensors][kWidth<T>], g[kWidth<T>];
                     place.LoadState(range, state);
                     table.SumGradients(line, range, g);
                     CallMove(f, state, g, scale, IndicesTo<Place<F, T>::kTensors>());
                     place.StoreState(range, state, kChanged);
                   });
}

// After the update, the averages of all elements: a block for each chunk of the table. It needs no formula.
template <class T>
KLO_DEVICE void SparseAverage(const SparseLaunch<Arithmetic<T>>& launch) {
  if (!Goes(launch.rows)) return;
  const Chunk chunk = launch.all.chunks[blockIdx.x];
  const Around<Arithmetic<T>> around(launch.all, 0);
  const T* var = static_cast<const T*>(launch.all.state[0]) + chunk.offset;
  T* average = static_cast<T*>(launch.all.state[launch.average]) + chunk.offset;
  const uint64_t bits = reinterpret_cast<uint64_t>(var) | reinterpret_cast<uint64_t>(average);
  ForEachRange<T>(bits % sizeof(Pack<T>) == 0, 0, chunk.count, [&](const Range& range) {
    Arithmetic<T> from[kWidth<T>], to[kWidth<T>];
    range.Load(var, from);
    range.Load(average, to);
    KLO_UNROLL
    for (int j = 0; j < kWidth<T>; ++j) around.Average(from[j], to[j]);
    range.Store(to, average);
  });
}

}  // namespace gpu
}  // namespace keras_legacy_opt

// Defines a kernel: JOB is Sparse; for a formula with norms SparseDirect, SparseScale or SparseMove.
#define KLO_SPARSE_KERNEL(SYMBOL, JOB, FUNCTOR, T)                                                                  \
  KLO_KERNEL SYMBOL(const ::keras_legacy_opt::gpu::SparseLaunch<::keras_legacy_opt::Arithmetic<T>> launch) {        \
    ::keras_legacy_opt::gpu::JOB<FUNCTOR<::keras_legacy_opt::Arithmetic<T>, ::keras_legacy_opt::Path::kSparse>, T>( \
        launch);                                                                                                    \
  }

#define KLO_AVERAGE_KERNEL(SYMBOL, T)                                                                        \
  KLO_KERNEL SYMBOL(const ::keras_legacy_opt::gpu::SparseLaunch<::keras_legacy_opt::Arithmetic<T>> launch) { \
    ::keras_legacy_opt::gpu::SparseAverage<T>(launch);                                                       \
  }

#endif  // KERAS_LEGACY_OPT_GPU_SPARSE_H_
