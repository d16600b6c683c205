#include "kernels.h"

#include <algorithm>
#include <numeric>
#include <unordered_map>
#include <utility>

#include "../apply/chunks.h"
#include "parallel.h"

namespace keras_legacy_opt {

using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;

namespace {

absl::Status ShapeError(const std::string& variable, const char* what, const tensorflow::TensorShape& expected,
                        const tensorflow::TensorShape& shape) {
  return absl::InvalidArgumentError(absl::StrCat("Variable '", variable, "' has shape ", expected.DebugString(),
                                                 ", but its ", what, " has shape ", shape.DebugString(), "."));
}

// The order of a variable's tensors in the op, as the updater wants them: the average before the scalar slots.
template <class C>
int PlaceOf(const FormulaSpec<C>& spec, bool averages, int tensor) {
  const int elementwise = spec.slots + 1 - spec.scalar_slots;
  if (!averages || tensor < elementwise) return tensor;
  return tensor == spec.slots + 1 ? elementwise : tensor + 1;
}

}  // namespace

template <class T>
ApplyKernel<T>::ApplyKernel(OpKernelConstruction* context, const FormulaSpec<C>& spec)
    : OpKernel(context), spec_(spec) {
  OP_REQUIRES_OK(context, context->GetAttr("use_locking", &use_locking_));
  for (const auto& [name, value] : {std::pair{"transforms", &transforms_},
                                    {"conditions", &conditions_},
                                    {"per_variables", &per_variables_},
                                    {"average_weights", &average_weights_}}) {
    OP_REQUIRES_OK(context, context->GetAttr(name, value));
    OP_REQUIRES(context, *value <= 1,
                absl::InvalidArgumentError(absl::StrCat(this->type_string(), " takes at most one of the inputs that ",
                                                        name, " counts, but was given ", *value, ".")));
  }
}

template <class T>
void ApplyKernel<T>::CheckAverages(OpKernelConstruction* context, int variables) {
  int averages = 0;
  OP_REQUIRES_OK(context, context->GetAttr("averages", &averages));
  OP_REQUIRES(context, averages == variables * average_weights_,
              absl::InvalidArgumentError(absl::StrCat(this->type_string(), " takes an average of each variable, ",
                                                      variables, " and their weight, or neither; but was given ",
                                                      averages, " and ", average_weights_, ".")));
}

template <class T>
absl::Status ApplyKernel<T>::ShouldBeScalar(const Tensor& tensor, const std::string& what) const {
  if (tensor.NumElements() == 1) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(what, " of ", this->type_string(), " must be a scalar, but has shape ",
                                                 tensor.shape().DebugString(), "."));
}

template <class T>
absl::Status ApplyKernel<T>::AddFormula(const C* hyper, Scalars* scalars) const {
  scalars->formulas.push_back(spec_.bind(ChosenIsa(), hyper));
  const char* refusal = scalars->formulas.back().refusal;
  if (refusal == nullptr) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(this->type_string(), ": ", refusal, "."));
}

template <class T>
absl::Status ApplyKernel<T>::ReadPerVariable(const Tensor& tensor, int variables, C* hyper, Scalars* scalars) const {
  const int64_t rows = tensor.NumElements() / 2;
  if (tensor.NumElements() % 2 != 0 || (rows != 1 && rows != variables)) {
    return absl::InvalidArgumentError(
        absl::StrCat("What variables have of their own must have shape [2] or [number of"
                     " variables, 2] for ",
                     this->type_string(), ", but has shape ", tensor.shape().DebugString(), "."));
  }
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

template <class T>
absl::Status ApplyKernel<T>::ReadScalars(OpKernelContext* context, int input, int variables, Scalars* scalars) const {
  C hyper[16];
  for (int i = 0; i < spec_.hypers; ++i) {
    const Tensor& tensor = context->input(input + i);
    KLO_RETURN_IF_ERROR(ShouldBeScalar(tensor, absl::StrCat("Hyperparameter ", i)));
    hyper[i] = *static_cast<const C*>(tensor.data());
  }
  input += spec_.hypers;
  if (transforms_) {
    const Tensor& tensor = context->input(input++);
    const int64_t rows = tensor.NumElements() / 4;
    if (tensor.NumElements() % 4 != 0 || (rows != 1 && rows != variables)) {
      return absl::InvalidArgumentError(absl::StrCat("The transform of ", this->type_string(),
                                                     " must have shape [4] or [number of variables, 4], but has shape ",
                                                     tensor.shape().DebugString(), "."));
    }
    const C* row = static_cast<const C*>(tensor.data());
    for (int64_t i = 0; i < rows; ++i, row += 4) scalars->transforms.push_back({row[0], row[1], row[2], row[3]});
  }
  if (conditions_) {
    const Tensor& tensor = context->input(input++);
    KLO_RETURN_IF_ERROR(ShouldBeScalar(tensor, "The condition"));
    scalars->apply = *static_cast<const bool*>(tensor.data());
  }
  if (per_variables_) {
    KLO_RETURN_IF_ERROR(ReadPerVariable(context->input(input++), variables, hyper, scalars));
  } else {
    KLO_RETURN_IF_ERROR(AddFormula(hyper, scalars));
  }
  scalars->averages = input;
  if (average_weights_) {
    const Tensor& tensor = context->input(context->num_inputs() - 1);
    KLO_RETURN_IF_ERROR(ShouldBeScalar(tensor, "The weight of averages"));
    scalars->average_weight = *static_cast<const C*>(tensor.data());
  }
  return absl::OkStatus();
}

template <class T>
Updater<T> ApplyKernel<T>::UpdaterOf(const Scalars& scalars, int variable) const {
  const auto at = [variable](const auto& list) { return list.size() == 1 ? 0 : variable; };
  Beside<C> beside;
  if (!scalars.decays.empty()) beside.decay = scalars.decays[at(scalars.decays)];
  beside.averages = average_weights_;
  beside.average_weight = scalars.average_weight;
  const auto* transform = scalars.transforms.empty() ? nullptr : &scalars.transforms[at(scalars.transforms)];
  return Updater<T>(ChosenIsa(), scalars.FormulaOf(variable), transform, beside);
}

template <class T>
void DenseKernel<T>::Compute(OpKernelContext* context) {
  OP_REQUIRES_OK(context, Apply(context));
}

template <class T>
absl::Status DenseKernel<T>::LookUpAndLock(OpKernelContext* context, int averages, Variables* variables) const {
  const int count = count_, members = count * tensors();
  if (state_ == State::kGroup) {
    KLO_RETURN_IF_ERROR(variables->LookUpGroupAndLock(context, 0, Lock::kExclusive));
    if (variables->size() == members) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat(count, " gradients of ", this->type_string(), " need a group of ",
                                                   members, " variables and slots, but it has ", variables->size(),
                                                   "."));
  }
  const int state = count * (this->spec_.slots + 1);
  std::vector<int> inputs(members);
  for (int i = 0; i < members; ++i) inputs[i] = i < state ? i : averages + i - state;
  return variables->LookUpAndLock(context, std::move(inputs), Lock::kExclusive);
}

template <class T>
absl::Status DenseKernel<T>::Check(OpKernelContext* context, int first_grad, Variables* variables) const {
  const int count = count_;
  const int elementwise = this->spec_.slots + 1 - this->spec_.scalar_slots;
  for (int i = 0; i < count; ++i) {
    const tensorflow::TensorShape& shape = variables->Tensor(i).shape();
    const auto check = [&](const char* what, const tensorflow::TensorShape& expected,
                           const tensorflow::TensorShape& other) {
      return expected.IsSameSize(other) ? absl::OkStatus()
                                        : ShapeError(variables->Name(context, i), what, shape, other);
    };
    KLO_RETURN_IF_ERROR(check("gradient", shape, context->input(first_grad + i).shape()));
    for (int k = 1; k < tensors(); ++k) {
      const bool is_scalar = k >= elementwise && k <= this->spec_.slots;
      KLO_RETURN_IF_ERROR(check(k <= this->spec_.slots ? "slot" : "average",
                                is_scalar ? tensorflow::TensorShape() : shape,
                                variables->Tensor(k * count + i).shape()));
    }
  }
  for (int i = 0; i < count * tensors(); ++i) KLO_RETURN_IF_ERROR(variables->Prepare(context, i, this->kDtype));
  return absl::OkStatus();
}

template <class T>
absl::Status DenseKernel<T>::Apply(OpKernelContext* context) {
  const int count = count_, slots = this->spec_.slots;
  const int first_grad = state_ == State::kGroup ? 1 : count * (slots + 1);
  Scalars scalars;
  KLO_RETURN_IF_ERROR(this->ReadScalars(context, first_grad + count, count, &scalars));
  if (!scalars.apply) return absl::OkStatus();

  Variables variables;
  KLO_RETURN_IF_ERROR(LookUpAndLock(context, scalars.averages, &variables));
  KLO_RETURN_IF_ERROR(Check(context, first_grad, &variables));
  Work work;
  work.state.resize(count * tensors());
  for (int i = 0; i < count; ++i) {
    for (int k = 0; k < tensors(); ++k) {
      work.state[i * tensors() + PlaceOf(this->spec_, this->average_weights_, k)] = variables.Data(k * count + i);
    }
    work.grads.push_back(context->input(first_grad + i).data());
    work.sizes.push_back(variables.Tensor(i).NumElements());
  }
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
      this->UpdaterOf(scalars, i).Dense(&work.state[i * tensors()], work.grads[i], offset, n);
    });
  });
}

template <class T>
void DenseKernel<T>::UpdateWithNorms(OpKernelContext* context, const Scalars& scalars, const Work& work, int first,
                                     int last) const {
  BlockTable blocks(kBlock);
  for (int i = first; i < last; ++i) blocks.Add(work.sizes[i]);
  std::vector<SumsOfSquares> sums(blocks.size());
  const auto for_each = [&](auto visit) {
    ParallelFor(context, blocks.size(), blocks.AtOnce(kBlock), [&](int64_t begin, int64_t end) {
      blocks.ForEach(begin, end, [&](int64_t i, int64_t block, int64_t offset, int64_t n) {
        visit(static_cast<int>(i) + first, block, offset, n);
      });
    });
  };
  for_each([&](int i, int64_t block, int64_t offset, int64_t n) {
    Squares squares;
    this->UpdaterOf(scalars, i).DirectDense(&work.state[i * tensors()], work.grads[i], offset, n, &squares);
    sums[block] = SumsOfSquares(squares);
  });
  std::vector<Arithmetic<T>> scales(last);
  for (int i = first; i < last; ++i) {
    SumsOfSquares total;
    for (int64_t block = blocks.First(i - first); block < blocks.First(i - first + 1); ++block) total += sums[block];
    scales[i] = this->UpdaterOf(scalars, i).Scale(&work.state[i * tensors()], total.variable, total.direction);
  }
  for_each([&](int i, int64_t, int64_t offset, int64_t n) {
    this->UpdaterOf(scalars, i).MoveDense(&work.state[i * tensors()], work.grads[i], offset, n, scales[i]);
  });
}

template <class T>
DenseKernel<T>::DenseKernel(OpKernelConstruction* context, const FormulaSpec<Arithmetic<T>>& spec, State state)
    : ApplyKernel<T>(context, spec), state_(state) {
  OP_REQUIRES_OK(context, context->GetAttr("N", &count_));
  if (state == State::kInputs) this->CheckAverages(context, count_);
}

template <class T>
SparseKernel<T>::SparseKernel(OpKernelConstruction* context, const FormulaSpec<Arithmetic<T>>& spec)
    : ApplyKernel<T>(context, spec) {
  OP_REQUIRES_OK(context, context->GetAttr("variable_name", &variable_name_));
  this->CheckAverages(context, 1);
}

template <class T>
void SparseKernel<T>::Compute(OpKernelContext* context) {
  OP_REQUIRES_OK(context, Apply(context));
}

template <class T>
absl::Status SparseKernel<T>::Check(OpKernelContext* context, const std::string& name,
                                    const Variables& variables) const {
  const tensorflow::TensorShape& shape = variables.Tensor(0).shape();
  if (shape.dims() < 1) {
    return absl::InvalidArgumentError(absl::StrCat("Variable '", name, "' has no rows: it is a scalar."));
  }
  const int slots = this->spec_.slots, elementwise = slots + 1 - this->spec_.scalar_slots;
  for (int k = 1; k < variables.size(); ++k) {
    const tensorflow::TensorShape& other = variables.Tensor(k).shape();
    const bool is_scalar = k >= elementwise && k <= slots;
    if (!other.IsSameSize(is_scalar ? tensorflow::TensorShape() : shape)) {
      return ShapeError(name, k <= slots ? "slot" : "average", shape, other);
    }
  }
  const Tensor& grad = context->input(slots + 1);
  const Tensor& indices = context->input(slots + 2);
  tensorflow::TensorShape expected = shape;
  expected.set_dim(0, indices.NumElements());
  if (indices.dims() == 1 && grad.shape().IsSameSize(expected)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "The sparse gradient of variable '", name, "' of shape ", shape.DebugString(), " has values of shape ",
      grad.shape().DebugString(), " and indices of shape ", indices.shape().DebugString(), "."));
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
  const int slots = this->spec_.slots;
  typename ApplyKernel<T>::Scalars scalars;
  KLO_RETURN_IF_ERROR(this->ReadScalars(context, slots + 3, 1, &scalars));
  if (!scalars.apply) return absl::OkStatus();

  const BoundFormula<Arithmetic<T>>& formula = scalars.formulas[0];
  const bool has_norms = formula.direction != nullptr;
  Variables variables;
  // Where rows without gradient change too, there is nothing to share; nor where all of them are read.
  const bool exclusive = this->use_locking_ || formula.idle_rows || has_norms || this->average_weights_;
  std::vector<int> inputs(slots + 1);
  std::iota(inputs.begin(), inputs.end(), 0);
  if (this->average_weights_) inputs.push_back(scalars.averages);
  KLO_RETURN_IF_ERROR(
      variables.LookUpAndLock(context, std::move(inputs), exclusive ? Lock::kExclusive : Lock::kShared));
  const std::string name = variable_name_.empty() ? variables.Name(context, 0) : variable_name_;
  KLO_RETURN_IF_ERROR(Check(context, name, variables));
  const tensorflow::TensorShape& shape = variables.Tensor(0).shape();
  const int64_t table_rows = shape.dim_size(0);
  int64_t width = 1;
  for (int d = 1; d < shape.dims(); ++d) width *= shape.dim_size(d);
  RowPlan plan;
  KLO_RETURN_IF_ERROR(Plan(context->input(slots + 2), name, table_rows, &plan));
  for (int k = 0; k < variables.size(); ++k) KLO_RETURN_IF_ERROR(variables.Prepare(context, k, this->kDtype));
  if (width == 0) return absl::OkStatus();

  std::vector<void*> state(variables.size());
  for (int k = 0; k < variables.size(); ++k) {
    state[PlaceOf(this->spec_, this->average_weights_, k)] = variables.Data(k);
  }
  const void* grad = context->input(slots + 1).data();
  const Updater<T> updater = this->UpdaterOf(scalars, 0);
  const int64_t rows = updater.SparseRows(plan, table_rows), at_once = std::max<int64_t>(1, kBlock / width);
  if (has_norms) {
    UpdateWithNorms(context, updater, state.data(), grad, plan, width, rows);
  } else {
    ParallelFor(context, rows, at_once,
                [&](int64_t begin, int64_t end) { updater.Sparse(state.data(), grad, plan, width, begin, end); });
  }
  if (this->average_weights_) {
    ParallelFor(context, table_rows * width, kBlock,
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

template class ApplyKernel<float>;
template class ApplyKernel<double>;
template class ApplyKernel<Half>;
template class ApplyKernel<Bfloat16>;
template class DenseKernel<float>;
template class DenseKernel<double>;
template class DenseKernel<Half>;
template class DenseKernel<Bfloat16>;
template class SparseKernel<float>;
template class SparseKernel<double>;
template class SparseKernel<Half>;
template class SparseKernel<Bfloat16>;

}  // namespace keras_legacy_opt
