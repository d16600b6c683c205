// Dense gradients: all variables of a dtype in one launch, each element read and written once. Of a formula with norms,
// three launches: directions and their sums of squares, the scales, the moves.
#ifndef KERAS_LEGACY_OPT_GPU_DENSE_H_
#define KERAS_LEGACY_OPT_GPU_DENSE_H_

#include "device.h"

namespace keras_legacy_opt {
namespace gpu {

template <class F, class C, int n, int... k>
KLO_DEVICE void CallUpdate(const F& f, C (&state)[sizeof...(k)][n], const C (&g)[n], Indices<k...>) {
  KLO_UNROLL
  for (int j = 0; j < n; ++j) f(state[k][j]..., g[j]);
}

template <class F, class C, int n, int... k>
KLO_DEVICE void CallDirection(const F& f, C (&state)[sizeof...(k)][n], const C (&g)[n], C (&direction)[n],
                              Indices<k...>) {
  KLO_UNROLL
  for (int j = 0; j < n; ++j) direction[j] = f.Direction(state[k][j]..., g[j]);
}

template <class F, class C, int n, int... k>
KLO_DEVICE void CallMove(const F& f, C (&state)[sizeof...(k)][n], const C (&g)[n], C scale, Indices<k...>) {
  KLO_UNROLL
  for (int j = 0; j < n; ++j) f.Move(state[k][j]..., g[j], scale);
}

template <class T>
constexpr bool kIsReference = false;
template <class T>
constexpr bool kIsReference<T&> = true;

// Which tensors a method of a functor changes, a bit for each: those that it takes by reference.
template <class R, class F, class... Arguments>
constexpr unsigned ChangedBy(R (F::*)(Arguments...) const) {
  unsigned bits = 0, k = 0;
  ((bits |= static_cast<unsigned>(kIsReference<Arguments>) << k++), ...);
  return bits;
}

template <class F, class T>
KLO_DEVICE void UpdateChunk(const Launch<Arithmetic<T>>& launch, const Chunk& chunk) {
  using C = Arithmetic<T>;
  const F f(HypersOf<F>(launch, chunk.tensor));
  const Around<C> around(launch, chunk.tensor);
  const Place<F, T> place(launch, chunk);
  ForEachRange<T>(place.is_aligned, 0, chunk.count, [&](const Range& range) {
    C state[Place<F, T>::kTensors][kWidth<T>], g[kWidth<T>];
    place.LoadState(range, state);
    place.LoadGradient(range, around, g);
    KLO_UNROLL
    for (int j = 0; j < kWidth<T>; ++j) around.Decay(state[0][j]);
    CallUpdate(f, state, g, IndicesTo<Place<F, T>::kTensors>());
    place.StoreState(range, state, ~0u);
    place.MoveAverage(range, around, state[0]);
  });
}

template <class F, class T>
KLO_DEVICE void Dense(const Launch<Arithmetic<T>>& launch) {
  if (!Applies(launch)) return;
  const Chunk chunk = launch.chunks[blockIdx.x];
  if constexpr (kHasSpecial<F>) {
    if (F::IsSpecial(HypersOf<F>(launch, chunk.tensor))) return UpdateChunk<typename F::Special, T>(launch, chunk);
  }
  UpdateChunk<F, T>(launch, chunk);
}

// Sums of squares as the CPU has them: kLanes sums, of every kLanes-th element each, one term after the other.
constexpr int kLanes = 16;

// Adds up the lanes of both sums, by all threads; thread `lane` has the sum of that lane of the direction, thread
// kLanes + `lane` that of the variable.
KLO_DEVICE void StoreSquares(double sum, Squares* squares) {
  __shared__ double lanes[2 * kLanes];
  const int thread = static_cast<int>(threadIdx.x);
  if (thread < 2 * kLanes) lanes[thread] = sum;
  __syncthreads();
  if (thread >= 2) return;
  double total = 0;
  for (int j = 0; j < kLanes; ++j) total += lanes[thread * kLanes + j];
  (thread == 0 ? squares->direction : squares->variable) = total;
}

template <class F, class T>
KLO_DEVICE void Direct(const Launch<Arithmetic<T>>& launch) {
  using C = Arithmetic<T>;
  // In turn one half is filled, and the other one summed by the first warp.
  constexpr int kStage = 1024;
  __shared__ C values[2][2][kStage];
  if (!Applies(launch)) return;
  const Chunk chunk = launch.chunks[blockIdx.x];
  const F f(HypersOf<F>(launch, chunk.tensor));
  const Around<C> around(launch, chunk.tensor);
  const Place<F, T> place(launch, chunk);
  const int thread = static_cast<int>(threadIdx.x), which = thread / kLanes;
  constexpr unsigned kChanged = ChangedBy(&F::Direction);
  const unsigned changed = kChanged | (around.decay != C(0));
  double sum = 0;
  KLO_ROLLED
  for (int begin = 0, half = 0; begin < chunk.count; begin += kStage, half ^= 1) {
    const int end = chunk.count - begin < kStage ? chunk.count : begin + kStage;
    ForEachRange<T>(place.is_aligned, begin, end, [&](const Range& range) {
      C state[Place<F, T>::kTensors][kWidth<T>], g[kWidth<T>], direction[kWidth<T>];
      place.LoadState(range, state);
      place.LoadGradient(range, around, g);
      KLO_UNROLL
      for (int j = 0; j < kWidth<T>; ++j) around.Decay(state[0][j]);
      CallDirection(f, state, g, direction, IndicesTo<Place<F, T>::kTensors>());
      place.StoreState(range, state, changed);
      KLO_UNROLL
      for (int j = 0; j < kWidth<T>; ++j) {
        values[half][0][range.first - begin + j] = direction[j];  // kStage is a multiple of every width.
        values[half][1][range.first - begin + j] = state[0][j];
      }
    });
    __syncthreads();
    if (which > F::kNormOfVariable) continue;
    for (int i = thread % kLanes; i < end - begin; i += kLanes) {
      const double x = values[half][which][i];
      sum += x * x;
    }
  }
  StoreSquares(sum, launch.squares + blockIdx.x);
}

// One block for each variable: adds up the sums of its chunks, in their order.
KLO_DEVICE Squares SumOfChunks(const Squares* squares, int64_t count) {
  __shared__ double stage[kThreads][2];
  __shared__ double totals[2];
  const int thread = static_cast<int>(threadIdx.x);
  double total = 0;
  KLO_ROLLED
  for (int64_t begin = 0; begin < count; begin += kThreads) {
    const int n = count - begin < kThreads ? static_cast<int>(count - begin) : kThreads;
    if (thread < n) {
      stage[thread][0] = squares[begin + thread].variable;
      stage[thread][1] = squares[begin + thread].direction;
    }
    __syncthreads();
    if (thread < 2) {
      for (int i = 0; i < n; ++i) total += stage[i][thread];
    }
    __syncthreads();
  }
  if (thread < 2) totals[thread] = total;
  __syncthreads();
  return {totals[0], totals[1]};
}

// The scale of a variable, of the sums of the squares; its scalar slots take their step. By one thread.
template <class F, class T>
KLO_DEVICE Arithmetic<T> TakeScale(const Launch<Arithmetic<T>>& launch, int variable, const Squares& sums) {
  using C = Arithmetic<T>;
  constexpr int kScalars = kScalarSlotsOf<F>;
  const bool averages = launch.average_weight != nullptr;
  void* const* slots = launch.state + (int64_t{variable} + 1) * (F::kSlots + 1 + averages) - kScalars;
  C scalars[kScalars + 1];
  for (int k = 0; k < kScalars; ++k) scalars[k] = Load(*static_cast<const T*>(slots[k]));
  const F f(HypersOf<F>(launch, variable));
  const C scale = f.Scale(sums.variable, sums.direction, scalars);
  for (int k = 0; k < kScalars; ++k) Store(scalars[k], *static_cast<T*>(slots[k]));
  return scale;
}

template <class F, class T>
KLO_DEVICE void Scale(const Launch<Arithmetic<T>>& launch) {
  if (!Applies(launch)) return;
  const int variable = static_cast<int>(blockIdx.x);
  const int64_t begin = launch.first[variable];
  const Squares sums = SumOfChunks(launch.squares + begin, launch.first[variable + 1] - begin);
  if (threadIdx.x == 0) launch.scales[variable] = TakeScale<F, T>(launch, variable, sums);
}

template <class F, class T>
KLO_DEVICE void Move(const Launch<Arithmetic<T>>& launch) {
  using C = Arithmetic<T>;
  if (!Applies(launch)) return;
  const Chunk chunk = launch.chunks[blockIdx.x];
  const F f(HypersOf<F>(launch, chunk.tensor));
  const Around<C> around(launch, chunk.tensor);
  const Place<F, T> place(launch, chunk);
  const C scale = launch.scales[chunk.tensor];
  constexpr unsigned kChanged = ChangedBy(&F::Move);
  ForEachRange<T>(place.is_aligned, 0, chunk.count, [&](const Range& range) {
    C state[Place<F, T>::kTensors][kWidth<T>], g[kWidth<T>];
    place.LoadState(range, state);
    place.LoadGradient(range, around, g);
    CallMove(f, state, g, scale, IndicesTo<Place<F, T>::kTensors>());
    place.StoreState(range, state, kChanged);
    place.MoveAverage(range, around, state[0]);
  });
}

}  // namespace gpu
}  // namespace keras_legacy_opt

// Defines a kernel: JOB is Dense; for a formula with norms Direct, Scale or Move. T is an element type.
#define KLO_DENSE_KERNEL(SYMBOL, JOB, FUNCTOR, T)                                                                  \
  KLO_KERNEL SYMBOL(const ::keras_legacy_opt::gpu::Launch<::keras_legacy_opt::Arithmetic<T>> launch) {             \
    ::keras_legacy_opt::gpu::JOB<FUNCTOR<::keras_legacy_opt::Arithmetic<T>, ::keras_legacy_opt::Path::kDense>, T>( \
        launch);                                                                                                   \
  }

#endif  // KERAS_LEGACY_OPT_GPU_DENSE_H_
