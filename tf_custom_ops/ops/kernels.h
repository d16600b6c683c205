// The kernels of all optimizers. They know a formula only as a BoundFormula.
#ifndef KERAS_LEGACY_OPT_OPS_KERNELS_H_
#define KERAS_LEGACY_OPT_OPS_KERNELS_H_

#include <string>
#include <type_traits>
#include <vector>

#include "../apply/cpu.h"
#include "tf_compat.h"
#include "variables.h"

namespace keras_legacy_opt {

// TensorFlow's name for an element type.
template <class T>
using TfType = std::conditional_t<std::is_same_v<T, Half>, Eigen::half,
                                  std::conditional_t<std::is_same_v<T, Bfloat16>, Eigen::bfloat16, T>>;

// What an optimizer's kernel is made of.
template <class C>
struct FormulaSpec {
  BoundFormula<C> (*bind)(Isa isa, const C* hyper);
  int slots;
  int scalar_slots;  // the last of them
  int hypers;
  int lr;  // which of them is the learning rate
};

template <class T>
class ApplyKernel : public tensorflow::OpKernel {
 public:
  using C = Arithmetic<T>;

 protected:
  ApplyKernel(tensorflow::OpKernelConstruction* context, const FormulaSpec<C>& spec);

  static constexpr tensorflow::DataType kDtype = tensorflow::DataTypeToEnum<TfType<T>>::value;

  struct Scalars {
    std::vector<BoundFormula<C>> formulas;  // as many as there are learning rates
    std::vector<int> formula_of;            // each variable; empty: all have the first
    std::vector<C> decays;                  // empty, one, or one per variable
    std::vector<GradientTransform<C>> transforms;
    C average_weight = 0;
    bool apply = true;
    int averages = 0;  // the first input after the scalars: the averages, if there are any

    const BoundFormula<C>& FormulaOf(int variable) const {
      return formulas[formula_of.empty() ? 0 : formula_of[variable]];
    }
  };
  // Reads the scalars at `input`, and after them what is optional.
  absl::Status ReadScalars(tensorflow::OpKernelContext* context, int input, int variables, Scalars* scalars) const;

  Updater<T> UpdaterOf(const Scalars& scalars, int variable) const;

  const FormulaSpec<C> spec_;
  bool use_locking_;
  int transforms_, conditions_, per_variables_, average_weights_;

  // Of an op that has averages as inputs.
  void CheckAverages(tensorflow::OpKernelConstruction* context, int variables);

 private:
  absl::Status ReadPerVariable(const tensorflow::Tensor& tensor, int variables, C* hyper, Scalars* scalars) const;
  absl::Status AddFormula(const C* hyper, Scalars* scalars) const;
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
template <class T>
class DenseKernel : public ApplyKernel<T> {
 public:
  DenseKernel(tensorflow::OpKernelConstruction* context, const FormulaSpec<Arithmetic<T>>& spec, State state);
  void Compute(tensorflow::OpKernelContext* context) override;

 private:
  using Scalars = typename ApplyKernel<T>::Scalars;

  absl::Status Apply(tensorflow::OpKernelContext* context);
  absl::Status LookUpAndLock(tensorflow::OpKernelContext* context, int averages, Variables* variables) const;
  absl::Status Check(tensorflow::OpKernelContext* context, int first_grad, Variables* variables) const;

  // Where the tensors of each variable, and their gradients, lie, and how many elements a variable has.
  struct Work {
    std::vector<void*> state;
    std::vector<const void*> grads;
    std::vector<int64_t> sizes;
  };
  // Updates variables [first, last).
  void Update(tensorflow::OpKernelContext* context, const Scalars& scalars, const Work& work, int first,
              int last) const;
  void UpdateWithNorms(tensorflow::OpKernelContext* context, const Scalars& scalars, const Work& work, int first,
                       int last) const;

  // Tensors of one variable: itself, its slots, and its average.
  int tensors() const { return this->spec_.slots + 1 + this->average_weights_; }

  const State state_;
  int count_;
};

// Inputs: the variable, its slots, the gradients of the rows, their indices, the scalars, and what is optional.
template <class T>
class SparseKernel : public ApplyKernel<T> {
 public:
  SparseKernel(tensorflow::OpKernelConstruction* context, const FormulaSpec<Arithmetic<T>>& spec);
  void Compute(tensorflow::OpKernelContext* context) override;

 private:
  absl::Status Apply(tensorflow::OpKernelContext* context);
  absl::Status Check(tensorflow::OpKernelContext* context, const std::string& name, const Variables& variables) const;
  absl::Status Plan(const tensorflow::Tensor& indices, const std::string& name, int64_t table_rows,
                    RowPlan* plan) const;
  void UpdateWithNorms(tensorflow::OpKernelContext* context, const Updater<T>& updater, void* const* state,
                       const void* grad, const RowPlan& plan, int64_t width, int64_t rows) const;

  std::string variable_name_;
};

extern template class ApplyKernel<float>;
extern template class ApplyKernel<double>;
extern template class ApplyKernel<Half>;
extern template class ApplyKernel<Bfloat16>;
extern template class DenseKernel<float>;
extern template class DenseKernel<double>;
extern template class DenseKernel<Half>;
extern template class DenseKernel<Bfloat16>;
extern template class SparseKernel<float>;
extern template class SparseKernel<double>;
extern template class SparseKernel<Half>;
extern template class SparseKernel<Bfloat16>;

}  // namespace keras_legacy_opt

#endif  // KERAS_LEGACY_OPT_OPS_KERNELS_H_
