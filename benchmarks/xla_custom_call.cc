// Adam's functor behind XLA's interface for foreign functions: one call updates all variables, in place.
#include <atomic>
#include <cstdint>
#include <thread>

#include "math/adam.h"
#include "xla/ffi/api/c_api.h"
#include "xla/ffi/api/ffi.h"

extern "C" const XLA_FFI_Api* XLA_FFI_GetApi();

namespace {

namespace ffi = xla::ffi;
using Adam = keras_legacy_opt::Adam<float, keras_legacy_opt::Path::kDense>;

constexpr int64_t kThreads = 2, kCacheLine = 64;
std::atomic<int64_t> copied{0};

__attribute__((target("avx2"))) void Update(const Adam& adam, float* __restrict__ var, float* __restrict__ m,
                                            float* __restrict__ v, const float* __restrict__ g, int64_t count) {
  for (int64_t i = 0; i < count; ++i) adam(var[i], m[i], v[i], g[i]);
}

// Operands: the scalars, then variables, slots m, slots v and gradients; results: the first three of these.
ffi::Error UpdateAll(ffi::Buffer<ffi::F32> scalars, ffi::RemainingArgs args, ffi::RemainingRets results) {
  const float* s = scalars.typed_data();
  const Adam adam({s[0], s[1], s[2], s[3], s[4], s[5]});
  const int64_t count = args.size() / 4;
  const auto update_part = [&](int64_t part) {
    for (int64_t i = 0; i < count; ++i) {
      const int64_t size = args.get<ffi::Buffer<ffi::F32>>(i)->element_count();
      const int64_t begin = size * part / kThreads / kCacheLine * kCacheLine;
      const int64_t end = part + 1 == kThreads ? size : size * (part + 1) / kThreads / kCacheLine * kCacheLine;
      float* arrays[4];
      for (int j = 0; j < 4; ++j) {
        arrays[j] = args.get<ffi::Buffer<ffi::F32>>(j * count + i)->typed_data();
        if (j < 3) copied += (*results.get<ffi::Buffer<ffi::F32>>(j * count + i))->typed_data() != arrays[j];
        arrays[j] += begin;
      }
      Update(adam, arrays[0], arrays[1], arrays[2], arrays[3], end - begin);
    }
  };
  std::thread other(update_part, 1);
  update_part(0);
  other.join();
  return ffi::Error::Success();
}

XLA_FFI_DEFINE_HANDLER_SYMBOL(Handler, UpdateAll,
                              ffi::Ffi::Bind().Arg<ffi::Buffer<ffi::F32>>().RemainingArgs().RemainingRets());
XLA_FFI_REGISTER_HANDLER(XLA_FFI_GetApi(), "keras_legacy_opt_adam", "Host", Handler);

}  // namespace

extern "C" __attribute__((visibility("default"))) int64_t Copied() { return copied; }
