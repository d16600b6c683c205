// What the kernels share: how they read what a launch is about, and how threads walk over elements.
//
// Compiled by NVRTC, without contraction to fused multiply-adds, this is CUDA, and has the bits of the CPU's loops but
// for powers (Ftrl, where learning_rate_power is not -0.5) and for which NaN a NaN is. tests/cuda.h has stand-ins for
// what they use of CUDA, with which the same text runs on a CPU.
#ifndef KERAS_LEGACY_OPT_GPU_DEVICE_H_
#define KERAS_LEGACY_OPT_GPU_DEVICE_H_

#include "../apply/dtype.h"
#include "../apply/gradient.h"
#include "../apply/traits.h"
#include "../math/prelude.h"
#include "launch.h"

#ifdef __CUDACC_RTC__
#define KLO_DEVICE __device__ __forceinline__
// Two blocks to a multiprocessor will do: aiming at more, the compiler saves registers by spilling some.
#define KLO_KERNEL extern "C" __global__ void __launch_bounds__(::keras_legacy_opt::gpu::kThreads, 2)
#define KLO_UNROLL _Pragma("unroll")
#define KLO_UNROLL_8 _Pragma("unroll 8")
// Loops whose rounds cannot overlap: each has a branch, a barrier or a search in it. Copies of them would only take
// time to compile, which a first step waits for.
#define KLO_ROLLED _Pragma("unroll 1")
#endif

namespace keras_legacy_opt {
namespace gpu {

// 0, 1, ..., as template arguments.
template <int... k>
struct Indices {};
template <int n, int... k>
struct MakeIndices : MakeIndices<n - 1, n - 1, k...> {};
template <int... k>
struct MakeIndices<0, k...> {
  using Type = Indices<k...>;
};
template <int n>
using IndicesTo = typename MakeIndices<n>::Type;

// As many elements as a thread takes at once: 16 bytes of each tensor; 8 of 16-bit types, whose values take twice the
// space in registers.
template <class T>
constexpr int kWidth = sizeof(T) == 8 ? 2 : 4;

// As it is when stored.
template <class T>
KLO_DEVICE Arithmetic<T> Rounded(Arithmetic<T> x) {
  T stored;
  Store(x, stored);
  return Load(stored);
}

template <class T>
struct alignas(kWidth<T> * sizeof(T)) Pack {
  T x[kWidth<T>];
};

// Elements [first, first + kWidth) of some tensors, or `count` of them. They are read and written with one access for
// each tensor where that is possible; the arithmetic is there once, for all.
struct Range {
  int64_t first;
  int count;
  bool is_whole;  // and aligned

  template <class T>
  KLO_DEVICE void Load(const T* tensor, Arithmetic<T>* to) const {
    Pack<T> pack;
    if (is_whole) {
      pack = *reinterpret_cast<const Pack<T>*>(tensor + first);
    } else {
      KLO_UNROLL
      for (int j = 0; j < kWidth<T>; ++j) pack.x[j] = tensor[first + (j < count ? j : 0)];
    }
    KLO_UNROLL
    for (int j = 0; j < kWidth<T>; ++j) to[j] = ::keras_legacy_opt::Load(pack.x[j]);
  }

  template <class T>
  KLO_DEVICE void Store(const Arithmetic<T>* from, T* tensor) const {
    Pack<T> pack;
    KLO_UNROLL
    for (int j = 0; j < kWidth<T>; ++j) ::keras_legacy_opt::Store(from[j], pack.x[j]);
    if (is_whole) {
      *reinterpret_cast<Pack<T>*>(tensor + first) = pack;
      return;
    }
    KLO_UNROLL
    for (int j = 0; j < kWidth<T>; ++j) {
      if (j < count) tensor[first + j] = pack.x[j];
    }
  }
};

// Calls visit(range) for all of [begin, end), each element once, by the threads of a block. begin is a multiple of
// every width.
template <class T, class Visit>
KLO_DEVICE void ForEachRange(bool is_aligned, int begin, int end, Visit visit) {
  constexpr int kWide = kWidth<T>;
  for (int i = begin + static_cast<int>(threadIdx.x) * kWide; i < end; i += kThreads * kWide) {
    const int count = end - i < kWide ? end - i : kWide;
    visit(Range{i, count, is_aligned && count == kWide});
  }
}

// The scalars of a formula, with the learning rate of a variable.
template <class F, class C>
KLO_DEVICE typename F::Hypers HypersOf(const Launch<C>& launch, int variable) {
  static_assert(F::kHypers <= kMaxHypers, "raise kMaxHypers");
  constexpr int kRate = IndexOfName(F::kHyperNames, "lr");
  C values[F::kHypers];
  KLO_UNROLL
  for (int i = 0; i < F::kHypers; ++i) values[i] = *launch.hypers[i];
  if (launch.per_variable != nullptr) values[kRate] *= launch.per_variable[2 * launch.per_variable_of_each * variable];
  typename F::Hypers h;
  KLO_BUILTIN(memcpy)(&h, values, sizeof h);
  return h;
}

template <class C>
KLO_DEVICE bool Applies(const Launch<C>& launch) {
  return launch.condition == nullptr || *launch.condition;
}

// What surrounds the formula of one variable, see Updater.
template <class C>
struct Around {
  bool transforms;
  GradientTransform<C> transform;
  C decay, average_weight;

  KLO_DEVICE Around(const Launch<C>& launch, int variable) : transforms(launch.transform != nullptr), transform() {
    if (transforms) {
      const C* row = launch.transform + 4 * launch.transform_of_each * variable;
      transform = {row[0], row[1], row[2], row[3]};
    }
    decay = launch.per_variable == nullptr ? C(0) : launch.per_variable[2 * launch.per_variable_of_each * variable + 1];
    average_weight = launch.average_weight == nullptr ? C(0) : *launch.average_weight;
  }

  KLO_DEVICE C Gradient(C g) const { return transforms ? transform(g) : g; }
  KLO_DEVICE void Decay(C& var) const {
    if (decay != C(0)) var -= decay * var;
  }
  KLO_DEVICE void Average(C var, C& average) const { average -= (average - var) * average_weight; }
};

// Where the elements of a chunk lie.
template <class F, class T>
struct Place {
  using C = Arithmetic<T>;
  static constexpr int kTensors = F::kSlots + 1 - kScalarSlotsOf<F>;

  T* tensors[kTensors];
  T* average;
  const T* grad;
  bool is_aligned;

  KLO_DEVICE Place(const Launch<C>& launch, const Chunk& chunk) : average(nullptr) {
    const bool averages = launch.average_weight != nullptr;
    void* const* state = launch.state + int64_t{chunk.tensor} * (F::kSlots + 1 + averages);
    grad = static_cast<const T*>(launch.grads[chunk.tensor]) + chunk.offset;
    uint64_t bits = reinterpret_cast<uint64_t>(grad);
    KLO_UNROLL
    for (int k = 0; k < kTensors; ++k) {
      tensors[k] = static_cast<T*>(state[k]) + chunk.offset;
      bits |= reinterpret_cast<uint64_t>(tensors[k]);
    }
    if (averages) {
      average = static_cast<T*>(state[kTensors]) + chunk.offset;
      bits |= reinterpret_cast<uint64_t>(average);
    }
    is_aligned = bits % sizeof(Pack<T>) == 0;
  }

  // The same, `elements` further on.
  KLO_DEVICE Place From(int64_t elements) const {
    Place place = *this;
    KLO_UNROLL
    for (int k = 0; k < kTensors; ++k) place.tensors[k] += elements;
    if (average != nullptr) place.average += elements;
    return place;
  }

  KLO_DEVICE void LoadState(const Range& range, C (&to)[kTensors][kWidth<T>]) const {
    KLO_UNROLL
    for (int k = 0; k < kTensors; ++k) range.Load(tensors[k], to[k]);
  }
  // Of tensor k, if bit k is set.
  KLO_DEVICE void StoreState(const Range& range, const C (&from)[kTensors][kWidth<T>], unsigned changed) const {
    KLO_UNROLL
    for (int k = 0; k < kTensors; ++k) {
      if (changed >> k & 1) range.Store(from[k], tensors[k]);
    }
  }
  KLO_DEVICE void LoadGradient(const Range& range, const Around<C>& around, C (&to)[kWidth<T>]) const {
    range.Load(grad, to);
    KLO_UNROLL
    for (int j = 0; j < kWidth<T>; ++j) to[j] = around.Gradient(to[j]);
  }
  // After an update, with the values of the variable.
  KLO_DEVICE void MoveAverage(const Range& range, const Around<C>& around, const C (&var)[kWidth<T>]) const {
    if (average == nullptr) return;
    C values[kWidth<T>];
    range.Load(average, values);
    KLO_UNROLL
    for (int j = 0; j < kWidth<T>; ++j) around.Average(var[j], values[j]);
    range.Store(values, average);
  }
};

}  // namespace gpu
}  // namespace keras_legacy_opt

#endif  // KERAS_LEGACY_OPT_GPU_DEVICE_H_
