// TensorFlow, and every difference between the versions of it that we build against.
#ifndef KERAS_LEGACY_OPT_OPS_TF_COMPAT_H_
#define KERAS_LEGACY_OPT_OPS_TF_COMPAT_H_

#include <optional>
#include <string>

#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/resource_mgr.h"
#include "tensorflow/core/framework/resource_var.h"
#include "tensorflow/core/framework/shape_inference.h"
#include "tensorflow/core/lib/core/threadpool.h"

// A status is absl's in all of them, and so are its constructors; tensorflow::errors is deprecated from 2.20 on.
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace keras_legacy_opt {
namespace compat {

// Work in blocks of a fixed size: a factory from 2.18 or so on, a constructor before.
template <class Params>
auto Blocks(int64_t size, int) -> decltype(Params::Fixed(size)) {
  return Params::Fixed(size);
}
template <class Params>
Params Blocks(int64_t size, long) {  // NOLINT: worse than int, so taken only without Params::Fixed
  return Params(tensorflow::thread::ThreadPool::SchedulingStrategy::kFixedBlockSize, std::nullopt, size);
}
inline tensorflow::thread::ThreadPool::SchedulingParams FixedBlocks(int64_t size) {
  return Blocks<tensorflow::thread::ThreadPool::SchedulingParams>(size, 0);
}

// What REGISTER_KERNEL_BUILDER does, of inputs whose names are known when the program runs.
inline void RegisterKernel(const tensorflow::KernelDef* definition, const std::string& name,
                           tensorflow::OpKernel* (*create)(tensorflow::OpKernelConstruction*)) {
  tensorflow::kernel_factory::OpKernelRegistrar registrar(definition, name, create);
}

}  // namespace compat
}  // namespace keras_legacy_opt

#define KLO_RETURN_IF_ERROR(expression)           \
  do {                                            \
    const absl::Status klo_status = (expression); \
    if (!klo_status.ok()) return klo_status;      \
  } while (false)

#endif  // KERAS_LEGACY_OPT_OPS_TF_COMPAT_H_
