// How an optimizer's formula becomes a dense and a sparse op, for every element type.
#ifndef KERAS_LEGACY_OPT_OPS_REGISTRATION_H_
#define KERAS_LEGACY_OPT_OPS_REGISTRATION_H_

#include <string>
#include <vector>

#include "../apply/traits.h"
#include "gpu_kernels.h"
#include "kernels.h"
#include "tf_compat.h"

namespace keras_legacy_opt {

// The names of a functor: "a, b, c".
using Names = const char*;

// What an op's inputs are made of.
struct Inputs {
  Names slots, hypers;
  int slot_count, scalar_slots, hyper_count;
};

// The definitions of the ops: their inputs in the order in which the kernels read them, and their shape functions.
tensorflow::register_op::OpDefBuilderWrapper DenseOp(const char* name, const Inputs& inputs);
tensorflow::register_op::OpDefBuilderWrapper GroupOp(const char* name, const Inputs& inputs);
tensorflow::register_op::OpDefBuilderWrapper SparseOp(const char* name, const Inputs& inputs);

// Of "a, b, c", each.
std::vector<std::string> Split(Names names);

template <class F>
Inputs InputsOf() {
  return {F::kSlotNames, F::kHyperNames, F::kSlots, kScalarSlotsOf<F>, F::kHypers};
}

template <template <class, Path> class F, Path kPath, class C>
FormulaSpec<C> SpecOf() {
  using Functor = F<C, kPath>;
  return {&Bind<F, kPath, C>,
          {Functor::kSlots, kScalarSlotsOf<Functor>, Functor::kHypers},
          IndexOfName(Functor::kHyperNames, "lr")};
}

template <template <class, Path> class F, class T, State kState>
class DenseKernelOf : public DenseKernel<T> {
 public:
  using C = Arithmetic<T>;
  explicit DenseKernelOf(tensorflow::OpKernelConstruction* context)
      : DenseKernel<T>(context, SpecOf<F, Path::kDense, C>(), kState) {}
};

template <template <class, Path> class F, class T>
class SparseKernelOf : public SparseKernel<T> {
 public:
  using C = Arithmetic<T>;
  explicit SparseKernelOf(tensorflow::OpKernelConstruction* context)
      : SparseKernel<T>(context, SpecOf<F, Path::kSparse, C>()) {}
};

}  // namespace keras_legacy_opt

// Defines the ops KerasLegacyOpt<NAME>, KerasLegacyOptGroup<NAME> and KerasLegacyOptSparse<NAME>, where FUNCTOR is a
// template of math/. Their inputs have the names of its slots and scalars.
#undef KLO_FORMULA
#define KLO_FORMULA(NAME, FUNCTOR)                                  \
  KLO_REGISTER_OP(NAME, FUNCTOR, Dense, "")                         \
  KLO_REGISTER_OP(NAME, FUNCTOR, Group, "Group")                    \
  KLO_REGISTER_OP(NAME, FUNCTOR, Sparse, "Sparse")                  \
  KLO_REGISTER_KERNELS(NAME, FUNCTOR, float)                        \
  KLO_REGISTER_KERNELS(NAME, FUNCTOR, double)                       \
  KLO_REGISTER_KERNELS(NAME, FUNCTOR, ::keras_legacy_opt::Half)     \
  KLO_REGISTER_KERNELS(NAME, FUNCTOR, ::keras_legacy_opt::Bfloat16) \
  KLO_REGISTER_ON_GPU(NAME, FUNCTOR)

#define KLO_REGISTER_OP(NAME, FUNCTOR, KIND, PREFIX)                       \
  static const ::tensorflow::InitOnStartupMarker k##KIND##Op##NAME =       \
      ::tensorflow::InitOnStartupMarker{} << ::keras_legacy_opt::KIND##Op( \
          "KerasLegacyOpt" PREFIX #NAME,                                   \
          ::keras_legacy_opt::InputsOf<FUNCTOR<float, ::keras_legacy_opt::Path::kDense>>());

#define KLO_REGISTER_KERNELS(NAME, FUNCTOR, T)                                                           \
  KLO_REGISTER_KERNEL("KerasLegacyOpt" #NAME, T,                                                         \
                      ::keras_legacy_opt::DenseKernelOf<FUNCTOR, T, ::keras_legacy_opt::State::kInputs>) \
  KLO_REGISTER_KERNEL("KerasLegacyOptGroup" #NAME, T,                                                    \
                      ::keras_legacy_opt::DenseKernelOf<FUNCTOR, T, ::keras_legacy_opt::State::kGroup>)  \
  KLO_REGISTER_KERNEL("KerasLegacyOptSparse" #NAME, T, ::keras_legacy_opt::SparseKernelOf<FUNCTOR, T>)

#ifdef KLO_GPU
#define KLO_REGISTER_ON_GPU(NAME, FUNCTOR)                                                             \
  [[maybe_unused]] static const bool kOnGpu##NAME = ::keras_legacy_opt::gpu::RegisterFormula<FUNCTOR>( \
      #NAME, ::keras_legacy_opt::Split(FUNCTOR<float, ::keras_legacy_opt::Path::kDense>::kSlotNames));
#else
#define KLO_REGISTER_ON_GPU(NAME, FUNCTOR)
#endif

#define KLO_REGISTER_KERNEL(OP, T, ...)                                                \
  REGISTER_KERNEL_BUILDER(Name(OP)                                                     \
                              .Device(::tensorflow::DEVICE_CPU)                        \
                              .TypeConstraint<::keras_legacy_opt::TfType<T>>("T")      \
                              .TypeConstraint<::keras_legacy_opt::Arithmetic<T>>("U"), \
                          __VA_ARGS__);

#endif  // KERAS_LEGACY_OPT_OPS_REGISTRATION_H_
