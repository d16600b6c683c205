// A driver of a GPU that there is not: memory is the host's, and kernels run on the CPU, by tests/cuda.h. For the test
// of benchmarks/gpu.py. KLO_UNIT is the file that NVRTC would compile.
#include <dlfcn.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>

// clang-format off
#include "cuda.h"  // before the kernels
#undef KLO_KERNEL
#define KLO_KERNEL extern "C" __attribute__((visibility("default"))) void
#include KLO_UNIT
// clang-format on

namespace {

using Address = uint64_t;

// As large as any record of a launch: one that is passed by value lies where a smaller one would.
struct Record {
  char bytes[512];
};

// The size of what a kernel takes.
size_t SizeOf(const char* symbol) {
  using keras_legacy_opt::gpu::Launch;
  using keras_legacy_opt::gpu::Rows;
  using keras_legacy_opt::gpu::SparseLaunch;
  static_assert(sizeof(SparseLaunch<float>) <= sizeof(Record), "enlarge it");
  const auto begins = [symbol](const char* with) { return std::strncmp(symbol, with, std::strlen(with)) == 0; };
  return begins("Rows_") ? sizeof(Rows) : begins("Sparse") ? sizeof(SparseLaunch<float>) : sizeof(Launch<float>);
}

struct Function {
  void (*kernel)(Record);
  size_t size;
};

void* Memory(Address address) { return reinterpret_cast<void*>(address); }

constexpr int kNotFound = 500;

}  // namespace

#define KLO_DRIVER extern "C" __attribute__((visibility("default"))) int

KLO_DRIVER cuInit(unsigned) { return 0; }
KLO_DRIVER cuGetErrorString(int error, const char** text) {
  *text = error == kNotFound ? "named symbol not found" : "unknown";
  return 0;
}
KLO_DRIVER cuDeviceGet(int* device, int) {
  *device = 0;
  return 0;
}
KLO_DRIVER cuDevicePrimaryCtxRetain(void** context, int) {
  *context = context;
  return 0;
}
KLO_DRIVER cuCtxSetCurrent(void*) { return 0; }
KLO_DRIVER cuDeviceGetName(char* name, int size, int) {
  std::strncpy(name, "no GPU, but its stand-in", size);
  return 0;
}
KLO_DRIVER cuDeviceGetAttribute(int* value, int attribute, int) {
  *value = attribute == 75 ? 9 : 0;
  return 0;
}
KLO_DRIVER cuMemAlloc_v2(Address* address, size_t size) {
  *address = reinterpret_cast<Address>(std::aligned_alloc(256, (size + 255) / 256 * 256));
  return 0;
}
KLO_DRIVER cuMemFree_v2(Address address) {
  std::free(Memory(address));
  return 0;
}
KLO_DRIVER cuMemcpyHtoD_v2(Address to, const void* from, size_t size) {
  std::memcpy(Memory(to), from, size);
  return 0;
}
KLO_DRIVER cuMemcpyDtoH_v2(void* to, Address from, size_t size) {
  std::memcpy(to, Memory(from), size);
  return 0;
}
KLO_DRIVER cuMemcpyDtoDAsync_v2(Address to, Address from, size_t size, void*) {
  std::memcpy(Memory(to), Memory(from), size);
  return 0;
}
KLO_DRIVER cuMemsetD32_v2(Address to, unsigned number, size_t words) {
  for (size_t i = 0; i < words; ++i) static_cast<unsigned*>(Memory(to))[i] = number;
  return 0;
}
KLO_DRIVER cuModuleLoadData(void** module, const void*) {
  *module = module;
  return 0;
}
KLO_DRIVER cuModuleGetFunction(void** function, void*, const char* symbol) {
  Dl_info here;
  dladdr(reinterpret_cast<void*>(&cuInit), &here);
  void* kernel = dlsym(dlopen(here.dli_fname, RTLD_NOW), symbol);
  if (kernel == nullptr) return kNotFound;
  *function = new Function{reinterpret_cast<void (*)(Record)>(kernel), SizeOf(symbol)};  // for ever
  return 0;
}
KLO_DRIVER cuLaunchKernel(void* function, unsigned blocks, unsigned, unsigned, unsigned threads, unsigned, unsigned,
                          unsigned, void*, void** parameters, void**) {
  const Function& called = *static_cast<const Function*>(function);
  Record record;
  std::memcpy(record.bytes, parameters[0], called.size);
  keras_legacy_opt::Fibres::Run(blocks, static_cast<int>(threads), true, false, [&] { called.kernel(record); });
  return 0;
}
KLO_DRIVER cuEventCreate(void** event, unsigned) {
  *event = event;
  return 0;
}
KLO_DRIVER cuEventRecord(void*, void*) { return 0; }
KLO_DRIVER cuEventSynchronize(void*) { return 0; }
KLO_DRIVER cuEventElapsedTime(float* milliseconds, void*, void*) {
  *milliseconds = 1;
  return 0;
}
