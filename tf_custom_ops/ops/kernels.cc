#include "kernels.h"

#include <algorithm>
#include <unordered_map>
#include <utility>

#include "../apply/chunks.h"
#include "../apply/directions.h"
#include "parallel.h"

namespace keras_legacy_opt {

using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;

template <class T, class Base>
absl::Status ApplyKernel<T, Base>::AddFormula(const C* hyper, Scalars<C>* scalars) const {
  scalars->formulas.push_back(spec_.bind(ChosenIsa(), hyper));
  const char* refusal = scalars->formulas.back().refusal;
  if (refusal == nullptr) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(this->type_string(), ": ", refusal, "."));
}

template <class T, class Base>
absl::Status ApplyKernel<T, Base>::ReadPerVariable(const Tensor& tensor, C* hyper, Scalars<C>* scalars) const {
  const int64_t rows = tensor.NumElements() / 2;
  const C* row = static_cast<const C*>(tensor.data());
  const C rate = hyper[spec_.lr];
  std::unordered_map<C, int> known;  // the formula of each factor
  for (int64_t i = 0; i < rows; ++i, row += 2) {
    const auto [formula, is_new] = known.emplace(row[0], static_cast<int>(scalars->formulas.size()));
    if (is_new) {
      hyper[spec_.lr] = rate * row[0];
      KLO_RETURN_IF_ERROR(AddFormula(hyper, scalars));
    }
    scalars->formula_of.push_back(formula->second);
    scalars->decays.push_back(row[1]);
  }
  if (rows == 1) scalars->formula_of.clear();
  return absl::OkStatus();
}

template <class T, class Base>
absl::Status ApplyKernel<T, Base>::ReadScalars(OpKernelContext* context, int variables, Scalars<C>* scalars) const {
  typename Base::ScalarInputs inputs;
  KLO_RETURN_IF_ERROR(this->FindScalars(context, this->first_scalar(), variables, &inputs));
  const auto data = [context](int input) { return static_cast<const C*>(context->input(input).data()); };
  C hyper[16];
  for (int i = 0; i < spec_.shape.hypers; ++i) hyper[i] = *data(inputs.hypers + i);
  if (inputs.transform >= 0) {
    const C* row = data(inputs.transform);
    const int rows = inputs.transform_of_each ? variables : 1;
    for (int i = 0; i < rows; ++i, row += 4) scalars->transforms.push_back({row[0], row[1], row[2], row[3]});
  }
  if (inputs.condition >= 0) scalars->apply = *static_cast<const bool*>(context->input(inputs.condition).data());
  if (inputs.per_variable >= 0) {
    KLO_RETURN_IF_ERROR(ReadPerVariable(context->input(inputs.per_variable), hyper, scalars));
  } else {
    KLO_RETURN_IF_ERROR(AddFormula(hyper, scalars));
  }
  scalars->averages = inputs.averages;
  if (inputs.average_weight >= 0) scalars->average_weight = *data(inputs.average_weight);
  return absl::OkStatus();
}

template <class T, class Base>
Updater<T> ApplyKernel<T, Base>::UpdaterOf(const Scalars<C>& scalars, int variable) const {
  const auto at = [variable](const auto& list) { return list.size() == 1 ? 0 : variable; };
  Beside<C> beside;
  if (!scalars.decays.empty()) beside.decay = scalars.decays[at(scalars.decays)];
  beside.averages = this->average_weights_;
  beside.average_weight = scalars.average_weight;
  const auto* transform = scalars.transforms.empty() ? nullptr : &scalars.transforms[at(scalars.transforms)];
  return Updater<T>(ChosenIsa(), scalars.FormulaOf(variable), transform, beside);
}

template <class T>
void DenseKernel<T>::Compute(OpKernelContext* context) {
  OP_REQUIRES_OK(context, Apply(context));
}

template <class T>
absl::Status DenseKernel<T>::Apply(OpKernelContext* context) {
  const int count = this->count_;
  Scalars scalars;
  KLO_RETURN_IF_ERROR(this->ReadScalars(context, count, &scalars));
  if (!scalars.apply) return absl::OkStatus();

  Variables variables;
  Work work;
  KLO_RETURN_IF_ERROR(this->Prepare(context, scalars.averages, &variables, &work));
  const auto update = [&](int first, int last) {
    if (scalars.formulas[0].direction != nullptr) return UpdateWithNorms(context, scalars, work, first, last);
    Update(context, scalars, work, first, last);
  };
  if (variables.Repeats(count)) {
    // The same variable twice is updated twice, one after the other.
    for (int i = 0; i < count; ++i) update(i, i + 1);
  } else {
    update(0, count);
  }
  return absl::OkStatus();
}

template <class T>
void DenseKernel<T>::Update(OpKernelContext* context, const Scalars& scalars, const Work& work, int first,
                            int last) const {
  ChunkTable chunks;
  chunks.Reserve(last - first);
  for (int i = first; i < last; ++i) chunks.Add(work.sizes[i]);
  ParallelFor(context, chunks.size(), kBlock, [&](int64_t begin, int64_t end) {
    chunks.ForEach(begin, end, [&](int64_t i, int64_t offset, int64_t n) {
      i += first;
      this->UpdaterOf(scalars, i).Dense(&work.state[i * this->tensors()], work.grads[i], offset, n);
    });
  });
}

template <class T>
void DenseKernel<T>::UpdateWithNorms(OpKernelContext* context, const Scalars& scalars, const Work& work, int first,
                                     int last) const {
  using Kept = Directions<Arithmetic<T>>;
  const bool keeps = this->UpdaterOf(scalars, first).MovesAlong();
  // Together as many variables as there is room for their directions.
  for (int end = first; first < last; first = end) {
    std::vector<int64_t> sizes;
    for (int64_t elements = 0; end < last; ++end) {
      elements += Kept::Padded(work.sizes[end]);
      if (keeps && !sizes.empty() && elements > Kept::kMost) break;
      sizes.push_back(work.sizes[end]);
    }
    const Kept kept(keeps ? sizes : std::vector<int64_t>());
    UpdateInTwoPasses(context, scalars, work, first, end, [&](int i) { return keeps ? kept.Of(i) : nullptr; });
  }
}

template <class T>
template <class DirectionsOf>
void DenseKernel<T>::UpdateInTwoPasses(OpKernelContext* context, const Scalars& scalars, const Work& work, int first,
                                       int last, DirectionsOf directions_of) const {
  BlockTable blocks(kBlock);
  for (int i = first; i < last; ++i) blocks.Add(work.sizes[i]);
  std::vector<SumsOfSquares> sums(blocks.size());
  const auto state = [&](int64_t i) { return &work.state[(first + i) * this->tensors()]; };
  const auto for_each = [&](auto visit) {
    ParallelFor(context, blocks.size(), blocks.AtOnce(kBlock),
                [&](int64_t begin, int64_t end) { blocks.ForEach(begin, end, visit); });
  };
  for_each([&](int64_t i, int64_t block, int64_t offset, int64_t n) {
    Squares squares;
    this->UpdaterOf(scalars, first + i)
        .DirectDense(state(i), work.grads[first + i], offset, n, &squares, directions_of(i));
    sums[block] = SumsOfSquares(squares);
  });
  std::vector<Arithmetic<T>> scales(last - first);
  for (int i = 0; i < last - first; ++i) {
    SumsOfSquares total;
    for (int64_t block = blocks.First(i); block < blocks.First(i + 1); ++block) total += sums[block];
    scales[i] = this->UpdaterOf(scalars, first + i).Scale(state(i), total.variable, total.direction);
  }
  for_each([&](int64_t i, int64_t, int64_t offset, int64_t n) {
    this->UpdaterOf(scalars, first + i)
        .MoveDense(state(i), work.grads[first + i], offset, n, scales[i], directions_of(i));
  });
}

template <class T>
DenseKernel<T>::DenseKernel(OpKernelConstruction* context, const FormulaSpec<Arithmetic<T>>& spec, State state)
    : ApplyKernel<T, DenseUpdate>(context, spec, state) {}

template <class T>
SparseKernel<T>::SparseKernel(OpKernelConstruction* context, const FormulaSpec<Arithmetic<T>>& spec)
    : ApplyKernel<T, SparseUpdate>(context, spec) {}

template <class T>
void SparseKernel<T>::Compute(OpKernelContext* context) {
  OP_REQUIRES_OK(context, Apply(context));
}

template <class T>
absl::Status SparseKernel<T>::Plan(const Tensor& indices, const std::string& name, int64_t table_rows,
                                   RowPlan* plan) const {
  const int64_t count = indices.NumElements();
  const bool is_short = indices.dtype() == tensorflow::DT_INT32;
  const auto* short_ones = static_cast<const int32_t*>(indices.data());
  const auto* long_ones = static_cast<const int64_t*>(indices.data());
  const int64_t bad =
      is_short ? PlanRows(short_ones, count, table_rows, plan) : PlanRows(long_ones, count, table_rows, plan);
  if (bad < 0) return absl::OkStatus();
  const int64_t index = is_short ? short_ones[bad] : long_ones[bad];
  return absl::InvalidArgumentError(absl::StrCat("The sparse gradient of variable '", name, "' has index ", index,
                                                 " at position ", bad, ", which is not in [0, ", table_rows,
                                                 "). This variable was not changed."));
}

template <class T>
absl::Status SparseKernel<T>::Apply(OpKernelContext* context) {
  Scalars<Arithmetic<T>> scalars;
  KLO_RETURN_IF_ERROR(this->ReadScalars(context, 1, &scalars));
  if (!scalars.apply) return absl::OkStatus();

  const BoundFormula<Arithmetic<T>>& formula = scalars.formulas[0];
  const bool has_norms = formula.direction != nullptr;
  Variables variables;
  SparseUpdate::Table table;
  KLO_RETURN_IF_ERROR(this->LookUp(context, scalars.averages, formula.idle_rows || has_norms, &variables, &table));
  RowPlan plan;
  KLO_RETURN_IF_ERROR(Plan(this->IndicesOf(context), table.name, table.rows, &plan));
  std::vector<void*> state;
  KLO_RETURN_IF_ERROR(this->Prepare(context, &variables, &state));
  if (table.width == 0) return absl::OkStatus();

  const int64_t width = table.width;
  const void* grad = this->Grad(context).data();
  const Updater<T> updater = this->UpdaterOf(scalars, 0);
  const int64_t rows = updater.SparseRows(plan, table.rows), at_once = std::max<int64_t>(1, kBlock / width);
  if (has_norms) {
    UpdateWithNorms(context, updater, state.data(), grad, plan, width, rows);
  } else {
    ParallelFor(context, rows, at_once,
                [&](int64_t begin, int64_t end) { updater.Sparse(state.data(), grad, plan, width, begin, end); });
  }
  if (this->average_weights_) {
    ParallelFor(context, table.rows * width, kBlock,
                [&](int64_t begin, int64_t end) { updater.Averages(state.data(), begin, end - begin); });
  }
  return absl::OkStatus();
}

template <class T>
void SparseKernel<T>::UpdateWithNorms(OpKernelContext* context, const Updater<T>& updater, void* const* state,
                                      const void* grad, const RowPlan& plan, int64_t width, int64_t rows) const {
  BlockTable blocks(std::max<int64_t>(1, kBlock / width));
  blocks.Add(rows);
  std::vector<SumsOfSquares> sums(blocks.size());
  const auto for_each = [&](auto visit) {
    ParallelFor(context, blocks.size(), 1, [&](int64_t begin, int64_t end) {
      blocks.ForEach(begin, end, [&](int64_t, int64_t block, int64_t row, int64_t n) { visit(block, row, row + n); });
    });
  };
  for_each([&](int64_t block, int64_t begin, int64_t end) {
    Squares squares;
    updater.DirectSparse(state, grad, plan, width, begin, end, &squares);
    sums[block] = SumsOfSquares(squares);
  });
  SumsOfSquares total;
  for (const SumsOfSquares& each : sums) total += each;
  const Arithmetic<T> scale = updater.Scale(state, total.variable, total.direction);
  for_each(
      [&](int64_t, int64_t begin, int64_t end) { updater.MoveSparse(state, grad, plan, width, begin, end, scale); });
}

template class DenseKernel<float>;
template class DenseKernel<double>;
template class DenseKernel<Half>;
template class DenseKernel<Bfloat16>;
template class SparseKernel<float>;
template class SparseKernel<double>;
template class SparseKernel<Half>;
template class SparseKernel<Bfloat16>;

}  // namespace keras_legacy_opt
