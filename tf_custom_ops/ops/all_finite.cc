// Whether all gradients of a step are finite, in one read of them.
#include <atomic>

#include "../apply/chunks.h"
#include "../apply/finite.h"
#include "kernels.h"
#include "parallel.h"
#include "tf_compat.h"

namespace keras_legacy_opt {

using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;

// factor: what each value is multiplied by before it is judged, in its own precision (float for 16 bits).
REGISTER_OP("KerasLegacyOptAllFinite")
    .Input("value: T")
    .Input("factor: float")
    .Output("finite: bool")
    .Attr("T: list({half, bfloat16, float, double}) >= 1")
    .SetShapeFn([](tensorflow::shape_inference::InferenceContext* c) {
      c->set_output(0, c->Scalar());
      return absl::OkStatus();
    });

namespace {

template <class T>
bool Judge(const Tensor& value, int64_t begin, int64_t count, float factor) {
  return AllFinite(ChosenIsa(), static_cast<const T*>(value.data()) + begin, count, Arithmetic<T>(factor));
}

bool Judge(const Tensor& value, int64_t begin, int64_t count, float factor) {
  switch (value.dtype()) {
    case tensorflow::DT_HALF:
      return Judge<Half>(value, begin, count, factor);
    case tensorflow::DT_BFLOAT16:
      return Judge<Bfloat16>(value, begin, count, factor);
    case tensorflow::DT_FLOAT:
      return Judge<float>(value, begin, count, factor);
    default:
      return Judge<double>(value, begin, count, factor);
  }
}

}  // namespace

class AllFiniteKernel : public tensorflow::OpKernel {
 public:
  explicit AllFiniteKernel(OpKernelConstruction* context) : OpKernel(context) {}

  void Compute(OpKernelContext* context) override {
    const int count = context->num_inputs() - 1;
    const Tensor& factor = context->input(count);
    OP_REQUIRES(context, factor.NumElements() == 1,
                absl::InvalidArgumentError("The factor of KerasLegacyOptAllFinite must be a scalar."));
    const float number = *static_cast<const float*>(factor.data());

    ChunkTable chunks;
    chunks.Reserve(count);
    for (int i = 0; i < count; ++i) chunks.Add(context->input(i).NumElements());
    std::atomic<bool> finite{true};
    ParallelFor(context, chunks.size(), kBlock, [&](int64_t begin, int64_t end) {
      chunks.ForEach(begin, end, [&](int64_t i, int64_t offset, int64_t n) {
        if (finite && !Judge(context->input(i), offset, n, number)) finite = false;
      });
    });
    Tensor* result;
    OP_REQUIRES_OK(context, context->allocate_output(0, tensorflow::TensorShape({}), &result));
    *static_cast<bool*>(result->data()) = finite;
  }

 private:
  // Elements that a thread takes at once.
  static constexpr int64_t kBlock = 1 << 15;
};

REGISTER_KERNEL_BUILDER(Name("KerasLegacyOptAllFinite").Device(tensorflow::DEVICE_CPU), AllFiniteKernel);

}  // namespace keras_legacy_opt
