#include "kernels.h"

#include "../apply/chunks.h"
#include "parallel.h"
#include "variables.h"

namespace keras_legacy_opt {

using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;

namespace {

// Elements that a thread takes at once: enough to hide the cost of taking them, few enough to share evenly.
constexpr int64_t kBlock = 1 << 14;

absl::Status ShapeError(const std::string& variable, const char* what, const tensorflow::TensorShape& expected,
                        const tensorflow::TensorShape& shape) {
  return absl::InvalidArgumentError(absl::StrCat("Variable '", variable, "' has shape ", expected.DebugString(),
                                                 ", but its ", what, " has shape ", shape.DebugString(), "."));
}

}  // namespace

template <class T>
ApplyKernel<T>::ApplyKernel(OpKernelConstruction* context, const FormulaSpec<C>& spec)
    : OpKernel(context), spec_(spec) {
  int transforms = 0, conditions = 0;
  OP_REQUIRES_OK(context, context->GetAttr("use_locking", &use_locking_));
  OP_REQUIRES_OK(context, context->GetAttr("transforms", &transforms));
  OP_REQUIRES_OK(context, context->GetAttr("conditions", &conditions));
  OP_REQUIRES(context, transforms <= 1 && conditions <= 1,
              absl::InvalidArgumentError(absl::StrCat(this->type_string(),
                                                      " takes at most one transform and one condition, but was given ",
                                                      transforms, " and ", conditions, ".")));
  transforms_ = transforms > 0;
  conditional_ = conditions > 0;
}

template <class T>
absl::Status ApplyKernel<T>::ReadScalars(OpKernelContext* context, int input, int variables, Scalars* scalars) const {
  C hyper[16];
  for (int i = 0; i < spec_.hypers; ++i) {
    const Tensor& tensor = context->input(input + i);
    if (tensor.NumElements() != 1) {
      return absl::InvalidArgumentError(absl::StrCat("Hyperparameter ", i, " of ", this->type_string(),
                                                     " must be a scalar, but has shape ", tensor.shape().DebugString(),
                                                     "."));
    }
    hyper[i] = *static_cast<const C*>(tensor.data());
  }
  scalars->formula = spec_.bind(ChosenIsa(), hyper);
  if (scalars->formula.refusal != nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(this->type_string(), ": ", scalars->formula.refusal, "."));
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
  if (conditional_) {
    const Tensor& tensor = context->input(input);
    if (tensor.NumElements() != 1) {
      return absl::InvalidArgumentError(absl::StrCat("The condition of ", this->type_string(),
                                                     " must be a scalar, but has shape ", tensor.shape().DebugString(),
                                                     "."));
    }
    scalars->apply = *static_cast<const bool*>(tensor.data());
  }
  return absl::OkStatus();
}

template <class T>
void DenseKernel<T>::Compute(OpKernelContext* context) {
  OP_REQUIRES_OK(context, Apply(context));
}

template <class T>
absl::Status DenseKernel<T>::Apply(OpKernelContext* context) {
  const int per_variable = this->spec_.slots + 1;
  const int lists = context->num_inputs() - this->spec_.hypers - this->transforms_ - this->conditional_;
  const int count = state_ == State::kGroup ? lists - 1 : lists / (per_variable + 1);
  const int first_grad = lists - count;
  typename ApplyKernel<T>::Scalars scalars;
  KLO_RETURN_IF_ERROR(this->ReadScalars(context, first_grad + count, count, &scalars));
  if (!scalars.apply) return absl::OkStatus();

  Variables variables;
  if (state_ == State::kGroup) {
    KLO_RETURN_IF_ERROR(variables.LookUpGroupAndLock(context, 0, Lock::kExclusive));
    if (variables.size() != count * per_variable) {
      return absl::InvalidArgumentError(absl::StrCat(count, " gradients of ", this->type_string(), " need a group of ",
                                                     count * per_variable, " variables and slots, but it has ",
                                                     variables.size(), "."));
    }
  } else {
    KLO_RETURN_IF_ERROR(variables.LookUpAndLock(context, 0, count * per_variable, Lock::kExclusive));
  }
  for (int i = 0; i < count; ++i) {
    const tensorflow::TensorShape& shape = variables.Tensor(i).shape();
    const auto check = [&](const char* what, const tensorflow::TensorShape& other) {
      return shape.IsSameSize(other) ? absl::OkStatus() : ShapeError(variables.Name(context, i), what, shape, other);
    };
    KLO_RETURN_IF_ERROR(check("gradient", context->input(first_grad + i).shape()));
    for (int k = 1; k < per_variable; ++k) {
      KLO_RETURN_IF_ERROR(check("slot", variables.Tensor(k * count + i).shape()));
    }
  }
  for (int i = 0; i < count * per_variable; ++i) KLO_RETURN_IF_ERROR(variables.Prepare(context, i, this->kDtype));

  ChunkTable chunks;
  chunks.Reserve(count);
  std::vector<void*> state(count * per_variable);
  std::vector<const void*> grads(count);
  for (int i = 0; i < count; ++i) {
    chunks.Add(variables.Tensor(i).NumElements());
    for (int k = 0; k < per_variable; ++k) state[i * per_variable + k] = variables.Data(k * count + i);
    grads[i] = context->input(first_grad + i).data();
  }
  const auto update = [&](int64_t begin, int64_t end) {
    chunks.ForEach(begin, end, [&](int64_t i, int64_t offset, int64_t n) {
      const Updater<T> updater(ChosenIsa(), scalars.formula, scalars.TransformOf(i));
      updater.Dense(&state[i * per_variable], grads[i], offset, n);
    });
  };
  if (variables.Repeats(count)) {
    // The same variable twice is updated twice, one after the other.
    chunks.ForEach(0, chunks.size(), [&, start = int64_t{0}](int64_t, int64_t, int64_t n) mutable {
      ParallelFor(context, n, kBlock, [&](int64_t begin, int64_t end) { update(start + begin, start + end); });
      start += n;
    });
  } else {
    ParallelFor(context, chunks.size(), kBlock, update);
  }
  return absl::OkStatus();
}

template <class T>
SparseKernel<T>::SparseKernel(OpKernelConstruction* context, const FormulaSpec<Arithmetic<T>>& spec)
    : ApplyKernel<T>(context, spec) {
  OP_REQUIRES_OK(context, context->GetAttr("variable_name", &variable_name_));
}

template <class T>
void SparseKernel<T>::Compute(OpKernelContext* context) {
  OP_REQUIRES_OK(context, Apply(context));
}

template <class T>
absl::Status SparseKernel<T>::Apply(OpKernelContext* context) {
  const int per_variable = this->spec_.slots + 1;
  const Tensor& grad = context->input(per_variable);
  const Tensor& indices = context->input(per_variable + 1);
  typename ApplyKernel<T>::Scalars scalars;
  KLO_RETURN_IF_ERROR(this->ReadScalars(context, per_variable + 2, 1, &scalars));
  if (!scalars.apply) return absl::OkStatus();

  Variables variables;
  // Where rows without gradient change too, there is nothing to share.
  const bool exclusive = this->use_locking_ || scalars.formula.idle != nullptr;
  KLO_RETURN_IF_ERROR(variables.LookUpAndLock(context, 0, per_variable, exclusive ? Lock::kExclusive : Lock::kShared));
  const std::string name = variable_name_.empty() ? variables.Name(context, 0) : variable_name_;
  const tensorflow::TensorShape& shape = variables.Tensor(0).shape();
  if (shape.dims() < 1) {
    return absl::InvalidArgumentError(absl::StrCat("Variable '", name, "' has no rows: it is a scalar."));
  }
  for (int k = 1; k < per_variable; ++k) {
    const tensorflow::TensorShape& slot = variables.Tensor(k).shape();
    if (!shape.IsSameSize(slot)) return ShapeError(name, "slot", shape, slot);
  }
  const int64_t table_rows = shape.dim_size(0), count = indices.NumElements();
  int64_t width = 1;
  for (int d = 1; d < shape.dims(); ++d) width *= shape.dim_size(d);
  tensorflow::TensorShape expected = shape;
  expected.set_dim(0, count);
  if (indices.dims() != 1 || !grad.shape().IsSameSize(expected)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "The sparse gradient of variable '", name, "' of shape ", shape.DebugString(), " has values of shape ",
        grad.shape().DebugString(), " and indices of shape ", indices.shape().DebugString(), "."));
  }

  RowPlan plan;
  const int64_t bad = indices.dtype() == tensorflow::DT_INT32
                          ? PlanRows(static_cast<const int32_t*>(indices.data()), count, table_rows, &plan)
                          : PlanRows(static_cast<const int64_t*>(indices.data()), count, table_rows, &plan);
  if (bad >= 0) {
    const int64_t index = indices.dtype() == tensorflow::DT_INT32 ? static_cast<const int32_t*>(indices.data())[bad]
                                                                  : static_cast<const int64_t*>(indices.data())[bad];
    return absl::InvalidArgumentError(absl::StrCat("The sparse gradient of variable '", name, "' has index ", index,
                                                   " at position ", bad, ", which is not in [0, ", table_rows,
                                                   "). This variable was not changed."));
  }
  for (int k = 0; k < per_variable; ++k) KLO_RETURN_IF_ERROR(variables.Prepare(context, k, this->kDtype));
  if (width == 0) return absl::OkStatus();

  std::vector<void*> state(per_variable);
  for (int k = 0; k < per_variable; ++k) state[k] = variables.Data(k);
  const Updater<T> updater(ChosenIsa(), scalars.formula, scalars.TransformOf(0));
  const int64_t rows = updater.SparseRows(plan, table_rows);
  ParallelFor(context, rows, std::max<int64_t>(1, kBlock / width),
              [&](int64_t begin, int64_t end) { updater.Sparse(state.data(), grad.data(), plan, width, begin, end); });
  return absl::OkStatus();
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
