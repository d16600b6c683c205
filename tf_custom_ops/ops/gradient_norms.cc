// The squared L2 norm of each gradient, and whether all of them are finite, in one read of them.
#include "../apply/chunks.h"
#include "../apply/norm.h"
#include "kernels.h"
#include "parallel.h"
#include "tf_compat.h"

namespace keras_legacy_opt {

using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;

// transform: the first two numbers of a gradient transform, that is what is applied before the norm is taken.
REGISTER_OP("KerasLegacyOptGradientNorms")
    .Input("grad: N * T")
    .Input("transform: U")
    .Output("squares: U")
    .Output("finite: bool")
    .Attr("N: int >= 1")
    .Attr("T: {half, bfloat16, float, double}")
    .Attr("U: {float, double}")
    .SetShapeFn([](tensorflow::shape_inference::InferenceContext* c) {
      int count;
      KLO_RETURN_IF_ERROR(c->GetAttr("N", &count));
      c->set_output(0, c->Vector(count));
      c->set_output(1, c->Scalar());
      return absl::OkStatus();
    });

template <class T>
class GradientNorms : public tensorflow::OpKernel {
 public:
  using C = Arithmetic<T>;

  explicit GradientNorms(OpKernelConstruction* context) : OpKernel(context) {}

  void Compute(OpKernelContext* context) override {
    const int count = context->num_inputs() - 1;
    const Tensor& transform = context->input(count);
    OP_REQUIRES(context, transform.NumElements() == 4,
                absl::InvalidArgumentError("The transform of KerasLegacyOptGradientNorms must have 4 elements."));
    const C* number = static_cast<const C*>(transform.data());
    const GradientTransform<C> before_norm = {number[0], number[1], C(1), C(1)};

    // Sums of blocks, each by one thread, are added in order: the result does not depend on the threads.
    ChunkTable blocks;
    blocks.Reserve(count);
    for (int i = 0; i < count; ++i) blocks.Add((context->input(i).NumElements() + kNormBlock - 1) / kNormBlock);
    std::vector<SquareSum> sums(blocks.size());
    ParallelFor(context, blocks.size(), 4, [&](int64_t begin, int64_t end) {
      SquareSum* sum = &sums[begin];
      blocks.ForEach(begin, end, [&](int64_t i, int64_t first, int64_t n) {
        const T* grad = static_cast<const T*>(context->input(i).data());
        const int64_t elements = context->input(i).NumElements();
        for (int64_t block = first; block < first + n; ++block) {
          const int64_t start = block * kNormBlock;
          *sum++ = SquaresOf(ChosenIsa(), grad + start, std::min(kNormBlock, elements - start), before_norm);
        }
      });
    });

    Tensor *squares, *finite;
    OP_REQUIRES_OK(context, context->allocate_output(0, tensorflow::TensorShape({count}), &squares));
    OP_REQUIRES_OK(context, context->allocate_output(1, tensorflow::TensorShape({}), &finite));
    C* square = static_cast<C*>(squares->data());
    bool all_finite = true;
    int64_t block = 0;
    for (int i = 0; i < count; ++i) {
      double sum = 0;
      const int64_t end = block + (context->input(i).NumElements() + kNormBlock - 1) / kNormBlock;
      for (; block < end; ++block) {
        sum += sums[block].sum;
        all_finite &= sums[block].finite;
      }
      square[i] = static_cast<C>(sum);
    }
    *static_cast<bool*>(finite->data()) = all_finite;
  }
};

#define REGISTER(T)                                                \
  REGISTER_KERNEL_BUILDER(Name("KerasLegacyOptGradientNorms")      \
                              .Device(tensorflow::DEVICE_CPU)      \
                              .TypeConstraint<TfType<T>>("T")      \
                              .TypeConstraint<Arithmetic<T>>("U"), \
                          GradientNorms<T>);
REGISTER(float)
REGISTER(double)
REGISTER(Half)
REGISTER(Bfloat16)
#undef REGISTER

}  // namespace keras_legacy_opt
