// The resource variables among a kernel's inputs: looked up, locked, and made safe to write into.
#ifndef KERAS_LEGACY_OPT_OPS_VARIABLES_H_
#define KERAS_LEGACY_OPT_OPS_VARIABLES_H_

#include <vector>

#include "tf_compat.h"

namespace keras_legacy_opt {

enum class Lock {
  kExclusive,  // nothing else reads or writes meanwhile
  kShared      // sparse updates with use_locking=False: others may write at the same time
};

class Variables {
 public:
  Variables() = default;
  Variables(const Variables&) = delete;
  Variables& operator=(const Variables&) = delete;
  ~Variables();

  // Takes inputs [first, first + count) and locks each of them once, in the order of their addresses.
  absl::Status LookUpAndLock(tensorflow::OpKernelContext* context, int first, int count, Lock lock);

  // The tensor of variable i. Its buffer belongs to it alone: where a reader still holds it, it was copied before.
  const tensorflow::Tensor& Tensor(int i) const { return *variables_[i]->tensor(); }
  void* Data(int i) const { return const_cast<char*>(variables_[i]->tensor()->tensor_data().data()); }

  // Checks what an update needs to hold of variable i, and makes its buffer its own.
  absl::Status Prepare(tensorflow::OpKernelContext* context, int i, tensorflow::DataType dtype);

  // Whether one of the first `count` variables is there twice.
  bool Repeats(int count) const;

  // The name of variable i, for errors.
  static std::string Name(tensorflow::OpKernelContext* context, int input);

 private:
  void Unlock();

  Lock lock_ = Lock::kExclusive;
  int first_ = 0;
  std::vector<tensorflow::Var*> variables_;
  std::vector<tensorflow::Var*> locked_;  // without repetitions
};

}  // namespace keras_legacy_opt

#endif  // KERAS_LEGACY_OPT_OPS_VARIABLES_H_
