#include "variables.h"

#include <algorithm>
#include <cstring>

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

absl::Status Variables::LookUpAndLock(OpKernelContext* context, int first, int count, Lock lock) {
  first_ = first;
  lock_ = lock;
  variables_.reserve(count);
  for (int i = 0; i < count; ++i) {
    Var* variable = nullptr;
    const absl::Status found =
        tensorflow::LookupResource(context, tensorflow::HandleFromInput(context, first + i), &variable);
    if (!found.ok()) {
      return absl::FailedPreconditionError(absl::StrCat("The update of variable '", Name(context, first + i),
                                                        "' cannot find it: has it been initialized, and is it on the"
                                                        " CPU? ",
                                                        found.message()));
    }
    variables_.push_back(variable);
  }
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
        absl::StrCat("Variable '", Name(context, first_ + i), "' is updated before it is initialized."));
  }
  if (tensor->dtype() != dtype) {
    return absl::InvalidArgumentError(absl::StrCat("Variable '", Name(context, first_ + i), "' holds ",
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

std::string Variables::Name(OpKernelContext* context, int input) {
  return tensorflow::HandleFromInput(context, input).name();
}

}  // namespace keras_legacy_opt
