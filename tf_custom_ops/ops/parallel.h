// Work on TensorFlow's own intra-op threads.
#ifndef KERAS_LEGACY_OPT_OPS_PARALLEL_H_
#define KERAS_LEGACY_OPT_OPS_PARALLEL_H_

#include <cstdint>
#include <functional>

#include "tf_compat.h"

namespace keras_legacy_opt {

// Calls work(begin, end) for consecutive parts of [0, total), each of at least `block` but for the last. Every thread
// treats denormals as the calling one does, so that results do not depend on who computed them.
void ParallelFor(tensorflow::OpKernelContext* context, int64_t total, int64_t block,
                 const std::function<void(int64_t, int64_t)>& work);

// Gives the tensor a buffer of its own, with the same contents, on whatever device it is.
absl::Status CopyTensor(tensorflow::OpKernelContext* context, tensorflow::Tensor* tensor);

}  // namespace keras_legacy_opt

#endif  // KERAS_LEGACY_OPT_OPS_PARALLEL_H_
