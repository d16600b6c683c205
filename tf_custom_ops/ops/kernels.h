// The kernels of all optimizers. They know a formula only as a BoundFormula.
#ifndef KERAS_LEGACY_OPT_OPS_KERNELS_H_
#define KERAS_LEGACY_OPT_OPS_KERNELS_H_

#include <type_traits>
#include <vector>

#include "../apply/cpu.h"
#include "tf_compat.h"

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
  int hypers;
};

template <class T>
class ApplyKernel : public tensorflow::OpKernel {
 public:
  using C = Arithmetic<T>;

 protected:
  ApplyKernel(tensorflow::OpKernelConstruction* context, const FormulaSpec<C>& spec);

  static constexpr tensorflow::DataType kDtype = tensorflow::DataTypeToEnum<TfType<T>>::value;

  struct Scalars {
    BoundFormula<C> formula;
    std::vector<GradientTransform<C>> transforms;
    bool apply = true;

    const GradientTransform<C>* TransformOf(int variable) const {
      if (transforms.empty()) return nullptr;
      return &transforms[transforms.size() == 1 ? 0 : variable];
    }
  };
  // Reads the scalars at `input`, and after them the optional transform (one row, or one per variable) and condition.
  absl::Status ReadScalars(tensorflow::OpKernelContext* context, int input, int variables, Scalars* scalars) const;

  const FormulaSpec<C> spec_;
  bool use_locking_, transforms_, conditional_;
};

// Where a dense kernel finds its variables.
enum class State {
  kInputs,  // inputs: N variables, N of each slot
  kGroup    // input: a VariableGroup of these
};

// Inputs: the state, N gradients, the scalars, [the transform], [the condition].
template <class T>
class DenseKernel : public ApplyKernel<T> {
 public:
  DenseKernel(tensorflow::OpKernelConstruction* context, const FormulaSpec<Arithmetic<T>>& spec, State state)
      : ApplyKernel<T>(context, spec), state_(state) {}
  void Compute(tensorflow::OpKernelContext* context) override;

 private:
  absl::Status Apply(tensorflow::OpKernelContext* context);

  const State state_;
};

// Inputs: the variable, its slots, the gradients of the rows, their indices, the scalars, [...], [...].
template <class T>
class SparseKernel : public ApplyKernel<T> {
 public:
  SparseKernel(tensorflow::OpKernelConstruction* context, const FormulaSpec<Arithmetic<T>>& spec);
  void Compute(tensorflow::OpKernelContext* context) override;

 private:
  absl::Status Apply(tensorflow::OpKernelContext* context);

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
