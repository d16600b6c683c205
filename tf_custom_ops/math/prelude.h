// What every formula may use. The functors of this folder include nothing else, so that one text serves the dense loop,
// the sparse rows, every instruction set and the GPU.
//
// A functor has
//   KLO_SLOTS(names...)      its slot variables, in the order in which f takes them; the inputs of its op
//   KLO_HYPERS(names...)     its scalars: fields of F::Hypers; inputs of its op, too
//   F(const Hypers& h)       derives from the scalars what does not change from element to element
//   f(var, slots..., grad)   one step of one element
//   f.Idle(var, slots...)    sparse gradients only: one step of an element whose row got no gradient, where legacy
//                            updates such rows (kIdle says so)
// and may have
//   Refusal(h)               why scalars are not allowed, or null
//
// One of the scalars is called lr: the learning rate, which a variable may have a factor of.
//
// Where a step depends on norms of the whole variable, it takes two passes, and instead of f and f.Idle there are
//   KLO_SCALAR_SLOTS(n)      the last n slots have one element, and go to Scale only
//   f.Direction(var, slots..., grad)  the first pass, which may change slots; returns the direction
//   f.Scale(var_squares, direction_squares, scalar slots)  of the sums of the squares of both; changes scalar slots
//   f.Move(var, slots..., grad, scale)  the second pass
//   f.MoveAlong(var, direction, scale)  if there is such a thing: the same, of the direction that the first pass found
//   kDirectionReads          how many of var, slots... Direction reads, from the first on; 0: it returns the gradient
//   kNormOfVariable          whether Scale uses var_squares
// There, kIdle says that rows without gradient are as if they had one of zeros.
//
// A header ends with KLO_FORMULA(Name, Functor) for each op. The names of inputs are those that Python passes them by.
#ifndef KERAS_LEGACY_OPT_MATH_PRELUDE_H_
#define KERAS_LEGACY_OPT_MATH_PRELUDE_H_

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
#define KLO_FN __host__ __device__ __forceinline__
#define KLO_BUILTIN(NAME) ::NAME
#else
#define KLO_FN inline __attribute__((always_inline))
#define KLO_BUILTIN(NAME) __builtin_##NAME
#endif

#define KLO_SLOTS(...)                                    \
  static constexpr const char* kSlotNames = #__VA_ARGS__; \
  static constexpr int kSlots = ::keras_legacy_opt::CountNames(#__VA_ARGS__)

#define KLO_HYPERS(...)                                    \
  struct Hypers {                                          \
    T __VA_ARGS__;                                         \
  };                                                       \
  static constexpr const char* kHyperNames = #__VA_ARGS__; \
  static constexpr int kHypers = ::keras_legacy_opt::CountNames(#__VA_ARGS__)

#define KLO_SCALAR_SLOTS(N) static constexpr int kScalarSlots = N

// Where ops are registered, it does that.
#define KLO_FORMULA(NAME, FUNCTOR)

namespace keras_legacy_opt {

// Of "a, b, c", 3.
constexpr int CountNames(const char* names) {
  int count = *names == '\0' ? 0 : 1;
  for (; *names != '\0'; ++names) count += *names == ',';
  return count;
}

// Of "a, b, c" and "b", 1; -1 of what is not there.
constexpr int IndexOfName(const char* names, const char* name) {
  for (int index = 0;; ++index) {
    while (*names == ' ') ++names;
    const char* expected = name;
    while (*names != '\0' && *names != ',' && *names == *expected) ++names, ++expected;
    if (*expected == '\0' && (*names == '\0' || *names == ',')) return index;
    while (*names != '\0' && *names != ',') ++names;
    if (*names++ == '\0') return -1;
  }
}

KLO_FN float Sqrt(float x) { return KLO_BUILTIN(sqrtf)(x); }
KLO_FN double Sqrt(double x) { return KLO_BUILTIN(sqrt)(x); }
KLO_FN float Pow(float x, float y) { return KLO_BUILTIN(powf)(x, y); }
KLO_FN double Pow(double x, double y) { return KLO_BUILTIN(pow)(x, y); }
KLO_FN float NormOf(double squares, float) { return static_cast<float>(KLO_BUILTIN(sqrt)(squares)); }
KLO_FN double NormOf(double squares, double) { return KLO_BUILTIN(sqrt)(squares); }
KLO_FN float Abs(float x) { return KLO_BUILTIN(fabsf)(x); }
KLO_FN double Abs(double x) { return KLO_BUILTIN(fabs)(x); }

// 0 and NaN stay.
template <class T>
KLO_FN T Sign(T x) {
  return x > T(0) ? T(1) : x < T(0) ? T(-1) : x;
}

// A NaN on the left stays, as in TensorFlow's kernels.
template <class T>
KLO_FN T Max(T a, T b) {
  return a < b ? b : a;
}
template <class T>
KLO_FN T Min(T a, T b) {
  return b < a ? b : a;
}

// A NaN on either side is the result, as of TensorFlow's op `Maximum`.
template <class T>
KLO_FN T MaxOrNan(T a, T b) {
  return a < b || b != b ? b : a;
}

// Where the formula is used. Legacy computes the same mathematics by different roundings: its dense kernels on one
// side, its sparse ones and its compositions of plain ops on the other.
enum class Path { kDense, kSparse };

// How an exponential average is rounded.
enum class Average {
  kStep,     // a + (x - a) * (1 - decay)
  kWeighted  // a * decay + x * (1 - decay)
};

template <Average kAverage, class T>
KLO_FN T MovingAverage(T a, T x, T decay, T one_minus_decay) {
  return kAverage == Average::kStep ? a + (x - a) * one_minus_decay : a * decay + x * one_minus_decay;
}

// The maximum of a kernel on the dense path, of an op on the sparse one.
template <Path kPath, class T>
KLO_FN T MaxOn(T a, T b) {
  return kPath == Path::kDense ? Max(a, b) : MaxOrNan(a, b);
}

// eeta * |var| / |direction|, of the sums of their squares; 1 where a norm is 0.
template <class T>
KLO_FN T TrustRatio(T eeta, double var_squares, double direction_squares) {
  const T var = NormOf(var_squares, T()), direction = NormOf(direction_squares, T());
  return var > T(0) && direction > T(0) ? eeta * var / direction : T(1);
}

constexpr Average AverageOn(Path path) { return path == Path::kDense ? Average::kStep : Average::kWeighted; }

}  // namespace keras_legacy_opt

#endif  // KERAS_LEGACY_OPT_MATH_PRELUDE_H_
