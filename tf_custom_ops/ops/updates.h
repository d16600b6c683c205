// What the ops of all optimizers have in common, whatever device computes them: their attributes, which of their inputs
// are what, and what is checked before anything changes.
#ifndef KERAS_LEGACY_OPT_OPS_UPDATES_H_
#define KERAS_LEGACY_OPT_OPS_UPDATES_H_

#include <string>
#include <vector>

#include "tf_compat.h"
#include "variables.h"

namespace keras_legacy_opt {

// What an op has to know of a formula to find its inputs.
struct FormulaShape {
  int slots;
  int scalar_slots;  // the last of them
  int hypers;
};

class UpdateKernel : public tensorflow::OpKernel {
 protected:
  UpdateKernel(tensorflow::OpKernelConstruction* context, const FormulaShape& shape);

  // Of an op that has averages as inputs.
  void CheckAverages(tensorflow::OpKernelConstruction* context, int variables);

  // The numbers of the inputs behind the gradients; -1 of what there is none of.
  struct ScalarInputs {
    int hypers;
    int transform = -1, condition = -1, per_variable = -1, average_weight = -1;
    int averages;  // the first input after the scalars: the averages, if there are any
    // Whether every variable has a row of its own.
    bool transform_of_each = false, per_variable_of_each = false;
  };
  // Finds them, from `input` on, and checks their shapes.
  absl::Status FindScalars(tensorflow::OpKernelContext* context, int input, int variables, ScalarInputs* found) const;

  // Tensors of one variable: itself, its slots, and its average.
  int tensors() const { return shape_.slots + 1 + average_weights_; }
  // The place of a variable's tensor, numbered as in the op, in its state: the average comes before the scalar slots.
  int PlaceOf(int tensor) const;
  bool IsScalar(int tensor) const { return tensor > shape_.slots - shape_.scalar_slots && tensor <= shape_.slots; }

  const FormulaShape shape_;
  tensorflow::DataType dtype_;
  bool use_locking_;
  int transforms_, conditions_, per_variables_, average_weights_;

 private:
  absl::Status ShouldBeScalar(const tensorflow::Tensor& tensor, const std::string& what) const;
};

// Where a dense kernel finds its variables.
enum class State {
  kInputs,  // inputs: N variables, N of each slot
  kGroup    // input: a VariableGroup of these
};

// Inputs: the state, N gradients, the scalars, and what is optional: the transform, the condition, what each variable
// has of its own (a factor of its learning rate, its decay), N averages of the variables (of a group, members), their
// weight.
class DenseUpdate : public UpdateKernel {
 protected:
  DenseUpdate(tensorflow::OpKernelConstruction* context, const FormulaShape& shape, State state);

  // Where the tensors of each variable, and their gradients, lie, and how many elements a variable has.
  struct Work {
    std::vector<void*> state;
    std::vector<const void*> grads;
    std::vector<int64_t> sizes;
  };
  // Looks the variables up, locks them, checks all, and makes their buffers their own.
  absl::Status Prepare(tensorflow::OpKernelContext* context, int averages, Variables* variables, Work* work) const;

  int first_grad() const { return state_ == State::kGroup ? 1 : count_ * (shape_.slots + 1); }
  int first_scalar() const { return first_grad() + count_; }

  const State state_;
  int count_;

 private:
  absl::Status LookUpAndLock(tensorflow::OpKernelContext* context, int averages, Variables* variables) const;
  absl::Status Check(tensorflow::OpKernelContext* context, Variables* variables) const;
};

// Inputs: the variable, its slots, the gradients of the rows, their indices, the scalars, and what is optional.
class SparseUpdate : public UpdateKernel {
 protected:
  SparseUpdate(tensorflow::OpKernelConstruction* context, const FormulaShape& shape);

  // What is updated.
  struct Table {
    std::string name;
    int64_t rows, width = 1;
  };
  // Looks the variable and its slots up, locks and checks them.
  absl::Status LookUp(tensorflow::OpKernelContext* context, int averages, bool all_rows, Variables* variables,
                      Table* table) const;
  // Makes their buffers their own. Returns where they lie.
  absl::Status Prepare(tensorflow::OpKernelContext* context, Variables* variables, std::vector<void*>* state) const;

  const tensorflow::Tensor& Grad(tensorflow::OpKernelContext* context) const {
    return context->input(shape_.slots + 1);
  }
  const tensorflow::Tensor& IndicesOf(tensorflow::OpKernelContext* context) const {
    return context->input(shape_.slots + 2);
  }
  int first_scalar() const { return shape_.slots + 3; }

 private:
  absl::Status Check(tensorflow::OpKernelContext* context, const std::string& name, const Variables& variables) const;

  std::string variable_name_;
};

}  // namespace keras_legacy_opt

#endif  // KERAS_LEGACY_OPT_OPS_UPDATES_H_
