#include "parallel.h"

#include <algorithm>
#include <cstring>

#include "gpu_kernels.h"
#include "tensorflow/core/framework/device_base.h"

#ifdef __SSE__
#include <xmmintrin.h>
#endif

namespace keras_legacy_opt {
namespace {

#ifdef __SSE__
class SameFloatMode {
 public:
  explicit SameFloatMode(unsigned mode) : before_(_mm_getcsr()) {
    if (mode != before_) _mm_setcsr(mode);
  }
  ~SameFloatMode() { _mm_setcsr(before_); }
  // Flush-to-zero, denormals-are-zero and the rounding; not the exception flags.
  static unsigned Current() { return _mm_getcsr() & ~0x3fu; }

 private:
  const unsigned before_;
};
#else
class SameFloatMode {
 public:
  explicit SameFloatMode(unsigned) {}
  static unsigned Current() { return 0; }
};
#endif

}  // namespace

void ParallelFor(tensorflow::OpKernelContext* context, int64_t total, int64_t block,
                 const std::function<void(int64_t, int64_t)>& work) {
  if (total <= 0) return;
  auto* workers = context->device()->tensorflow_cpu_worker_threads()->workers;
  if (total <= block || workers == nullptr || workers->NumThreads() <= 1) return work(0, total);
  // Blocks for every thread to share evenly, and no more: each costs about a microsecond.
  const int64_t blocks = 16 * int64_t{workers->NumThreads()};
  block = std::max(block, (total + blocks - 1) / blocks);
  const unsigned mode = SameFloatMode::Current();
  workers->ParallelFor(total, compat::FixedBlocks(block), [&work, mode](int64_t begin, int64_t end) {
    SameFloatMode same(mode);
    work(begin, end);
  });
}

absl::Status CopyTensor(tensorflow::OpKernelContext* context, tensorflow::Tensor* tensor) {
#ifdef KLO_GPU
  if (context->op_device_context() != nullptr) return gpu::CopyTensor(context, tensor);
#endif
  tensorflow::Tensor copy;
  KLO_RETURN_IF_ERROR(context->allocate_temp(tensor->dtype(), tensor->shape(), &copy));
  const auto from = tensor->tensor_data();
  char* to = const_cast<char*>(copy.tensor_data().data());
  ParallelFor(context, static_cast<int64_t>(from.size()), int64_t{1} << 20,
              [&](int64_t begin, int64_t end) { std::memcpy(to + begin, from.data() + begin, end - begin); });
  *tensor = copy;
  return absl::OkStatus();
}

}  // namespace keras_legacy_opt
