// The resource variables that a kernel updates: looked up, locked, and made safe to write into.
#ifndef KERAS_LEGACY_OPT_OPS_VARIABLES_H_
#define KERAS_LEGACY_OPT_OPS_VARIABLES_H_

#include <string>
#include <vector>

#include "tensorflow/core/platform/refcount.h"
#include "tf_compat.h"

namespace keras_legacy_opt {

enum class Lock {
  kExclusive,  // nothing else reads or writes meanwhile
  kShared      // sparse updates with use_locking=False: others may write at the same time
};

// Variables and slots that were looked up once, so that a step takes one input for all of them. It keeps them alive, as
// their handles would.
class VariableGroup : public tensorflow::ResourceBase {
 public:
  // Takes inputs [first, first + count).
  absl::Status LookUp(tensorflow::OpKernelContext* context, int first, int count);

  int size() const { return static_cast<int>(members_.size()); }
  std::string DebugString() const override { return absl::StrCat("group of ", size(), " variables"); }

 private:
  friend class Variables;

  std::vector<tensorflow::core::RefCountPtr<tensorflow::Var>> members_;
  std::vector<std::string> names_;
};

class Variables {
 public:
  Variables() = default;
  Variables(const Variables&) = delete;
  Variables& operator=(const Variables&) = delete;
  ~Variables();

  // Takes the inputs and locks each of them once, in the order of their addresses.
  absl::Status LookUpAndLock(tensorflow::OpKernelContext* context, std::vector<int> inputs, Lock lock);
  // Takes the members of the group that is an input, and locks them likewise.
  absl::Status LookUpGroupAndLock(tensorflow::OpKernelContext* context, int input, Lock lock);

  // The tensor of variable i. Its buffer belongs to it alone: where a reader still holds it, it was copied before.
  const tensorflow::Tensor& Tensor(int i) const { return *variables_[i]->tensor(); }
  tensorflow::Var* Resource(int i) const { return variables_[i]; }
  void* Data(int i) const { return const_cast<char*>(variables_[i]->tensor()->tensor_data().data()); }

  // Checks what an update needs to hold of variable i, and makes its buffer its own.
  absl::Status Prepare(tensorflow::OpKernelContext* context, int i, tensorflow::DataType dtype);

  // Whether one of the first `count` variables is there twice.
  bool Repeats(int count) const;

  // The name of variable i, for errors.
  std::string Name(tensorflow::OpKernelContext* context, int i) const;

  int size() const { return static_cast<int>(variables_.size()); }

 private:
  absl::Status LockAll(tensorflow::OpKernelContext* context, Lock lock);
  void Unlock();

  Lock lock_ = Lock::kExclusive;
  std::vector<int> inputs_;
  tensorflow::core::RefCountPtr<VariableGroup> group_;  // null: the variables are inputs
  std::vector<tensorflow::Var*> variables_;
  std::vector<tensorflow::Var*> locked_;  // without repetitions
};

}  // namespace keras_legacy_opt

#endif  // KERAS_LEGACY_OPT_OPS_VARIABLES_H_
