// How an optimizer's formula becomes a dense and a sparse op, for every element type.
#ifndef KERAS_LEGACY_OPT_OPS_REGISTRATION_H_
#define KERAS_LEGACY_OPT_OPS_REGISTRATION_H_

#include <initializer_list>

#include "kernels.h"
#include "tf_compat.h"

namespace keras_legacy_opt {

using Names = std::initializer_list<const char*>;

// The definitions of the ops: their inputs in the order in which the kernels read them, and their shape functions.
tensorflow::register_op::OpDefBuilderWrapper DenseOp(const char* name, Names slots, Names hypers);
tensorflow::register_op::OpDefBuilderWrapper SparseOp(const char* name, Names slots, Names hypers);

template <template <class, Path> class F, class T>
class DenseKernelOf : public DenseKernel<T> {
 public:
  using C = Arithmetic<T>;
  explicit DenseKernelOf(tensorflow::OpKernelConstruction* context)
      : DenseKernel<T>(context,
                       {&Bind<F, Path::kDense, C>, F<C, Path::kDense>::kSlots, F<C, Path::kDense>::kHypers}) {}
};

template <template <class, Path> class F, class T>
class SparseKernelOf : public SparseKernel<T> {
 public:
  using C = Arithmetic<T>;
  explicit SparseKernelOf(tensorflow::OpKernelConstruction* context)
      : SparseKernel<T>(context,
                        {&Bind<F, Path::kSparse, C>, F<C, Path::kSparse>::kSlots, F<C, Path::kSparse>::kHypers}) {}
};

}  // namespace keras_legacy_opt

#define KLO_NAMES(...) {__VA_ARGS__}

// Defines the ops KerasLegacyOpt<NAME> and KerasLegacyOptSparse<NAME>, where FUNCTOR is a template of math/.
#define KLO_REGISTER_OPTIMIZER(NAME, FUNCTOR, SLOTS, HYPERS)                                                     \
  static const ::tensorflow::InitOnStartupMarker kDenseOp##NAME =                                                \
      ::tensorflow::InitOnStartupMarker{}                                                                        \
      << ::keras_legacy_opt::DenseOp("KerasLegacyOpt" #NAME, SLOTS, HYPERS);                                     \
  static const ::tensorflow::InitOnStartupMarker kSparseOp##NAME =                                               \
      ::tensorflow::InitOnStartupMarker{}                                                                        \
      << ::keras_legacy_opt::SparseOp("KerasLegacyOptSparse" #NAME, SLOTS, HYPERS);                              \
  KLO_REGISTER_KERNELS(NAME, FUNCTOR, float)                                                                     \
  KLO_REGISTER_KERNELS(NAME, FUNCTOR, double)                                                                    \
  KLO_REGISTER_KERNELS(NAME, FUNCTOR, ::keras_legacy_opt::Half)                                                  \
  KLO_REGISTER_KERNELS(NAME, FUNCTOR, ::keras_legacy_opt::Bfloat16)

#define KLO_REGISTER_KERNELS(NAME, FUNCTOR, T)                                                                   \
  REGISTER_KERNEL_BUILDER(Name("KerasLegacyOpt" #NAME)                                                           \
                              .Device(::tensorflow::DEVICE_CPU)                                                  \
                              .TypeConstraint<::keras_legacy_opt::TfType<T>>("T")                                \
                              .TypeConstraint<::keras_legacy_opt::Arithmetic<T>>("U"),                           \
                          ::keras_legacy_opt::DenseKernelOf<FUNCTOR, T>);                                        \
  REGISTER_KERNEL_BUILDER(Name("KerasLegacyOptSparse" #NAME)                                                     \
                              .Device(::tensorflow::DEVICE_CPU)                                                  \
                              .TypeConstraint<::keras_legacy_opt::TfType<T>>("T")                                \
                              .TypeConstraint<::keras_legacy_opt::Arithmetic<T>>("U"),                           \
                          ::keras_legacy_opt::SparseKernelOf<FUNCTOR, T>);

#endif  // KERAS_LEGACY_OPT_OPS_REGISTRATION_H_
