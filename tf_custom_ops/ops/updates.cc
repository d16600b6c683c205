#include "updates.h"

#include <numeric>
#include <utility>

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

}  // namespace

UpdateKernel::UpdateKernel(OpKernelConstruction* context, const FormulaShape& shape)
    : OpKernel(context), shape_(shape) {
  OP_REQUIRES_OK(context, context->GetAttr("T", &dtype_));
  OP_REQUIRES_OK(context, context->GetAttr("use_locking", &use_locking_));
  for (const auto& [name, value] : {std::pair{"transforms", &transforms_},
                                    {"conditions", &conditions_},
                                    {"per_variables", &per_variables_},
                                    {"average_weights", &average_weights_}}) {
    OP_REQUIRES_OK(context, context->GetAttr(name, value));
    OP_REQUIRES(context, *value <= 1,
                absl::InvalidArgumentError(absl::StrCat(type_string(), " takes at most one of the inputs that ", name,
                                                        " counts, but was given ", *value, ".")));
  }
}

void UpdateKernel::CheckAverages(OpKernelConstruction* context, int variables) {
  int averages = 0;
  OP_REQUIRES_OK(context, context->GetAttr("averages", &averages));
  OP_REQUIRES(context, averages == variables * average_weights_,
              absl::InvalidArgumentError(absl::StrCat(type_string(), " takes an average of each variable, ", variables,
                                                      " and their weight, or neither; but was given ", averages,
                                                      " and ", average_weights_, ".")));
}

absl::Status UpdateKernel::ShouldBeScalar(const Tensor& tensor, const std::string& what) const {
  if (tensor.NumElements() == 1) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(what, " of ", type_string(), " must be a scalar, but has shape ",
                                                 tensor.shape().DebugString(), "."));
}

absl::Status UpdateKernel::FindScalars(OpKernelContext* context, int input, int variables, ScalarInputs* found) const {
  found->hypers = input;
  for (int i = 0; i < shape_.hypers; ++i) {
    KLO_RETURN_IF_ERROR(ShouldBeScalar(context->input(input++), absl::StrCat("Hyperparameter ", i)));
  }
  // Whether a tensor has `width` numbers, or as many for each variable.
  const auto has_rows = [variables](const Tensor& tensor, int width, bool* of_each) {
    const int64_t rows = tensor.NumElements() / width;
    *of_each = rows > 1;
    return tensor.NumElements() % width == 0 && (rows == 1 || rows == variables);
  };
  if (transforms_) {
    const Tensor& tensor = context->input(found->transform = input++);
    if (!has_rows(tensor, 4, &found->transform_of_each)) {
      return absl::InvalidArgumentError(absl::StrCat("The transform of ", type_string(),
                                                     " must have shape [4] or [number of variables, 4], but has shape ",
                                                     tensor.shape().DebugString(), "."));
    }
  }
  if (conditions_) {
    KLO_RETURN_IF_ERROR(ShouldBeScalar(context->input(found->condition = input++), "The condition"));
  }
  if (per_variables_) {
    const Tensor& tensor = context->input(found->per_variable = input++);
    if (!has_rows(tensor, 2, &found->per_variable_of_each)) {
      return absl::InvalidArgumentError(
          absl::StrCat("What variables have of their own must have shape [2] or [number of"
                       " variables, 2] for ",
                       type_string(), ", but has shape ", tensor.shape().DebugString(), "."));
    }
  }
  found->averages = input;
  if (average_weights_) {
    found->average_weight = context->num_inputs() - 1;
    KLO_RETURN_IF_ERROR(ShouldBeScalar(context->input(found->average_weight), "The weight of averages"));
  }
  return absl::OkStatus();
}

int UpdateKernel::PlaceOf(int tensor) const {
  const int elementwise = shape_.slots + 1 - shape_.scalar_slots;
  if (!average_weights_ || tensor < elementwise) return tensor;
  return tensor == shape_.slots + 1 ? elementwise : tensor + 1;
}

DenseUpdate::DenseUpdate(OpKernelConstruction* context, const FormulaShape& shape, State state)
    : UpdateKernel(context, shape), state_(state) {
  OP_REQUIRES_OK(context, context->GetAttr("N", &count_));
  if (state == State::kInputs) CheckAverages(context, count_);
}

absl::Status DenseUpdate::LookUpAndLock(OpKernelContext* context, int averages, Variables* variables) const {
  const int members = count_ * tensors();
  if (state_ == State::kGroup) {
    KLO_RETURN_IF_ERROR(variables->LookUpGroupAndLock(context, 0, Lock::kExclusive));
    if (variables->size() == members) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat(count_, " gradients of ", type_string(), " need a group of ",
                                                   members, " variables and slots, but it has ", variables->size(),
                                                   "."));
  }
  const int state = count_ * (shape_.slots + 1);
  std::vector<int> inputs(members);
  for (int i = 0; i < members; ++i) inputs[i] = i < state ? i : averages + i - state;
  return variables->LookUpAndLock(context, std::move(inputs), Lock::kExclusive);
}

absl::Status DenseUpdate::Check(OpKernelContext* context, Variables* variables) const {
  for (int i = 0; i < count_; ++i) {
    const tensorflow::TensorShape& shape = variables->Tensor(i).shape();
    const auto check = [&](const char* what, const tensorflow::TensorShape& expected,
                           const tensorflow::TensorShape& other) {
      return expected.IsSameSize(other) ? absl::OkStatus()
                                        : ShapeError(variables->Name(context, i), what, shape, other);
    };
    KLO_RETURN_IF_ERROR(check("gradient", shape, context->input(first_grad() + i).shape()));
    for (int k = 1; k < tensors(); ++k) {
      KLO_RETURN_IF_ERROR(check(k <= shape_.slots ? "slot" : "average", IsScalar(k) ? tensorflow::TensorShape() : shape,
                                variables->Tensor(k * count_ + i).shape()));
    }
  }
  for (int i = 0; i < count_ * tensors(); ++i) KLO_RETURN_IF_ERROR(variables->Prepare(context, i, dtype_));
  return absl::OkStatus();
}

absl::Status DenseUpdate::Prepare(OpKernelContext* context, int averages, Variables* variables, Work* work) const {
  KLO_RETURN_IF_ERROR(LookUpAndLock(context, averages, variables));
  KLO_RETURN_IF_ERROR(Check(context, variables));
  work->state.resize(count_ * tensors());
  for (int i = 0; i < count_; ++i) {
    for (int k = 0; k < tensors(); ++k) {
      work->state[i * tensors() + PlaceOf(k)] = variables->Data(k * count_ + i);
    }
    work->grads.push_back(context->input(first_grad() + i).data());
    work->sizes.push_back(variables->Tensor(i).NumElements());
  }
  return absl::OkStatus();
}

SparseUpdate::SparseUpdate(OpKernelConstruction* context, const FormulaShape& shape) : UpdateKernel(context, shape) {
  OP_REQUIRES_OK(context, context->GetAttr("variable_name", &variable_name_));
  CheckAverages(context, 1);
}

absl::Status SparseUpdate::Check(OpKernelContext* context, const std::string& name, const Variables& variables) const {
  const tensorflow::TensorShape& shape = variables.Tensor(0).shape();
  if (shape.dims() < 1) {
    return absl::InvalidArgumentError(absl::StrCat("Variable '", name, "' has no rows: it is a scalar."));
  }
  for (int k = 1; k < variables.size(); ++k) {
    const tensorflow::TensorShape& other = variables.Tensor(k).shape();
    if (!other.IsSameSize(IsScalar(k) ? tensorflow::TensorShape() : shape)) {
      return ShapeError(name, k <= shape_.slots ? "slot" : "average", shape, other);
    }
  }
  const Tensor& grad = Grad(context);
  const Tensor& indices = IndicesOf(context);
  tensorflow::TensorShape expected = shape;
  expected.set_dim(0, indices.NumElements());
  if (indices.dims() == 1 && grad.shape().IsSameSize(expected)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "The sparse gradient of variable '", name, "' of shape ", shape.DebugString(), " has values of shape ",
      grad.shape().DebugString(), " and indices of shape ", indices.shape().DebugString(), "."));
}

absl::Status SparseUpdate::LookUp(OpKernelContext* context, int averages, bool all_rows, Variables* variables,
                                  Table* table) const {
  // Where rows without gradient change too, there is nothing to share; nor where all of them are read.
  const bool exclusive = use_locking_ || all_rows || average_weights_;
  std::vector<int> inputs(shape_.slots + 1);
  std::iota(inputs.begin(), inputs.end(), 0);
  if (average_weights_) inputs.push_back(averages);
  KLO_RETURN_IF_ERROR(
      variables->LookUpAndLock(context, std::move(inputs), exclusive ? Lock::kExclusive : Lock::kShared));
  table->name = variable_name_.empty() ? variables->Name(context, 0) : variable_name_;
  KLO_RETURN_IF_ERROR(Check(context, table->name, *variables));
  const tensorflow::TensorShape& shape = variables->Tensor(0).shape();
  table->rows = shape.dim_size(0);
  for (int d = 1; d < shape.dims(); ++d) table->width *= shape.dim_size(d);
  return absl::OkStatus();
}

absl::Status SparseUpdate::Prepare(OpKernelContext* context, Variables* variables, std::vector<void*>* state) const {
  state->resize(variables->size());
  for (int k = 0; k < variables->size(); ++k) {
    KLO_RETURN_IF_ERROR(variables->Prepare(context, k, dtype_));
    (*state)[PlaceOf(k)] = variables->Data(k);
  }
  return absl::OkStatus();
}

}  // namespace keras_legacy_opt
