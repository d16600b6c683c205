// The kernels of all optimizers on the CPU. They know a formula only as a BoundFormula.
#ifndef KERAS_LEGACY_OPT_OPS_KERNELS_H_
#define KERAS_LEGACY_OPT_OPS_KERNELS_H_

#include <string>
#include <type_traits>
#include <vector>

#include "../apply/cpu.h"
#include "tf_compat.h"
#include "updates.h"

namespace keras_legacy_opt {

// TensorFlow's name for an element type.
template <class T>
using TfType = std::conditional_t<std::is_same_v<T, Half>, Eigen::half,
                                  std::conditional_t<std::is_same_v<T, Bfloat16>, Eigen::bfloat16, T>>;

// What an optimizer's kernel is made of.
template <class C>
struct FormulaSpec {
  BoundFormula<C> (*bind)(Isa isa, const C* hyper);
  FormulaShape shape;
  int lr;  // which of the scalars is the learning rate
};

// The scalars of a step, as the CPU reads them.
template <class C>
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

// What dense and sparse kernels share; Base is DenseUpdate or SparseUpdate.
template <class T, class Base>
class ApplyKernel : public Base {
 public:
  using C = Arithmetic<T>;

 protected:
  template <class... Arguments>
  ApplyKernel(tensorflow::OpKernelConstruction* context, const FormulaSpec<C>& spec, Arguments... arguments)
      : Base(context, spec.shape, arguments...), spec_(spec) {}

  // Reads the scalars, from the first of them on.
  absl::Status ReadScalars(tensorflow::OpKernelContext* context, int variables, Scalars<C>* scalars) const;

  Updater<T> UpdaterOf(const Scalars<C>& scalars, int variable) const;

  const FormulaSpec<C> spec_;

 private:
  absl::Status ReadPerVariable(const tensorflow::Tensor& tensor, C* hyper, Scalars<C>* scalars) const;
  absl::Status AddFormula(const C* hyper, Scalars<C>* scalars) const;
};

template <class T>
class DenseKernel : public ApplyKernel<T, DenseUpdate> {
 public:
  DenseKernel(tensorflow::OpKernelConstruction* context, const FormulaSpec<Arithmetic<T>>& spec, State state);
  void Compute(tensorflow::OpKernelContext* context) override;

 private:
  using Scalars = keras_legacy_opt::Scalars<Arithmetic<T>>;
  using Work = DenseUpdate::Work;

  absl::Status Apply(tensorflow::OpKernelContext* context);
  // Updates variables [first, last).
  void Update(tensorflow::OpKernelContext* context, const Scalars& scalars, const Work& work, int first,
              int last) const;
  void UpdateWithNorms(tensorflow::OpKernelContext* context, const Scalars& scalars, const Work& work, int first,
                       int last) const;
  // Of the variables one after the other, directions_of(number) is where their directions are kept, or null.
  template <class DirectionsOf>
  void UpdateInTwoPasses(tensorflow::OpKernelContext* context, const Scalars& scalars, const Work& work, int first,
                         int last, DirectionsOf directions_of) const;
};

template <class T>
class SparseKernel : public ApplyKernel<T, SparseUpdate> {
 public:
  SparseKernel(tensorflow::OpKernelConstruction* context, const FormulaSpec<Arithmetic<T>>& spec);
  void Compute(tensorflow::OpKernelContext* context) override;

 private:
  absl::Status Apply(tensorflow::OpKernelContext* context);
  absl::Status Plan(const tensorflow::Tensor& indices, const std::string& name, int64_t table_rows,
                    RowPlan* plan) const;
  void UpdateWithNorms(tensorflow::OpKernelContext* context, const Updater<T>& updater, void* const* state,
                       const void* grad, const RowPlan& plan, int64_t width, int64_t rows) const;
};

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
