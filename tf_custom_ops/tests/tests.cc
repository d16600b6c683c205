// Every functor, type, instruction set, tail and alignment, without TensorFlow.
#include <xmmintrin.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "../apply/chunks.h"
#include "../apply/cpu.h"
#include "../apply/directions.h"
#include "../apply/finite.h"
#include "check.h"
#include "formulas.h"
#include "state.h"

namespace keras_legacy_opt {
namespace {

template <class T>
Real Epsilon() {
  if (std::is_same_v<T, Bfloat16>) return 0x1p-7L;
  if (std::is_same_v<T, Half>) return 0x1p-10L;
  return std::numeric_limits<Arithmetic<T>>::epsilon();
}

template <class T>
std::vector<Isa> Levels() {
  std::vector<Isa> levels = {Isa::kBase};
  if (SupportedIsa() >= Isa::kAvx2) levels.push_back(Isa::kAvx2);
  if (SupportedIsa() >= Isa::kAvx512) levels.push_back(Isa::kAvx512);
  return levels;
}

// Expects each element of the state within a few roundings of the formula applied to what it was before.
template <class T>
void ExpectStep(State<T>& before, State<T>& after, int64_t i, const std::vector<Real>& grads, bool touched,
                const Formula& formula, const std::string& where) {
  std::vector<Real> s(before.size()), largest(before.size(), 0);
  const auto hyper = HypersOf<T>(formula);
  const std::vector<Real> h(hyper.begin(), hyper.end());
  for (size_t k = 0; k < s.size(); ++k) s[k] = Load(before.At(k, i));
  const std::vector<Real> old = s;
  for (Real g : grads) formula.step(s.data(), g, h);
  if (!touched && formula.idle != nullptr) formula.idle(s.data(), h);
  for (size_t k = 0; k < s.size(); ++k) {
    // Inputs are of order one: errors of intermediate results are relative to one in float, and to the stored value in
    // the 16-bit types, which round once.
    const Real scale = std::max({std::fabs(old[k]), std::fabs(s[k]), Real(0.02)});
    const Real roundings = std::max<size_t>(grads.size(), 1);
    const Real tolerance =
        roundings * scale * Epsilon<T>() * 0.51L + Real(40) * std::numeric_limits<Arithmetic<T>>::epsilon();
    const Real got = Load(after.At(k, i));
    CHECK(std::fabs(got - s[k]) <= tolerance,
          formula.name << where << " tensor " << k << " element " << i << ": " << got << " instead of " << s[k]);
  }
}

template <class T>
struct DenseTest {
  template <template <class, Path> class F>
  void operator()(const Formula& formula) const {
    const auto hyper = HypersOf<T>(formula);
    CHECK((F<float, Path::kDense>::kHypers == formula.hypers.size()), formula.name);
    CHECK((F<float, Path::kDense>::kSlots + 1 == formula.first_state.size()), formula.name);
    for (int64_t count = 0; count < 70; ++count) {
      for (int64_t offset : {0, 1, 3, 7}) {
        const auto grad = Gradients<T>(count + offset, 17 + count);
        State<T> before(formula.first_state, count, offset, 5 + count), base(before);
        for (Isa isa : Levels<T>()) {
          State<T> after(before);
          const auto bound = Bind<F, Path::kDense>(isa, hyper.data());
          const Updater<T> updater(isa, bound, nullptr);
          // Split anywhere, the result is the same.
          const int64_t cut = count / 3;
          updater.Dense(after.pointers(), grad.data() + offset, 0, cut);
          updater.Dense(after.pointers(), grad.data() + offset, cut, count - cut);
          CHECK(after.Guarded(), formula.name << " wrote outside");
          if (isa == Isa::kBase) {
            for (int64_t i = 0; i < count; ++i) {
              ExpectStep(before, after, i, {Load(grad[offset + i])}, true, formula, " dense");
            }
            base.~State();
            new (&base) State<T>(after);
          }
          CHECK(after.SameBits(base), formula.name << " differs on " << IsaName(isa));
        }
      }
    }
    Transformed<F>(formula);
  }

  template <template <class, Path> class F>
  void Transformed(const Formula& formula) const {
    using C = Arithmetic<T>;
    const auto hyper = HypersOf<T>(formula);
    const int64_t count = 37;
    const auto grad = Gradients<C>(count, 3);
    const GradientTransform<C> transform = {C(0.5), C(0.1), C(3), C(1.25)};
    std::vector<T> raw(count), applied(count);
    std::vector<C> transformed(count);
    for (int64_t i = 0; i < count; ++i) {
      raw[i] = Stored<T>(grad[i]);
      const C g = std::max(std::min(Load(raw[i]) * C(0.5), C(0.1)), C(-0.1));
      transformed[i] = g * C(3) / C(1.25);
    }
    for (Isa isa : Levels<T>()) {
      State<T> once(formula.first_state, count, 0, 9), twice(once);
      const auto bound = Bind<F, Path::kDense>(isa, hyper.data());
      Updater<T>(isa, bound, &transform).Dense(once.pointers(), raw.data(), 0, count);
      for (int64_t i = 0; i < count; ++i) {
        ExpectStep(twice, once, i, {transformed[i]}, true, formula, " transformed");
      }
    }
  }
};

template <class T>
struct SparseTest {
  template <template <class, Path> class F>
  void operator()(const Formula& formula) const {
    const auto hyper = HypersOf<T>(formula);
    const int64_t table = 23;
    for (int64_t width : {1, 2, 5, 16, 33}) {
      for (const std::vector<int32_t>& indices :
           {std::vector<int32_t>{}, {4}, {22, 0}, {7, 3, 7, 7, 3, 22, 0}, {1, 1, 1, 1}}) {
        RowPlan plan;
        CHECK(PlanRows(indices.data(), indices.size(), table, &plan) == -1, "");
        const auto grad = Gradients<T>(indices.size() * width, 31 + width);
        State<T> before(formula.first_state, table * width, 1, 5), base(before);
        for (Isa isa : Levels<T>()) {
          State<T> after(before);
          const auto bound = Bind<F, Path::kSparse>(isa, hyper.data());
          const Updater<T> updater(isa, bound, nullptr);
          const int64_t work = updater.SparseRows(plan, table);
          updater.Sparse(after.pointers(), grad.data(), plan, width, 0, work / 2);
          updater.Sparse(after.pointers(), grad.data(), plan, width, work / 2, work);
          CHECK(after.Guarded(), formula.name << " wrote outside");
          if (isa == Isa::kBase) {
            Expect(formula, F<float, Path::kSparse>::kSumDuplicates, before, after, indices, grad, width);
            base.~State();
            new (&base) State<T>(after);
          }
          CHECK(after.SameBits(base), formula.name << " differs on " << IsaName(isa));
        }
      }
    }
  }

  static void Expect(const Formula& formula, bool sum, State<T>& before, State<T>& after,
                     const std::vector<int32_t>& indices, const std::vector<T>& grad, int64_t width) {
    for (int64_t i = 0; i < before.count(); ++i) {
      std::vector<Real> grads;
      for (size_t k = 0; k < indices.size(); ++k) {
        if (indices[k] == i / width) grads.push_back(Load(grad[k * width + i % width]));
      }
      const bool touched = !grads.empty();
      if (sum && touched) {
        Real total = 0;
        for (Real g : grads) total += g;
        grads = {total};
      }
      if (!touched && formula.idle == nullptr) {
        for (size_t k = 0; k < before.size(); ++k) {
          CHECK(std::memcmp(&before.At(k, i), &after.At(k, i), sizeof(T)) == 0, formula.name << " changed row " << i);
        }
      } else {
        ExpectStep(before, after, i, grads, touched, formula, " sparse");
      }
    }
  }
};

// A decay before the update and an average after it are what they are in passes of their own; 16-bit types round once.
template <class T>
struct BesideTest {
  using C = Arithmetic<T>;
  static constexpr int64_t kWidth = 17, kTable = 61, kCount = kWidth * kTable;

  template <template <class, Path> class F>
  void operator()(const Formula& formula) const {
    const auto hyper = HypersOf<T>(formula);
    auto first = formula.first_state;
    first.push_back(0.4L);  // the average
    const auto grad = Gradients<T>(kCount, 3);
    std::vector<C> wide_grad(kCount);
    for (int64_t i = 0; i < kCount; ++i) wide_grad[i] = Load(grad[i]);
    const GradientTransform<C> transform = {C(0.5), C(0.1), C(3), C(1.25)};
    const Beside<C> beside = {C(0.25), true, C(0.125)};
    for (Isa isa : Levels<T>()) {
      for (const auto* t : {static_cast<const GradientTransform<C>*>(nullptr), &transform}) {
        State<T> once(first, kCount, 1, 9);
        State<C> wide = Wide(once, first);
        const auto bound = Bind<F, Path::kDense>(isa, hyper.data());
        Updater<T>(isa, bound, t, beside).Dense(once.pointers(), grad.data(), 0, kCount);
        for (int64_t i = 0; i < kCount; ++i) Decay(wide, i);
        Updater<C>(isa, bound, t).Dense(wide.pointers(), wide_grad.data(), 0, kCount);
        MoveAverage(wide);
        Expect(once, wide, formula, "dense");
      }
      State<T> once(first, kCount, 1, 9);
      State<C> wide = Wide(once, first);
      const std::vector<int32_t> indices = {5, 3, 5, 5, 60};
      RowPlan plan;
      PlanRows(indices.data(), indices.size(), kTable, &plan);
      const auto bound = Bind<F, Path::kSparse>(isa, hyper.data());
      const Updater<T> updater(isa, bound, nullptr, beside);
      const int64_t rows = updater.SparseRows(plan, kTable);
      updater.Sparse(once.pointers(), grad.data(), plan, kWidth, 0, rows / 2);
      updater.Sparse(once.pointers(), grad.data(), plan, kWidth, rows / 2, rows);
      for (int row : {3, 5, 60}) {
        for (int64_t i = row * kWidth; i < (row + 1) * kWidth; ++i) Decay(wide, i);
      }
      Updater<C>(isa, bound, nullptr).Sparse(wide.pointers(), wide_grad.data(), plan, kWidth, 0, rows);
      // Rows that are updated several times are rounded as often.
      if (std::is_same_v<T, C> || F<float, Path::kSparse>::kSumDuplicates) Expect(once, wide, formula, "sparse");
      State<C> again = Wide(once, first);
      updater.Averages(once.pointers(), 0, kCount / 3);
      updater.Averages(once.pointers(), kCount / 3, kCount - kCount / 3);
      MoveAverage(again);
      Expect(once, again, formula, "averages");
    }
  }

  static State<C> Wide(State<T>& state, const std::vector<Real>& first) {
    State<C> wide(first, kCount, 1, 9);
    for (size_t k = 0; k < state.size(); ++k) {
      for (int64_t i = 0; i < kCount; ++i) wide.At(k, i) = Load(state.At(k, i));
    }
    return wide;
  }

  static void Decay(State<C>& state, int64_t i) { state.At(0, i) -= C(0.25) * state.At(0, i); }

  static void MoveAverage(State<C>& state) {
    for (int64_t i = 0; i < kCount; ++i) {
      C& average = state.At(state.size() - 1, i);
      average -= (average - state.At(0, i)) * C(0.125);
    }
  }

  static void Expect(State<T>& once, State<C>& wide, const Formula& formula, const char* where) {
    CHECK(once.Guarded(), formula.name << " wrote outside");
    for (size_t k = 0; k < once.size(); ++k) {
      for (int64_t i = 0; i < kCount; ++i) {
        T expected;
        Store(wide.At(k, i), expected);
        CHECK(std::memcmp(&expected, &once.At(k, i), sizeof(T)) == 0,
              formula.name << " beside " << where << " tensor " << k << " element " << i);
      }
    }
  }
};

// Formulas with norms, dense and sparse, in blocks.
template <class T>
struct NormTest {
  static constexpr int64_t kWidth = 7, kTable = 181, kCount = kWidth * kTable;

  template <template <class, Path> class F>
  void operator()(const NormFormula& formula) const {
    using C = Arithmetic<T>;
    using Functor = F<C, Path::kDense>;
    const std::vector<C> hyper(formula.hypers.begin(), formula.hypers.end());
    CHECK(Functor::kHypers == hyper.size(), formula.name);
    CHECK(Functor::kSlots + 1 == formula.first_state.size(), formula.name);
    const auto grad = Gradients<T>(kCount, 31);
    const std::vector<int32_t> indices = {4, 0, 180, 4, 4, 77};
    RowPlan plan;
    PlanRows(indices.data(), indices.size(), kTable, &plan);
    const Directions<C> kept({3, kCount});
    for (auto [sparse, keeps] : {std::pair{false, false}, {false, true}, {true, false}}) {
      State<T> before(formula.first_state, kCount, 3, 5), base(before);
      for (Isa isa : Levels<T>()) {
        State<T> after(before);
        const auto bound = Bind<F, Path::kDense>(isa, hyper.data());
        const Updater<T> updater(isa, bound, nullptr, {C(0.25)});
        C* directions = keeps && updater.MovesAlong() ? kept.Of(1) : nullptr;
        const int64_t all = sparse ? updater.SparseRows(plan, kTable) : kCount;
        SumsOfSquares total;
        for (const auto& [begin, end] : {std::pair{int64_t{0}, all / 48 * 16}, {all / 48 * 16, all}}) {
          Squares squares;
          if (sparse) {
            updater.DirectSparse(after.pointers(), grad.data(), plan, kWidth, begin, end, &squares);
          } else {
            updater.DirectDense(after.pointers(), grad.data(), begin, end - begin, &squares, directions);
          }
          total += SumsOfSquares(squares);
        }
        const C scale = updater.Scale(after.pointers(), total.variable, total.direction);
        if (sparse) {
          updater.MoveSparse(after.pointers(), grad.data(), plan, kWidth, 0, all, scale);
        } else {
          updater.MoveDense(after.pointers(), grad.data(), 0, kCount, scale, directions);
        }
        CHECK(after.Guarded(), formula.name << " wrote outside");
        if (isa == Isa::kBase) {
          Expect(formula, Functor::kIdle, Functor::kScalarSlots, before, after, sparse ? &indices : nullptr, grad);
          base.~State();
          new (&base) State<T>(after);
        }
        CHECK(after.SameBits(base), formula.name << " differs on " << IsaName(isa));
      }
    }
  }

  static void Expect(const NormFormula& formula, bool idle, int scalars, State<T>& before, State<T>& after,
                     const std::vector<int32_t>* indices, const std::vector<T>& grad) {
    // The elements that the step sees, and their gradients.
    std::vector<int64_t> elements;
    std::vector<Real> g;
    for (int64_t i = 0; i < kCount; ++i) {
      Real sum = 0;
      bool touched = indices == nullptr;
      if (touched) sum = Load(grad[i]);
      for (size_t k = 0; indices != nullptr && k < indices->size(); ++k) {
        if ((*indices)[k] != i / kWidth) continue;
        sum += Load(grad[k * kWidth + i % kWidth]);
        touched = true;
      }
      if (!touched && !idle) continue;
      elements.push_back(i);
      g.push_back(sum);
    }
    std::vector<std::vector<Real>> s(before.size());
    for (size_t k = 0; k < s.size(); ++k) {
      if (k + scalars >= s.size()) {
        s[k] = {Load(before.At(k, 0))};
        continue;
      }
      for (size_t j = 0; j < elements.size(); ++j) {
        const bool touched = indices == nullptr || g[j] != 0;
        s[k].push_back(Load(before.At(k, elements[j])) * Real(k == 0 && touched ? 0.75L : 1));
      }
    }
    std::vector<Arithmetic<T>> hyper(formula.hypers.begin(), formula.hypers.end());
    formula.step(s, g, std::vector<Real>(hyper.begin(), hyper.end()));
    for (size_t k = 0; k < s.size(); ++k) {
      for (size_t j = 0; j < s[k].size(); ++j) {
        const Real got = Load(after.At(k, s[k].size() == 1 ? 0 : elements[j]));
        const Real scale = std::max(std::fabs(s[k][j]), Real(0.1));
        // Between the passes, the 16-bit types are rounded: that of a second moment shows in the direction.
        const Real tolerance = scale * Epsilon<T>() * (std::is_same_v<T, Arithmetic<T>> ? 20 : 2);
        CHECK(std::fabs(got - s[k][j]) <= tolerance,
              formula.name << " tensor " << k << " element " << j << ": " << got << " instead of " << s[k][j]);
      }
    }
  }
};

// NaN and infinite gradients reach the variable (where steps are bounded, a slot), and only their own element.
struct SpecialValueTest {
  template <template <class, Path> class F>
  void operator()(const Formula& formula) const {
    const auto hyper = HypersOf<float>(formula);
    const int64_t count = 19;
    for (Isa isa : Levels<float>()) {
      const auto bound = Bind<F, Path::kDense>(isa, hyper.data());
      for (float special : {NAN, INFINITY, -INFINITY}) {
        auto grad = Gradients<float>(count, 3);
        State<float> clean(formula.first_state, count, 0, 4), state(clean);
        Updater<float>(isa, bound, nullptr).Dense(clean.pointers(), grad.data(), 0, count);
        grad[7] = special;
        Updater<float>(isa, bound, nullptr).Dense(state.pointers(), grad.data(), 0, count);
        for (int64_t i = 0; i < count; ++i) {
          if (i == 7) {
            const int k = formula.bounded && !std::isnan(special) ? 1 : 0;
            CHECK(!std::isfinite(special) && !(state.At(k, i) == clean.At(k, i)), formula.name << " lost " << special);
          } else {
            CHECK(state.At(0, i) == clean.At(0, i), formula.name << " spread " << special);
          }
        }
      }
    }
  }
};

// Denormal gradients count where the thread does not flush them, and read as zero where it does.
struct DenormalTest {
  template <template <class, Path> class F>
  void operator()(const Formula& formula) const {
    const auto hyper = HypersOf<float>(formula);
    std::vector<Real> nothing(formula.first_state.size(), 0);
    if (nothing.size() > 1) nothing[1] = formula.smallest_slot;
    for (Isa isa : Levels<float>()) {
      const auto bound = Bind<F, Path::kDense>(isa, hyper.data());
      const std::vector<float> grad(11, 1e-40f), zero(11, 0.0f);
      State<float> state(nothing, 11, 0, 4), flushed(state), still(state);
      Updater<float>(isa, bound, nullptr).Dense(state.pointers(), grad.data(), 0, 11);
      for (int64_t i = 0; i < 11; ++i) CHECK(std::isfinite(state.At(0, i)), formula.name << " on a denormal");
      const unsigned before = _mm_getcsr();
      _mm_setcsr(before | 0x8040);
      Updater<float>(isa, bound, nullptr).Dense(flushed.pointers(), grad.data(), 0, 11);
      Updater<float>(isa, bound, nullptr).Dense(still.pointers(), zero.data(), 0, 11);
      _mm_setcsr(before);
      CHECK(flushed.SameBits(still), formula.name << " flushed");
    }
  }
};

void TestConversions() {
  for (uint32_t x = 0; x < 0x10000; ++x) {
    const Half half = {static_cast<uint16_t>(x)};
    const Bfloat16 bfloat = {static_cast<uint16_t>(x)};
    const float h = Load(half), b = Load(bfloat);
    const int exponent = (x >> 10) & 31, mantissa = x & 1023;
    const double magnitude = exponent == 0    ? std::ldexp(mantissa, -24)
                             : exponent == 31 ? (mantissa ? NAN : INFINITY)
                                              : std::ldexp(1024 + mantissa, exponent - 25);
    const double expected = x & 0x8000 ? -magnitude : magnitude;
    CHECK(std::isnan(expected) ? std::isnan(h) : h == expected && std::signbit(h) == std::signbit(expected), x);
    Half half_again;
    Bfloat16 bfloat_again;
    Store(h, half_again);
    Store(b, bfloat_again);
    CHECK(std::isnan(h) ? std::isnan(Load(half_again)) : half_again.bits == x, "half " << x);
    CHECK(std::isnan(b) ? std::isnan(Load(bfloat_again)) : bfloat_again.bits == x, "bfloat16 " << x);
  }
  // Between neighbours: the nearer one, and the even one in the middle.
  const auto nearest = [](auto zero, uint32_t x, int infinity) {
    using T = decltype(zero);
    T low = {static_cast<uint16_t>(x)}, high = {static_cast<uint16_t>(x + 1)}, got;
    if (x + 1 >= static_cast<uint32_t>(infinity)) return;
    const float middle = Load(low) + (Load(high) - Load(low)) / 2;
    Store(middle, got);
    CHECK(got.bits == (x & 1 ? x + 1 : x), "middle above " << x);
    Store(std::nextafter(middle, INFINITY), got);
    CHECK(got.bits == x + 1, "above the middle of " << x);
    Store(std::nextafter(middle, 0.0f), got);
    CHECK(got.bits == x, "below the middle of " << x);
  };
  for (uint32_t x = 0; x < 0x7fff; ++x) {
    nearest(Half{}, x, 0x7c00);
    if (x >= 0x80) nearest(Bfloat16{}, x, 0x7f80);
  }
  Half big;
  Store(65520.0f, big);
  CHECK(big.bits == 0x7c00, "overflow");
  Store(65519.0f, big);
  CHECK(big.bits == 0x7bff, "largest");
}

void TestChunks() {
  ChunkTable chunks;
  const std::vector<int64_t> sizes = {0, 3, 0, 0, int64_t{5} << 31, 1, 0, int64_t{1} << 40, 7, 0};
  for (int64_t size : sizes) chunks.Add(size);
  CHECK(chunks.size() == 3 + (int64_t{5} << 31) + 1 + (int64_t{1} << 40) + 7, chunks.size());
  std::vector<int64_t> covered(sizes.size(), 0);
  int64_t position = 0;
  for (int64_t begin = 0; begin < chunks.size(); begin += (int64_t{1} << 33) + 12345) {
    const int64_t end = std::min(chunks.size(), begin + (int64_t{1} << 33) + 12345);
    chunks.ForEach(begin, end, [&](int64_t tensor, int64_t offset, int64_t count) {
      CHECK(offset == covered[tensor] && count > 0, "tensor " << tensor << " at " << offset);
      covered[tensor] += count;
      position += count;
    });
    CHECK(position == end, position);
  }
  CHECK(covered == sizes, "not everything was visited");
  ChunkTable().ForEach(0, 0, [](int64_t, int64_t, int64_t) { CHECK(false, "nothing to visit"); });
}

void TestBlocks() {
  BlockTable blocks(10);
  for (int64_t size : {0, 25, 0, 10, 1}) blocks.Add(size);
  CHECK(blocks.size() == 5 && blocks.First(1) == 0 && blocks.First(3) == 3 && blocks.First(5) == 5, blocks.size());
  std::string seen;
  for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, 2}, {2, 5}}) {
    blocks.ForEach(begin, end, [&](int64_t tensor, int64_t block, int64_t offset, int64_t count) {
      for (int64_t number : {tensor, block, offset, count}) seen += std::to_string(number) + " ";
    });
  }
  CHECK(seen == "1 0 0 10 1 1 10 10 1 2 20 5 3 3 0 10 4 4 0 1 ", seen);
  CHECK(blocks.AtOnce(72) == 10 && blocks.AtOnce(1) == 1 && BlockTable(10).AtOnce(5) == 1, "");
}

static_assert(IndexOfName("lr", "lr") == 0 && IndexOfName("beta, lr", "lr") == 1 &&
              IndexOfName("lr_power, lr", "lr") == 1);
static_assert(IndexOfName("", "lr") == -1 && IndexOfName("lr_power, l", "lr") == -1 &&
              IndexOfName("a, b, c", "c") == 2);

template <class Index>
void TestRows() {
  std::mt19937_64 random(1);
  for (int64_t count : {0, 1, 2, 511, 512, 5000}) {
    for (int64_t table : {int64_t{1}, int64_t{7}, int64_t{2049}, int64_t{3} << 20, (int64_t{1} << 40) + 5}) {
      if (table > std::numeric_limits<Index>::max()) continue;
      std::vector<Index> indices(count);
      for (Index& index : indices) index = static_cast<Index>(random() % table);
      RowPlan plan;
      CHECK(PlanRows(indices.data(), count, table, &plan) == -1, "");
      int64_t seen = 0;
      for (int64_t i = 0; i < plan.size(); ++i) {
        CHECK(i == 0 || plan.rows[i] > plan.rows[i - 1], "rows not ascending");
        CHECK(plan.first[i] == seen && plan.first[i + 1] > seen, "positions");
        for (; seen < plan.first[i + 1]; ++seen) {
          CHECK(indices[plan.positions[seen]] == plan.rows[i], "row of position " << seen);
          CHECK(seen == plan.first[i] || plan.positions[seen] > plan.positions[seen - 1], "order of duplicates");
        }
      }
      CHECK(seen == count, seen);
      if (count > 2) {
        for (Index bad : {static_cast<Index>(-1), static_cast<Index>(table)}) {
          if (table == std::numeric_limits<Index>::max()) continue;
          indices[2] = bad;
          RowPlan none;
          CHECK(PlanRows(indices.data(), count, table, &none) == 2, "missed index " << bad);
        }
      }
    }
  }
}

// Offsets into tables of more than 2^31 elements, by pretending that a small buffer is the far end of one.
void TestFarRows() {
  const int64_t width = 3, row = (int64_t{1} << 33) + 1;
  std::vector<float> buffer = {1, 2, 3};
  float* base = reinterpret_cast<float*>(reinterpret_cast<intptr_t>(buffer.data()) - row * width * sizeof(float));
  RowPlan plan;
  const int64_t index = row;
  CHECK(PlanRows(&index, 1, row + 1, &plan) == -1, "");
  const std::vector<float> hyper = {0.5f}, grad = {2, 4, 6};
  void* state = base;
  const auto bound = Bind<Sgd, Path::kSparse>(ChosenIsa(), hyper.data());
  Updater<float>(ChosenIsa(), bound, nullptr).Sparse(&state, grad.data(), plan, width, 0, 1);
  CHECK(buffer[0] == 0 && buffer[1] == 0 && buffer[2] == 0, buffer[0]);
}

template <class T>
void TestFinite() {
  using C = Arithmetic<T>;
  for (int64_t count = 0; count < 100; ++count) {
    auto grad = Gradients<T>(count + 1, 5);
    for (Isa isa : Levels<T>()) {
      const auto finite = [&](C factor) { return AllFinite(isa, grad.data() + 1, count, factor); };
      CHECK(finite(C(1)) && finite(C(0)), IsaName(isa) << " with " << count);
      if (count == 0) continue;
      const T good = grad[count];
      for (double bad : {double{NAN}, double{INFINITY}, -double{INFINITY}}) {
        grad[count] = Stored<T>(bad);
        CHECK(!finite(C(1)) && !finite(C(0)), "missed " << bad);
      }
      grad[count] = Stored<T>(1);
      CHECK(!finite(std::numeric_limits<C>::infinity()), "overflows when unscaled");
      grad[count] = good;
    }
  }
  const double big[] = {1e300, -1e300};
  CHECK(AllFinite(ChosenIsa(), big, 2, 1.0) && !AllFinite(ChosenIsa(), big, 2, 1e10), "");
}

template <class T>
void TestType() {
  ForEachFormula(DenseTest<T>());
  ForEachFormula(SparseTest<T>());
  ForEachFormula(BesideTest<T>());
  ForEachNormFormula(NormTest<T>());
  TestFinite<T>();
}

}  // namespace
}  // namespace keras_legacy_opt

int main() {
  using namespace keras_legacy_opt;
  TestConversions();
  TestChunks();
  TestBlocks();
  TestRows<int32_t>();
  TestRows<int64_t>();
  TestFarRows();
  TestType<float>();
  TestType<double>();
  TestType<Bfloat16>();
  TestType<Half>();
  ForEachFormula(SpecialValueTest());
  ForEachFormula(DenormalTest());
  std::printf("%d checks passed, up to %s\n", Checks(), IsaName(SupportedIsa()));
}
