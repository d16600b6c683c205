// The L2 norm of all gradients of a step, or of each, and the transforms that clip by it, in one read of them.
//
// On the CPU, Python takes norms from TensorFlow's ops, whose bits are legacy's; the kernel is for graphs that were
// made for a GPU.
#include <algorithm>
#include <vector>

#include "../apply/chunks.h"
#include "../apply/norm.h"
#include "gpu_kernels.h"
#include "kernels.h"
#include "parallel.h"
#include "tf_compat.h"

namespace keras_legacy_opt {

using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::shape_inference::InferenceContext;

// value: gradients, or the values of sparse ones. transform: what happens to them before, as of the ops that update.
// clipping: what those are to be given instead.
REGISTER_OP("KerasLegacyOptGradientNorm")
    .Input("value: N * T")
    .Input("limit: U")
    .Input("transform: transforms * U")
    .Output("norm: U")
    .Output("clipping: U")
    .Attr("N: int >= 1")
    .Attr("T: {half, bfloat16, float, double}")
    .Attr("U: {float, double}")
    .Attr("transforms: int >= 0 = 0")
    .Attr("of_each: bool = false")
    .SetShapeFn([](InferenceContext* c) {
      bool of_each;
      int count;
      KLO_RETURN_IF_ERROR(c->GetAttr("of_each", &of_each));
      KLO_RETURN_IF_ERROR(c->GetAttr("N", &count));
      c->set_output(0, of_each ? c->Vector(count) : c->Scalar());
      c->set_output(1, of_each ? c->Matrix(count, 4) : c->Vector(4));
      return absl::OkStatus();
    });

// What kernels of all devices do.
class GradientNorm : public tensorflow::OpKernel {
 public:
  explicit GradientNorm(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("N", &count_));
    OP_REQUIRES_OK(context, context->GetAttr("transforms", &transforms_));
    OP_REQUIRES_OK(context, context->GetAttr("of_each", &of_each_));
  }

  void Compute(OpKernelContext* context) override { OP_REQUIRES_OK(context, Apply(context)); }

 protected:
  virtual absl::Status Apply(OpKernelContext* context) = 0;

  absl::Status Allocate(OpKernelContext* context, Tensor** norms, Tensor** clippings) const {
    const bool fit = context->input(count_).NumElements() == 1 &&
                     (transforms_ == 0 || (transforms_ == 1 && context->input(count_ + 1).NumElements() == 4));
    if (!fit) {
      return absl::InvalidArgumentError(
          "KerasLegacyOptGradientNorm takes a limit that is a scalar, and at most one transform, of shape [4].");
    }
    tensorflow::TensorShape of_norms({}), of_clippings({4});
    if (of_each_) {
      of_norms.AddDim(count_);
      of_clippings.InsertDim(0, count_);
    }
    KLO_RETURN_IF_ERROR(context->allocate_output(0, of_norms, norms));
    return context->allocate_output(1, of_clippings, clippings);
  }

  int count_, transforms_;
  bool of_each_;
};

template <class T>
class GradientNormKernel : public GradientNorm {
 public:
  using GradientNorm::GradientNorm;

 private:
  using C = Arithmetic<T>;

  absl::Status Apply(OpKernelContext* context) override {
    Tensor *norms, *clippings;
    KLO_RETURN_IF_ERROR(Allocate(context, &norms, &clippings));
    const C limit = *static_cast<const C*>(context->input(count_).data());
    GradientTransform<C> transform = Unchanged<C>();
    if (transforms_ > 0) {
      const C* given = static_cast<const C*>(context->input(count_ + 1).data());
      transform = {given[0], given[1], given[2], given[3]};
    }
    BlockTable blocks(kBlock);
    for (int i = 0; i < count_; ++i) blocks.Add(context->input(i).NumElements());
    std::vector<double> squares(blocks.size());
    ParallelFor(context, blocks.size(), blocks.AtOnce(kBlock), [&](int64_t begin, int64_t end) {
      blocks.ForEach(begin, end, [&](int64_t i, int64_t block, int64_t offset, int64_t n) {
        squares[block] = SumOfSquares(static_cast<const T*>(context->input(i).data()) + offset, n, transform);
      });
    });
    for (int i = 0; i < (of_each_ ? count_ : 1); ++i) {
      const int64_t begin = of_each_ ? blocks.First(i) : 0, end = of_each_ ? blocks.First(i + 1) : blocks.size();
      const C norm = NormOfSquares<T>(SumOfBlocks(squares.data() + begin, end - begin));
      static_cast<C*>(norms->data())[i] = norm;
      static_cast<GradientTransform<C>*>(clippings->data())[i] = Clipping(transform, norm, limit, of_each_);
    }
    return absl::OkStatus();
  }
};

#define KLO_REGISTER_NORM(T)                                       \
  REGISTER_KERNEL_BUILDER(Name("KerasLegacyOptGradientNorm")       \
                              .Device(tensorflow::DEVICE_CPU)      \
                              .TypeConstraint<TfType<T>>("T")      \
                              .TypeConstraint<Arithmetic<T>>("U"), \
                          GradientNormKernel<T>);
KLO_REGISTER_NORM(float)
KLO_REGISTER_NORM(double)
KLO_REGISTER_NORM(Half)
KLO_REGISTER_NORM(Bfloat16)

#ifdef KLO_GPU
namespace gpu {

using AnyNormLaunch = NormLaunch<void>;

class GradientNormKernel : public GradientNorm {
 public:
  explicit GradientNormKernel(OpKernelConstruction* context)
      : GradientNorm(context), kernels_({"Norm_" + NameOf(context->input_type(0))}) {}

 private:
  absl::Status Apply(OpKernelContext* context) override {
    Queue queue;
    KLO_RETURN_IF_ERROR(queue.Open(context));
    std::vector<const Kernel*> kernels;
    KLO_RETURN_IF_ERROR(kernels_.Find(queue, &kernels));
    Tensor *norms, *clippings, squares;
    KLO_RETURN_IF_ERROR(Allocate(context, &norms, &clippings));
    std::vector<const void*> tensors;
    std::vector<int64_t> sizes;
    for (int i = 0; i < count_; ++i) {
      tensors.push_back(DataOf(context->input(i)));
      sizes.push_back(context->input(i).NumElements());
    }
    Table chunks, pointers, counters;
    // Of all together, one without elements is not in the sum, unless there are no others: some block has to write it.
    const bool with_empty = of_each_ || std::all_of(sizes.begin(), sizes.end(), [](int64_t size) { return size == 0; });
    KLO_RETURN_IF_ERROR(geometries_.Get(context, queue, sizes, &chunks, with_empty));
    KLO_RETURN_IF_ERROR(pointers_.Get(context, queue, BytesOf(tensors), &pointers));
    // Each launch leaves them as they were.
    const std::vector<uint32_t> zeros(of_each_ ? count_ : 1);
    KLO_RETURN_IF_ERROR(counters_.Get(context, queue, BytesOf(zeros), &counters));
    const int64_t blocks = static_cast<int64_t>(chunks.geometry->chunks.size());
    KLO_RETURN_IF_ERROR(gpu::Allocate(context, blocks * sizeof(double), &squares));

    AnyNormLaunch launch = {};
    launch.chunks = static_cast<const Chunk*>(DataOf(chunks.memory));
    launch.first = reinterpret_cast<const int64_t*>(launch.chunks + blocks);
    launch.tensors = static_cast<const void* const*>(DataOf(pointers.memory));
    launch.transform = transforms_ > 0 ? DataOf(context->input(count_ + 1)) : nullptr;
    launch.limit = DataOf(context->input(count_));
    launch.squares = static_cast<double*>(DataOf(squares));
    launch.counters = static_cast<uint32_t*>(DataOf(counters.memory));
    launch.norms = DataOf(*norms);
    launch.clippings = DataOf(*clippings);
    launch.of_each = of_each_;
    return queue.Run(kernels[0], blocks, launch);
  }

  Tables geometries_, pointers_, counters_;
  Kernels kernels_;
};

[[maybe_unused]] static const bool kNormOnGpu = [] {
  Register("KerasLegacyOptGradientNorm", {},
           [](OpKernelConstruction* context) -> tensorflow::OpKernel* { return new GradientNormKernel(context); });
  return true;
}();

}  // namespace gpu
#endif

}  // namespace keras_legacy_opt
