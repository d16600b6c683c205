// TensorFlow, and every difference between the versions of it that we build against.
#ifndef KERAS_LEGACY_OPT_OPS_TF_COMPAT_H_
#define KERAS_LEGACY_OPT_OPS_TF_COMPAT_H_

#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/resource_mgr.h"
#include "tensorflow/core/framework/resource_var.h"
#include "tensorflow/core/framework/shape_inference.h"
#include "tensorflow/core/public/version.h"

#if TF_MAJOR_VERSION != 2 || TF_MINOR_VERSION < 16
#error "keras_legacy_opt needs TensorFlow 2.16 or newer"
#endif

// A status is absl's in all of them, and so are its constructors; tensorflow::errors is deprecated from 2.20 on.
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

#define KLO_RETURN_IF_ERROR(expression)                        \
  do {                                                         \
    const absl::Status klo_status = (expression);              \
    if (!klo_status.ok()) return klo_status;                   \
  } while (false)

#endif  // KERAS_LEGACY_OPT_OPS_TF_COMPAT_H_
