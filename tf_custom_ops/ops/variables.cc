#include "variables.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "parallel.h"

namespace keras_legacy_opt {

using tensorflow::OpKernelContext;
using tensorflow::Var;

Variables::~Variables() {
  Unlock();
  for (Var* variable : variables_) variable->Unref();
}

void Variables::Unlock() {
  for (Var* variable : locked_) {
    if (lock_ == Lock::kExclusive) {
      variable->mu()->unlock();
    } else {
      variable->mu()->unlock_shared();
    }
  }
  locked_.clear();
}

namespace {

// The variable of a handle, referenced once more.
absl::Status LookUpVariable(OpKernelContext* context, int input, Var** variable) {
  const tensorflow::ResourceHandle& handle = tensorflow::HandleFromInput(context, input);
  absl::Status found;
  if (handle.IsRefCounting()) {  // as all variables of TensorFlow 2 are: no name has to be resolved
    const auto resource = handle.GetResource<Var>();
    found = resource.status();
    if (found.ok()) (*variable = *resource)->Ref();
  } else {
    found = tensorflow::LookupResource(context, handle, variable);
  }
  if (found.ok()) return found;
  return absl::FailedPreconditionError(
      absl::StrCat("The update of variable '", handle.name(),
                   "' cannot find it: has it been initialized, and is it on this device? ", found.message()));
}

}  // namespace

absl::Status VariableGroup::LookUp(OpKernelContext* context, int first, int count) {
  for (int i = 0; i < count; ++i) {
    Var* variable = nullptr;
    KLO_RETURN_IF_ERROR(LookUpVariable(context, first + i, &variable));
    members_.emplace_back(variable);
    names_.push_back(tensorflow::HandleFromInput(context, first + i).name());
  }
  return absl::OkStatus();
}

absl::Status Variables::LookUpAndLock(OpKernelContext* context, std::vector<int> inputs, Lock lock) {
  inputs_ = std::move(inputs);
  variables_.reserve(inputs_.size());
  for (int input : inputs_) {
    Var* variable = nullptr;
    KLO_RETURN_IF_ERROR(LookUpVariable(context, input, &variable));
    variables_.push_back(variable);
  }
  return LockAll(context, lock);
}

absl::Status Variables::LookUpGroupAndLock(OpKernelContext* context, int input, Lock lock) {
  VariableGroup* group = nullptr;
  KLO_RETURN_IF_ERROR(tensorflow::LookupResource(context, tensorflow::HandleFromInput(context, input), &group));
  group_.reset(group);
  variables_.reserve(group->size());
  for (const auto& variable : group->members_) {
    variable->Ref();
    variables_.push_back(variable.get());
  }
  return LockAll(context, lock);
}

absl::Status Variables::LockAll(OpKernelContext* context, Lock lock) {
  lock_ = lock;
  if (lock == Lock::kShared) {
    // From here on every read copies, so that no reader shares the buffer with these writers.
    for (Var* variable : variables_) {
      if (variable->copy_on_read_mode.load()) continue;
      variable->mu()->lock();
      absl::Status owned = absl::OkStatus();
      if (!variable->tensor()->RefCountIsOne()) owned = CopyTensor(context, variable->tensor());
      if (owned.ok()) variable->copy_on_read_mode.store(true);
      variable->mu()->unlock();
      KLO_RETURN_IF_ERROR(owned);
    }
  }
  std::vector<Var*> order = variables_;
  std::sort(order.begin(), order.end(), [](Var* a, Var* b) { return a->mu() < b->mu(); });
  order.erase(std::unique(order.begin(), order.end()), order.end());
  for (Var* variable : order) {
    if (lock == Lock::kExclusive) {
      variable->mu()->lock();
    } else {
      variable->mu()->lock_shared();
    }
  }
  locked_ = std::move(order);
  return absl::OkStatus();
}

absl::Status Variables::Prepare(OpKernelContext* context, int i, tensorflow::DataType dtype) {
  tensorflow::Tensor* tensor = variables_[i]->tensor();
  if (!tensor->IsInitialized()) {
    return absl::FailedPreconditionError(
        absl::StrCat("Variable '", Name(context, i), "' is updated before it is initialized."));
  }
  if (tensor->dtype() != dtype) {
    return absl::InvalidArgumentError(absl::StrCat("Variable '", Name(context, i), "' holds ",
                                                   tensorflow::DataTypeString(tensor->dtype()), ", not ",
                                                   tensorflow::DataTypeString(dtype), "."));
  }
  if (lock_ == Lock::kExclusive && !tensor->RefCountIsOne()) return CopyTensor(context, tensor);
  return absl::OkStatus();
}

bool Variables::Repeats(int count) const {
  if (locked_.size() == variables_.size()) return false;
  std::vector<Var*> sorted(variables_.begin(), variables_.begin() + count);
  std::sort(sorted.begin(), sorted.end());
  return std::adjacent_find(sorted.begin(), sorted.end()) != sorted.end();
}

std::string Variables::Name(OpKernelContext* context, int i) const {
  return group_ != nullptr ? group_->names_[i] : tensorflow::HandleFromInput(context, inputs_[i]).name();
}

// Inputs: the variables of a group, then each slot of all of them, as the dense ops take them.
REGISTER_OP("KerasLegacyOptVariableGroup")
    .Input("state: N * resource")
    .Output("group: resource")
    .Attr("N: int >= 1")
    .SetIsStateful()
    .SetShapeFn(tensorflow::shape_inference::ScalarShape);

class VariableGroupKernel : public tensorflow::OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* context) override {
    auto group = tensorflow::core::RefCountPtr<VariableGroup>(new VariableGroup);
    OP_REQUIRES_OK(context, group->LookUp(context, 0, context->num_inputs()));
    tensorflow::Tensor* output;
    tensorflow::AllocatorAttributes on_host;
    on_host.set_on_host(true);
    OP_REQUIRES_OK(context, context->allocate_output(0, tensorflow::TensorShape({}), &output, on_host));
    output->scalar<tensorflow::ResourceHandle>()() =
        tensorflow::ResourceHandle::MakeRefCountingHandle(group.release(), context->device()->name());
  }
};

REGISTER_KERNEL_BUILDER(Name("KerasLegacyOptVariableGroup").Device(tensorflow::DEVICE_CPU), VariableGroupKernel);
#ifdef KLO_GPU
REGISTER_KERNEL_BUILDER(
    Name("KerasLegacyOptVariableGroup").Device(tensorflow::DEVICE_GPU).HostMemory("state").HostMemory("group"),
    VariableGroupKernel);
#endif

}  // namespace keras_legacy_opt
