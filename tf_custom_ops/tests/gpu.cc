// The kernels of the GPU, run on the CPU by tests/cuda.h: their bits are those of the CPU's loops, and their launches
// cover every element once.
// clang-format off
#include "cuda.h"  // before the kernels
// clang-format on

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "../apply/chunks.h"
#include "../apply/cpu.h"
#include "../apply/finite.h"
#include "../apply/norm.h"
#include "../gpu/dense.h"
#include "../gpu/finite.h"
#include "../gpu/geometry.h"
#include "../gpu/norm.h"
#include "../gpu/sparse.h"
#include "check.h"
#include "formulas.h"
#include "state.h"

namespace keras_legacy_opt {
namespace {

// Variables of some sizes, aligned to 16 bytes and not, with their gradients and the average that some options ask for.
template <class T>
class Group {
 public:
  Group(std::vector<Real> first, int scalars, bool averages) {
    if (averages) first.insert(first.end() - scalars, 0.4L);
    const std::vector<std::pair<int64_t, int64_t>> sizes_and_offsets = {{37, 0}, {0, 0},    {gpu::kBlock + 1033, 0},
                                                                        {1, 1},  {1030, 3}, {1024, 0}};
    for (const auto& [size, offset] : sizes_and_offsets) {
      sizes_.push_back(size);
      states_.emplace_back(first, std::max<int64_t>(size, 1), offset, 5 + size);
      grads_.push_back(Gradients<T>(size + 8, 17 + size));
      grad_offsets_.push_back(sizes_.size() == 6 ? 1 : offset);  // The last has a gradient at an odd place.
    }
  }

  int size() const { return static_cast<int>(sizes_.size()); }
  const std::vector<int64_t>& sizes() const { return sizes_; }
  State<T>& at(int i) { return states_[i]; }
  const T* grad(int i) const { return grads_[i].data() + grad_offsets_[i]; }

  void Expect(const Group& other, const std::string& where) const {
    for (int i = 0; i < size(); ++i) {
      CHECK(states_[i].Guarded(), where << " wrote outside of variable " << i);
      CHECK(states_[i].SameBits(other.states_[i]), where << " differs in variable " << i);
    }
  }

 private:
  std::vector<int64_t> sizes_, grad_offsets_;
  std::vector<State<T>> states_;
  std::vector<std::vector<T>> grads_;
};

// What a launch may have beside the gradients.
template <class C>
struct Options {
  std::vector<GradientTransform<C>> transforms;
  std::vector<std::pair<C, C>> per_variable;  // factors of the learning rate, decays
  bool averages = false, conditional = false, applies = true;
  C average_weight = C(0.125);

  static std::vector<Options> All(int variables) {
    Options one, each, none;
    one.transforms = {{C(0.5), C(0.1), C(3), C(1.25)}};
    one.per_variable = {{C(0.5), C(0.25)}};
    one.averages = true;
    for (int i = 0; i < variables; ++i) {
      each.transforms.push_back({C(0.5), C(0.1) * C(i), C(3), C(1)});
      each.per_variable.push_back({C(1) / C(i + 1), C(i % 2) / C(8)});
    }
    each.conditional = none.conditional = true;
    none.applies = false;
    return {Options(), one, each, none};
  }

  template <class List>
  static auto At(const List& list, int i) {
    return list[list.size() == 1 ? 0 : i];
  }
};

// What the ops of the CPU do, without their threads.
template <template <class, Path> class F, class T>
void OnCpu(const std::vector<Arithmetic<T>>& hypers, const Options<Arithmetic<T>>& options, Group<T>* group) {
  using C = Arithmetic<T>;
  using Functor = F<C, Path::kDense>;
  constexpr int kRate = IndexOfName(Functor::kHyperNames, "lr");
  if (!options.applies) return;
  for (int i = 0; i < group->size(); ++i) {
    std::vector<C> hyper = hypers;
    Beside<C> beside;
    if (!options.per_variable.empty()) {
      hyper[kRate] *= options.At(options.per_variable, i).first;
      beside.decay = options.At(options.per_variable, i).second;
    }
    beside.averages = options.averages;
    beside.average_weight = options.average_weight;
    GradientTransform<C> transform;
    if (!options.transforms.empty()) transform = options.At(options.transforms, i);
    const auto bound = Bind<F, Path::kDense>(ChosenIsa(), hyper.data());
    const Updater<T> updater(ChosenIsa(), bound, options.transforms.empty() ? nullptr : &transform, beside);
    void* const* state = group->at(i).pointers();
    const int64_t size = group->sizes()[i];
    if constexpr (!kHasNorms<Functor>) {
      updater.Dense(state, group->grad(i), 0, size);
    } else {
      SumsOfSquares total;
      for (int64_t begin = 0; begin < size; begin += kBlock) {
        Squares squares;
        updater.DirectDense(state, group->grad(i), begin, std::min(kBlock, size - begin), &squares);
        total += SumsOfSquares(squares);
      }
      const C scale = updater.Scale(state, total.variable, total.direction);
      updater.MoveDense(state, group->grad(i), 0, size, scale);
    }
  }
}

template <class C>
gpu::Launch<C> LaunchOf(const std::vector<C>& hypers, const Options<C>& options) {
  gpu::Launch<C> launch = {};
  for (size_t i = 0; i < hypers.size(); ++i) launch.hypers[i] = &hypers[i];
  if (!options.transforms.empty()) launch.transform = &options.transforms[0].unscale;
  if (options.conditional) launch.condition = &options.applies;
  if (!options.per_variable.empty()) launch.per_variable = &options.per_variable[0].first;
  if (options.averages) launch.average_weight = &options.average_weight;
  launch.transform_of_each = options.transforms.size() > 1;
  launch.per_variable_of_each = options.per_variable.size() > 1;
  return launch;
}

// The memory of a launch.
template <class T>
struct Memory {
  using C = Arithmetic<T>;

  Memory(const std::vector<C>& hyper, const Options<C>& given, Group<T>* group)
      : hypers(hyper), options(given), geometry(group->sizes()) {
    for (int i = 0; i < group->size(); ++i) {
      for (size_t k = 0; k < group->at(i).size(); ++k) state.push_back(group->at(i).pointers()[k]);
      grads.push_back(group->grad(i));
    }
    squares.resize(geometry.chunks.size());
    scales.resize(group->size());
  }

  gpu::Launch<C> Launch() {
    gpu::Launch<C> launch = LaunchOf(hypers, options);
    launch.chunks = geometry.chunks.data();
    launch.state = state.data();
    launch.grads = grads.data();
    launch.first = geometry.first.data();
    launch.squares = squares.data();
    launch.scales = scales.data();
    return launch;
  }

  const std::vector<C> hypers;
  const Options<C> options;
  const gpu::Geometry geometry;
  std::vector<void*> state;
  std::vector<const void*> grads;
  std::vector<gpu::Squares> squares;
  std::vector<C> scales;
};

template <template <class, Path> class F, class T>
void OnGpu(const std::vector<Arithmetic<T>>& hypers, const Options<Arithmetic<T>>& options, bool is_reversed,
           Group<T>* group) {
  using Functor = F<Arithmetic<T>, Path::kDense>;
  Memory<T> memory(hypers, options, group);
  const gpu::Launch<Arithmetic<T>> launch = memory.Launch();
  const int64_t blocks = memory.geometry.chunks.size();
  const auto run = [&](int64_t count, bool has_barriers, const std::function<void()>& kernel) {
    Fibres::Run(count, gpu::kThreads, has_barriers, is_reversed, kernel);
  };
  if constexpr (kHasNorms<Functor>) {
    run(blocks, true, [&] { gpu::Direct<Functor, T>(launch); });
    run(group->size(), true, [&] { gpu::Scale<Functor, T>(launch); });
    run(blocks, false, [&] { gpu::Move<Functor, T>(launch); });
  } else {
    run(blocks, false, [&] { gpu::Dense<Functor, T>(launch); });
  }
}

template <class T>
struct DenseTest {
  template <template <class, Path> class F, class AnyFormula>
  void operator()(const AnyFormula& formula) const {
    using C = Arithmetic<T>;
    constexpr int kScalars = kScalarSlotsOf<F<C, Path::kDense>>;
    const std::vector<C> hypers(formula.hypers.begin(), formula.hypers.end());
    bool is_reversed = false;
    for (const Options<C>& options : Options<C>::All(6)) {
      Group<T> expected(formula.first_state, kScalars, options.averages), got(expected);
      OnCpu<F>(hypers, options, &expected);
      OnGpu<F>(hypers, options, is_reversed, &got);
      got.Expect(expected, std::string(formula.name) + " dense");
      is_reversed = !is_reversed;
    }
  }
};

// The rows of a sparse gradient, found by the kernels of gpu/row_plan.h.
class RowMemory {
 public:
  template <class Index>
  RowMemory(const std::vector<Index>& indices, int64_t table_rows, const gpu::RowGeometry& geometry, bool is_reversed,
            const bool* condition = nullptr)
      : keys_(indices.size()),
        sorted_(indices.size()),
        heads_(indices.size() + 1, kUnset),
        counts_(gpu::kDigits * geometry.tiles + 1, kUnset) {
    rows = {indices.data(),
            static_cast<int32_t>(indices.size()),
            sizeof(Index) == 8,
            table_rows,
            keys_.data(),
            sorted_.data(),
            0,
            geometry.tiles,
            gpu::kDigits,
            counts_.data(),
            heads_.data(),
            &head_count_,
            &refusal_,
            condition};
    const auto run = [&](bool is_one, void (*job)(const gpu::Rows&)) {
      Fibres::Run(is_one ? 1 : geometry.tiles, gpu::kThreads, job != gpu::MakeKeys, is_reversed, [&] { job(rows); });
    };
    run(false, gpu::MakeKeys);
    for (int pass = 0; pass < geometry.passes; ++pass, rows.shift += gpu::kDigitBits) {
      run(false, gpu::CountDigits);
      run(true, gpu::Scan);
      run(false, gpu::SortDigit);
      std::swap(rows.keys, rows.sorted);
    }
    rows.counted = 1;
    run(false, gpu::CountHeads);
    run(true, gpu::Scan);
    run(false, gpu::WriteHeads);
  }

  static constexpr uint32_t kUnset = 12345;  // as memory is that nobody has written yet

  gpu::Rows rows;

 private:
  std::vector<uint64_t> keys_, sorted_;
  std::vector<uint32_t> heads_, counts_;
  uint32_t head_count_ = kUnset;
  int32_t refusal_ = 0;
};

template <class Index>
void TestRows() {
  std::mt19937_64 random(1);
  for (int64_t count : {0, 1, 15, gpu::kTile, 2 * gpu::kTile + 3}) {
    for (int64_t table : {int64_t{1}, int64_t{7}, int64_t{5000}, int64_t{1} << 31, int64_t{1} << 32}) {
      if (table - 1 > std::numeric_limits<Index>::max()) continue;
      std::vector<Index> indices(count);
      for (Index& index : indices) index = static_cast<Index>(random() % table);
      RowPlan plan;
      CHECK(PlanRows(indices.data(), count, table, &plan) == -1, "");
      for (bool is_reversed : {false, true}) {
        const RowMemory memory(indices, table, gpu::RowGeometry(count, table, 1, false, false), is_reversed);
        const gpu::Rows& rows = memory.rows;
        CHECK(*rows.refusal == 0 && *rows.head_count == plan.size(), *rows.head_count << " rows of " << plan.size());
        for (int64_t i = 0; i <= plan.size(); ++i) CHECK(rows.heads[i] == plan.first[i], "head " << i);
        for (int64_t i = 0; i < plan.size(); ++i) {
          CHECK(gpu::RowOf(rows.keys[rows.heads[i]]) == plan.rows[i], "row " << i);
        }
        for (int64_t i = 0; i < count; ++i) CHECK(gpu::PositionOf(rows.keys[i]) == plan.positions[i], "place " << i);
      }
      if (count < 15) continue;
      const bool applies = false;
      indices[14] = -1;
      const RowMemory none(indices, table, gpu::RowGeometry(count, table, 1, false, false), false, &applies);
      CHECK(*none.rows.refusal == 0 && *none.rows.head_count == RowMemory::kUnset,
            "rows of an update that is not to be");
      const RowMemory memory(indices, table, gpu::RowGeometry(count, table, 1, false, false), false);
      CHECK(*memory.rows.refusal == 15, *memory.rows.refusal);
    }
  }
}

// A table with some indices.
template <class T>
struct SparseCase {
  int64_t rows, width;
  std::shared_ptr<RowMemory> found;  // once, for all formulas
  std::vector<int64_t> indices;
  int64_t offset;  // of the table and its gradients, against 16 bytes
  std::vector<T> grads;

  SparseCase(int64_t table_rows, int64_t row_width, int64_t count, int64_t unaligned)
      : rows(table_rows), width(row_width), offset(unaligned) {
    std::mt19937_64 random(count);
    for (int64_t i = 0; i < count; ++i) indices.push_back(random() % rows);
    found = std::make_shared<RowMemory>(indices, rows, gpu::RowGeometry(count, rows, width, false, false), count % 2);
    grads = Gradients<T>(count * width + 8, 3);
  }
  const T* grad() const { return grads.data() + offset; }

  static const std::vector<SparseCase>& All() {
    static const std::vector<SparseCase> all = {{23, 5, 0, 0},      {23, 4, 7, 0},    {23, 4, 7, 1},
                                                {2400, 7, 4500, 0}, {43, 400, 60, 0}, {2, 16400, 5, 0},
                                                {17000, 1, 300, 3}};
    return all;
  }
};

template <template <class, Path> class F, class T>
void SparseOnCpu(const BoundFormula<Arithmetic<T>>& bound, const Options<Arithmetic<T>>& options,
                 const SparseCase<T>& at, State<T>* state) {
  using C = Arithmetic<T>;
  RowPlan plan;
  if (!options.applies || bound.refusal != nullptr) return;
  CHECK(PlanRows(at.indices.data(), at.indices.size(), at.rows, &plan) == -1, "");
  const C decay = options.per_variable.empty() ? C(0) : options.per_variable[0].second;
  const Updater<T> updater(ChosenIsa(), bound, options.transforms.empty() ? nullptr : &options.transforms[0],
                           {decay, options.averages, options.average_weight});
  const int64_t lines = updater.SparseRows(plan, at.rows);
  void* const* tensors = state->pointers();
  if constexpr (kHasNorms<F<C, Path::kSparse>>) {
    SumsOfSquares total;
    const int64_t block = std::max<int64_t>(1, kBlock / at.width);
    for (int64_t begin = 0; begin < lines; begin += block) {
      Squares squares;
      updater.DirectSparse(tensors, at.grad(), plan, at.width, begin, std::min(lines, begin + block), &squares);
      total += SumsOfSquares(squares);
    }
    const C scale = updater.Scale(tensors, total.variable, total.direction);
    updater.MoveSparse(tensors, at.grad(), plan, at.width, 0, lines, scale);
  } else {
    updater.Sparse(tensors, at.grad(), plan, at.width, 0, lines);
  }
  if (options.averages) updater.Averages(tensors, 0, at.rows * at.width);
}

template <template <class, Path> class F, class T>
void SparseOnGpu(const std::vector<Arithmetic<T>>& hypers, const Options<Arithmetic<T>>& options,
                 const SparseCase<T>& at, bool is_reversed, State<T>* state, int32_t* refusal) {
  using Functor = F<Arithmetic<T>, Path::kSparse>;
  constexpr bool kNorms = kHasNorms<Functor>;
  const gpu::RowGeometry geometry(at.indices.size(), at.rows, at.width, Functor::kIdle, kNorms);
  gpu::Rows rows = at.found->rows;
  if (options.conditional) rows.condition = &options.applies;
  const gpu::Geometry chunks({at.rows * at.width});
  const void* grad = at.grad();
  std::vector<gpu::Squares> squares(geometry.blocks);
  Arithmetic<T> scale;
  gpu::SparseLaunch<Arithmetic<T>> launch = {LaunchOf(hypers, options),
                                             rows,
                                             at.width,
                                             geometry.lines,
                                             geometry.lines_of_block,
                                             Functor::kSlots + 1 - kScalarSlotsOf<Functor>};
  launch.all.state = state->pointers();
  launch.all.grads = &grad;
  launch.all.chunks = chunks.chunks.data();
  launch.all.squares = squares.data();
  launch.all.scales = &scale;
  const auto run = [&](int64_t blocks, bool has_barriers, const std::function<void()>& kernel) {
    Fibres::Run(blocks, gpu::kThreads, has_barriers, is_reversed, kernel);
  };
  if constexpr (kNorms) {
    run(geometry.blocks, true, [&] { gpu::SparseDirect<Functor, T>(launch); });
    run(1, true, [&] { gpu::SparseScale<Functor, T>(launch); });
    run(geometry.blocks, false, [&] { gpu::SparseMove<Functor, T>(launch); });
  } else {
    run(geometry.blocks, false, [&] { gpu::Sparse<Functor, T>(launch); });
  }
  if (options.averages) {
    run(chunks.chunks.size(), false, [&] { gpu::SparseAverage<T>(launch); });
  }
  *refusal = *rows.refusal;
}

template <class T>
struct SparseTest {
  template <template <class, Path> class F, class AnyFormula>
  void operator()(const AnyFormula& formula) const {
    using C = Arithmetic<T>;
    using Functor = F<C, Path::kSparse>;
    const auto all = Options<C>::All(1);
    size_t number = 0;
    for (const SparseCase<T>& at : SparseCase<T>::All()) {
      // Each case has nothing beside the formula, or everything, or is not to be run.
      const Options<C>& options = all[number % 3 == 2 ? 3 : number % 3];
      ++number;
      std::vector<Real> first = formula.first_state;
      if (options.averages) first.insert(first.end() - kScalarSlotsOf<Functor>, 0.4L);
      State<T> expected(first, at.rows * at.width, at.offset, 5), got(expected);
      std::vector<C> hypers(formula.hypers.begin(), formula.hypers.end()), own = hypers;
      if (!options.per_variable.empty()) own[IndexOfName(Functor::kHyperNames, "lr")] *= options.per_variable[0].first;
      SparseOnCpu<F>(Bind<F, Path::kSparse>(ChosenIsa(), own.data()), options, at, &expected);
      int32_t refusal = 0;
      SparseOnGpu<F>(hypers, options, at, number % 2, &got, &refusal);
      CHECK(refusal == 0, formula.name << " refused " << refusal);
      CHECK(got.Guarded() && got.SameBits(expected), formula.name << " sparse differs in case " << number);
    }
  }
};

// Scalars that the CPU refuses change nothing, and are told.
void TestRefusal() {
  const SparseCase<float> at(23, 4, 7, 0);
  Formula formula = FtrlFormula<false>(0.5L);
  State<float> before(formula.first_state, 23 * 4, 0, 5), after(before);
  int32_t refusal = 0;
  const std::vector<float> hypers(formula.hypers.begin(), formula.hypers.end());
  SparseOnGpu<Ftrl<false>::Functor>(hypers, Options<float>(), at, false, &after, &refusal);
  CHECK(refusal == -1 && after.SameBits(before), refusal);
}

// Elements that are not finite, or not any more when multiplied, are found wherever they are, and no others.
template <class T>
void TestFinite() {
  const std::vector<int64_t> sizes = {0, 5, gpu::kBlock + 77};
  std::vector<std::vector<T>> tensors;
  for (int64_t size : sizes) tensors.push_back(Gradients<T>(size + 1, 3));
  const gpu::Geometry geometry(sizes);
  const auto expect = [&](float factor, const std::string& where) {
    bool expected = true, got = true;
    std::vector<const void*> at;
    for (size_t i = 0; i < sizes.size(); ++i) {
      at.push_back(tensors[i].data() + (i == 1));  // one of them not aligned
      expected = expected && AllFinite(ChosenIsa(), tensors[i].data() + (i == 1), sizes[i], Arithmetic<T>(factor));
    }
    const gpu::FiniteLaunch launch = {geometry.chunks.data(), at.data(), &factor, &got};
    Fibres::Run(geometry.chunks.size(), gpu::kThreads, false, false, [&] { gpu::CheckFinite<T>(launch); });
    CHECK(got == expected, where << " times " << factor);
    return got;
  };
  CHECK(expect(1, "finite") && expect(0, "finite"), "");
  for (const auto& [tensor, element] : {std::pair<int, int64_t>{1, 1}, {1, 5}, {2, 0}, {2, gpu::kBlock + 76}}) {
    T& value = tensors[tensor][element];
    const T good = value;
    for (double bad : {double{NAN}, double{INFINITY}, -double{INFINITY}}) {
      Store(static_cast<Arithmetic<T>>(bad), value);
      CHECK(!expect(1, "bad") && !expect(0, "bad"), bad);
    }
    Store(Arithmetic<T>(-2), value);
    expect(std::numeric_limits<float>::max(), "large");
    value = good;
  }
}

// Tensors of some sizes, aligned and not, whose norms are wanted.
template <class T>
class NormCase {
 public:
  using C = Arithmetic<T>;

  NormCase() : sizes_{0, 5, gpu::kBlock + 77, 1, 3 * gpu::kBlock, 0}, chunks_(sizes_, true) {
    for (int64_t size : sizes_) tensors_.push_back(Gradients<T>(size + 1, 3 + size));
  }

  T& at(int tensor, int64_t element) { return tensors_[tensor][element + Offset(tensor)]; }

  // Norms and what clips by them, of launches that leave the counters as they were.
  std::vector<C> OnGpu(const GradientTransform<C>* transform, C limit, bool of_each, bool is_reversed) {
    std::vector<const void*> at;
    for (size_t i = 0; i < sizes_.size(); ++i) at.push_back(tensors_[i].data() + Offset(i));
    const size_t rows = of_each ? sizes_.size() : 1, blocks = chunks_.chunks.size();
    std::vector<double> squares(blocks, NAN);
    std::vector<C> found(5 * rows, C(NAN));
    counters_.resize(sizes_.size());
    const gpu::NormLaunch<C> launch = {chunks_.chunks.data(),
                                       chunks_.first.data(),
                                       at.data(),
                                       transform == nullptr ? nullptr : &transform->unscale,
                                       &limit,
                                       squares.data(),
                                       counters_.data(),
                                       found.data(),
                                       found.data() + rows,
                                       of_each};
    Fibres::Run(blocks, gpu::kThreads, true, is_reversed, [&] { gpu::Norm<T>(launch); });
    for (uint32_t counter : counters_) CHECK(counter == 0, counter);
    return found;
  }

  std::vector<C> OnCpu(const GradientTransform<C>* transform, C limit, bool of_each) {
    const GradientTransform<C> before = transform == nullptr ? Unchanged<C>() : *transform;
    std::vector<C> norms, clippings;
    std::vector<double> squares;
    for (size_t i = 0; i < sizes_.size(); ++i) {
      for (int64_t begin = 0; begin < sizes_[i]; begin += kBlock) {
        const T* block = tensors_[i].data() + Offset(i) + begin;
        squares.push_back(SumOfSquares(block, std::min(kBlock, sizes_[i] - begin), before));
      }
      if (!of_each && i + 1 < sizes_.size()) continue;
      norms.push_back(NormOfSquares<T>(SumOfBlocks(squares.data(), squares.size())));
      const GradientTransform<C> clipping = Clipping(before, norms.back(), limit, of_each);
      for (C number : {clipping.unscale, clipping.limit, clipping.factor, clipping.divisor})
        clippings.push_back(number);
      squares.clear();
    }
    norms.insert(norms.end(), clippings.begin(), clippings.end());
    return norms;
  }

  // In long double.
  Real Norm(const GradientTransform<C>& transform) {
    Real sum = 0;
    for (size_t i = 0; i < sizes_.size(); ++i) {
      for (int64_t k = 0; k < sizes_[i]; ++k) {
        const Real value = transform.Bounded(Load(at(i, k)));
        sum += value * value;
      }
    }
    return std::sqrt(sum);
  }

 private:
  static int64_t Offset(size_t tensor) { return tensor == 1; }

  const std::vector<int64_t> sizes_;
  const gpu::Geometry chunks_;
  std::vector<std::vector<T>> tensors_;
  std::vector<uint32_t> counters_;
};

// Norms have the CPU's bits, whichever block and thread comes last, and are those of the mathematics.
template <class T>
void TestNorm() {
  using C = Arithmetic<T>;
  NormCase<T> norms;
  const GradientTransform<C> some = {C(0.5), C(0.1), C(1), C(1)};
  const auto same = [](const std::vector<C>& a, const std::vector<C>& b) {
    for (size_t i = 0; i < a.size(); ++i) {
      if (!(a[i] == b[i] || (a[i] != a[i] && b[i] != b[i]))) return false;
    }
    return a.size() == b.size();
  };
  const auto expect = [&](const GradientTransform<C>* transform) {
    for (bool of_each : {false, true}) {
      for (C limit : {C(0.5), C(1e6)}) {
        const std::vector<C> expected = norms.OnCpu(transform, limit, of_each);
        for (bool is_reversed : {false, true}) {
          CHECK(same(norms.OnGpu(transform, limit, of_each, is_reversed), expected), of_each << ' ' << limit);
        }
      }
    }
    return norms.OnGpu(transform, C(0.5), false, false);
  };
  const Real digits = std::pow(Real(2), sizeof(T) == 8 ? -52 : sizeof(T) == 4 ? -23 : -7);
  for (const GradientTransform<C>* transform : {static_cast<const GradientTransform<C>*>(nullptr), &some}) {
    const Real expected = norms.Norm(transform == nullptr ? Unchanged<C>() : *transform);
    const std::vector<C> found = expect(transform);
    CHECK(std::abs(found[0] / expected - 1) <= 2 * digits, found[0] << " for " << expected);
    CHECK(std::abs(found[3] * found[0] / C(0.5) - 1) <= 4 * digits, found[3]);
    // A norm below the limit changes next to nothing, as in TensorFlow.
    CHECK(std::abs(norms.OnGpu(transform, C(1e6), false, false)[3] - 1) <= digits, "");
  }
  for (const auto& [tensor, element] : {std::pair<int, int64_t>{1, 0}, {1, 4}, {2, gpu::kBlock + 76}, {3, 0}}) {
    const T good = norms.at(tensor, element);
    // It is finite, and its square is not.
    const double large = std::is_same_v<T, Half> ? 512 : sizeof(T) == 8 ? 1e200 : 1e30;
    for (double bad : {double{NAN}, double{INFINITY}, -double{INFINITY}, large}) {
      Store(static_cast<C>(bad), norms.at(tensor, element));
      const std::vector<C> found = norms.OnGpu(nullptr, C(0.5), false, false);
      CHECK(same(norms.OnGpu(nullptr, C(0.5), true, false), norms.OnCpu(nullptr, C(0.5), true)), bad);
      CHECK(!std::isfinite(found[0]) && std::isnan(found[3]), bad << ": " << found[0]);
    }
    norms.at(tensor, element) = good;
  }
}

template <class Visitor>
void ForEachTested(Visitor visit) {
#ifdef KLO_FEW
  visit.template operator()<Sgd>(SgdFormula());
  visit.template operator()<Adam>(AdamFormula<false>());
  visit.template operator()<Ftrl<true>::Functor>(FtrlFormula<true>(-0.5L));
  visit.template operator()<Lamb>(LambFormula(1));
  visit.template operator()<NovoGrad>(NovoGradFormula<false>());
#else
  ForEachFormula(visit);
  ForEachNormFormula(visit);
#endif
}

template <class T>
void TestType() {
  TestFinite<T>();
  TestNorm<T>();
  ForEachTested(DenseTest<T>());
  ForEachTested(SparseTest<T>());
}

// Chunks cover variables without gaps, in their order, and far beyond 2^31 elements.
void TestGeometry() {
  const std::vector<int64_t> sizes = {0, 1, gpu::kBlock, gpu::kBlock + 1, 0, (int64_t{3} << 31) + 5, 7, 0};
  const gpu::Geometry geometry(sizes);
  std::vector<int64_t> covered(sizes.size(), 0);
  for (size_t i = 0; i < geometry.chunks.size(); ++i) {
    const gpu::Chunk& chunk = geometry.chunks[i];
    CHECK(chunk.offset == covered[chunk.tensor], "a gap in tensor " << chunk.tensor << " at " << chunk.offset);
    CHECK(chunk.count > 0 && chunk.count <= gpu::kBlock && chunk.offset % gpu::kBlock == 0, chunk.count);
    const int64_t number = static_cast<int64_t>(i);
    CHECK(geometry.first[chunk.tensor] <= number && number < geometry.first[chunk.tensor + 1], "chunk " << i);
    covered[chunk.tensor] += chunk.count;
  }
  CHECK(covered == sizes, "not everything is covered");
  CHECK(geometry.first.back() == static_cast<int64_t>(geometry.chunks.size()), geometry.first.back());
  const gpu::Geometry with_empty({0, gpu::kBlock + 1, 0}, true);
  CHECK(with_empty.first == std::vector<int64_t>({0, 1, 3, 4}), with_empty.first.back());
  for (int i : {0, 3}) CHECK(with_empty.chunks[i].tensor == i * 2 / 3 && with_empty.chunks[i].count == 0, i);
  CHECK(with_empty.chunks[2].count == 1, with_empty.chunks[2].count);
}

// The threads of a block visit every element of every range once.
void TestRanges() {
  for (int begin : {0, 1024}) {
    for (int count : {0, 1, 7, 8, 1000, 1024, gpu::kBlock}) {
      for (bool is_aligned : {false, true}) {
        std::vector<int> visits(begin + count + 16, 0);
        Fibres::Run(1, gpu::kThreads, false, false, [&] {
          gpu::ForEachRange<Half>(is_aligned, begin, begin + count, [&](const gpu::Range& range) {
            CHECK(!range.is_whole || (is_aligned && range.count == gpu::kWidth<Half>), range.count);
            for (int j = 0; j < range.count; ++j) ++visits[range.first + j];
          });
        });
        for (int i = 0; i < static_cast<int>(visits.size()); ++i) {
          CHECK(visits[i] == (i >= begin && i < begin + count), "element " << i << " of " << count);
        }
      }
    }
  }
}

// A chunk beyond 2^33 elements, by pretending that a small buffer is the far end of a large one.
void TestFarChunk() {
  const int64_t offset = (int64_t{1} << 33) + gpu::kBlock;
  std::vector<float> buffer = {1, 2, 3}, grad = {2, 4, 6};
  const auto far = [&](std::vector<float>& near) {
    return reinterpret_cast<float*>(reinterpret_cast<intptr_t>(near.data()) - offset * intptr_t{sizeof(float)});
  };
  const gpu::Chunk chunk = {offset, 0, 3};
  void* const state = far(buffer);
  const void* const grads = far(grad);
  const float rate = 0.5f;
  gpu::Launch<float> launch = {};
  launch.chunks = &chunk;
  launch.state = &state;
  launch.grads = &grads;
  launch.hypers[0] = &rate;
  Fibres::Run(1, gpu::kThreads, false, false, [&] { gpu::Dense<Sgd<float, Path::kDense>, float>(launch); });
  CHECK(buffer[0] == 0 && buffer[1] == 0 && buffer[2] == 0, buffer[0]);
}

}  // namespace
}  // namespace keras_legacy_opt

int main() {
  using namespace keras_legacy_opt;
  TestGeometry();
  TestRanges();
  TestFarChunk();
  TestRows<int32_t>();
  TestRows<int64_t>();
  TestRefusal();
  TestType<float>();
  TestType<double>();
  TestType<Bfloat16>();
  TestType<Half>();
  std::printf("%d checks passed\n", Checks());
}
