// A driver of GPUs that there are not: memory is the host's, and kernels run on the CPU, by tests/cuda.h. KLO_UNIT is
// the file of kernels that it has. It remembers what is called, refuses what a driver would, and does as the
// environment says: FAKE_CUDA_DEVICES, FAKE_CUDA_CAPABILITY, FAKE_CUDA_VERSION; FAKE_CUDA_FAIL=cuInit=100 has a
// function fail.
#include <dlfcn.h>

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <mutex>
#include <set>
#include <sstream>
#include <string>
#include <vector>

// clang-format off
#include "cuda.h"  // before the kernels
#undef KLO_KERNEL
#define KLO_KERNEL extern "C" __attribute__((visibility("default"))) void
#include KLO_UNIT
// clang-format on

namespace {

using Address = uint64_t;

constexpr int kInvalidValue = 1, kInvalidImage = 200, kInvalidContext = 201, kNoBinary = 209, kInvalidHandle = 400,
              kNotFound = 500, kNotReady = 600;

// As large as any record of a launch: one that is passed by value lies where a smaller one would.
struct Record {
  char bytes[512];
};

bool Begins(const std::string& text, const char* with) { return text.compare(0, std::strlen(with), with) == 0; }

// The size of what a kernel takes.
size_t SizeOf(const std::string& symbol) {
  using namespace keras_legacy_opt::gpu;
  static_assert(sizeof(SparseLaunch<float>) <= sizeof(Record), "enlarge it");
  if (Begins(symbol, "Rows_")) return sizeof(Rows);
  if (Begins(symbol, "Finite_")) return sizeof(FiniteLaunch);
  if (Begins(symbol, "Norm_")) return sizeof(NormLaunch<float>);
  return Begins(symbol, "Sparse") || Begins(symbol, "Average_") ? sizeof(SparseLaunch<float>) : sizeof(Launch<float>);
}

bool HasBarriers(const std::string& symbol) {
  for (const char* job : {"Direct_", "Scale_", "SparseDirect_", "SparseScale_", "Rows_", "Norm_"}) {
    if (Begins(symbol, job)) return true;
  }
  return false;
}

// Contexts are those of devices, but for one that a program has made for itself.
struct Context {
  int device;
};
struct Module {
  Context* context;
  std::string content;
};
struct Function {
  Context* context;
  std::string symbol;
  void (*kernel)(Record);
};
// One that is held does nothing until it is told to.
struct Stream {
  int number;
  Context* context;
  bool is_held;
  std::vector<std::function<void()>> waiting;
};
struct Event {
  int pending;
};

constexpr int kMostDevices = 4;
std::mutex mutex;  // of all that follows, and of kernels
Context contexts[kMostDevices + 1] = {{0}, {1}, {2}, {3}, {0}};
std::atomic<int> streams = 0;
thread_local std::vector<Context*> current;
// Both are made at first use, not by dlopen: what that does in one thread, ThreadSanitizer does not see to come before
// what others do.
std::ostringstream& Calls() {
  static auto& calls = *new std::ostringstream;
  return calls;
}
// What is not released, or not yet: for whoever looks for leaks of a program.
std::set<void*>& Kept() {
  static auto& kept = *new std::set<void*>;
  return kept;
}

template <class T>
T* Keep(T* object) {
  const std::lock_guard<std::mutex> lock(mutex);
  Kept().insert(object);
  return object;
}
template <class T>
T* Release(T* object) {
  const std::lock_guard<std::mutex> lock(mutex);
  Kept().erase(object);
  return object;
}

int Setting(const char* name, int otherwise) {
  const char* value = std::getenv(name);
  return value == nullptr ? otherwise : std::atoi(value);
}
int Capability() { return Setting("FAKE_CUDA_CAPABILITY", 90); }

// Remembers a call; returns the error that it shall have.
template <class... Details>
int Begin(const char* function, const Details&... details) {
  const std::lock_guard<std::mutex> lock(mutex);
  Calls() << function;
  ((Calls() << ' ' << details), ...);
  Calls() << '\n';
  const std::string name = std::string(function) + '=';
  const char* failing = std::getenv("FAKE_CUDA_FAIL");
  return failing != nullptr && Begins(failing, name.c_str()) ? std::atoi(failing + name.size()) : 0;
}

int Number(const void* stream) { return stream == nullptr ? 0 : static_cast<const Stream*>(stream)->number; }

// Does something in the order of a stream, which is none of another context.
int Enqueue(void* handle, std::function<void()> work) {
  auto* stream = static_cast<Stream*>(handle);
  if (current.empty()) return kInvalidContext;
  if (stream != nullptr && stream->context != current.back()) return kInvalidHandle;
  const std::lock_guard<std::mutex> lock(mutex);
  if (stream != nullptr && stream->is_held) {
    stream->waiting.push_back(std::move(work));
  } else {
    work();
  }
  return 0;
}

void* Memory(Address address) { return reinterpret_cast<void*>(address); }

}  // namespace

#define KLO_EXPORTED extern "C" __attribute__((visibility("default")))
#define KLO_DRIVER KLO_EXPORTED int
#define KLO_BEGIN(...)                                      \
  do {                                                      \
    if (const int error = Begin(__VA_ARGS__)) return error; \
  } while (false)

// For tests: the calls since it was asked the last time.
KLO_EXPORTED const char* fake_cuda_calls() {
  static std::string told;
  const std::lock_guard<std::mutex> lock(mutex);
  told = Calls().str();
  Calls().str("");
  return told.c_str();
}
// A stream, for ever; of device kMostDevices, one of another context than the primary one.
KLO_EXPORTED void* fake_cuda_stream(int device, bool is_held) {
  return Keep(new Stream{++streams, &contexts[device], is_held, {}});
}
KLO_EXPORTED void fake_cuda_run(void* stream) {
  const std::lock_guard<std::mutex> lock(mutex);
  for (const auto& work : static_cast<Stream*>(stream)->waiting) work();
  static_cast<Stream*>(stream)->waiting.clear();
}
// The device of the context that is current, and how many lie on this thread's stack.
KLO_EXPORTED int fake_cuda_current(size_t* depth) {
  *depth = current.size();
  return current.empty() ? -1 : current.back()->device;
}

KLO_DRIVER cuInit(unsigned) {
  KLO_BEGIN(__func__);
  return Setting("FAKE_CUDA_DEVICES", 1) > 0 ? 0 : 100;
}
KLO_DRIVER cuGetErrorString(int error, const char** text) {
  *text = error == 2                 ? "out of memory"
          : error == kNotFound       ? "named symbol not found"
          : error == kInvalidImage   ? "device kernel image is invalid"
          : error == kNoBinary       ? "no kernel image is available for execution on the device"
          : error == 100             ? "no CUDA-capable device is detected"
          : error == kInvalidContext ? "invalid device context"
          : error == kInvalidHandle  ? "invalid resource handle"
          : error == 700             ? "an illegal memory access was encountered"
                                     : nullptr;
  return *text == nullptr ? kInvalidValue : 0;
}
// The real NVRTC looks for a driver in its process, and crashes without this one.
KLO_DRIVER cuGetExportTable(const void**, const void*) { return kNotFound; }
KLO_DRIVER cuDriverGetVersion(int* version) {
  KLO_BEGIN(__func__);
  *version = Setting("FAKE_CUDA_VERSION", 12090);
  return 0;
}
KLO_DRIVER cuDeviceGetCount(int* count) {
  KLO_BEGIN(__func__);
  *count = Setting("FAKE_CUDA_DEVICES", 1);
  return 0;
}
KLO_DRIVER cuDeviceGet(int* device, int ordinal) {
  KLO_BEGIN(__func__, ordinal);
  *device = ordinal;
  return 0;
}
KLO_DRIVER cuDevicePrimaryCtxRetain(void** context, int device) {
  KLO_BEGIN(__func__, device);
  *context = &contexts[device];
  return 0;
}
KLO_DRIVER cuCtxSetCurrent(void* context) {
  KLO_BEGIN(__func__);
  current.assign(1, static_cast<Context*>(context));
  return 0;
}
KLO_DRIVER cuCtxPushCurrent_v2(void* context) {
  KLO_BEGIN(__func__, static_cast<Context*>(context)->device);
  current.push_back(static_cast<Context*>(context));
  return 0;
}
KLO_DRIVER cuCtxPopCurrent_v2(void** context) {
  KLO_BEGIN(__func__);
  if (current.empty()) return kInvalidContext;
  *context = current.back();
  current.pop_back();
  return 0;
}
KLO_DRIVER cuCtxGetDevice(int* device) {
  KLO_BEGIN(__func__);
  if (current.empty()) return kInvalidContext;
  *device = current.back()->device;
  return 0;
}
KLO_DRIVER cuStreamGetCtx(void* stream, void** context) {
  KLO_BEGIN(__func__, Number(stream));
  if (stream == nullptr) return kInvalidContext;
  *context = static_cast<Stream*>(stream)->context;
  return 0;
}
KLO_DRIVER cuDeviceGetName(char* name, int size, int) {
  KLO_BEGIN(__func__);
  std::strncpy(name, "no GPU, but its stand-in", size);
  return 0;
}
KLO_DRIVER cuDeviceGetAttribute(int* value, int attribute, int) {
  KLO_BEGIN(__func__);
  *value = attribute == 75 ? Capability() / 10 : Capability() % 10;
  return 0;
}
KLO_DRIVER cuMemAlloc_v2(Address* address, size_t size) {
  KLO_BEGIN(__func__, size);
  *address = reinterpret_cast<Address>(std::aligned_alloc(256, (size + 255) / 256 * 256));
  return 0;
}
KLO_DRIVER cuMemFree_v2(Address address) {
  KLO_BEGIN(__func__);
  std::free(Memory(address));
  return 0;
}
KLO_DRIVER cuMemHostAlloc(void** memory, size_t size, unsigned flags) {
  KLO_BEGIN(__func__, size, flags);
  if (current.empty()) return kInvalidContext;
  *memory = Keep(std::malloc(size));
  return 0;
}
KLO_DRIVER cuMemFreeHost(void* memory) {
  KLO_BEGIN(__func__);
  std::free(Release(memory));
  return 0;
}
KLO_DRIVER cuMemcpyHtoD_v2(Address to, const void* from, size_t size) {
  KLO_BEGIN(__func__, size);
  std::memcpy(Memory(to), from, size);
  return 0;
}
KLO_DRIVER cuMemcpyDtoH_v2(void* to, Address from, size_t size) {
  KLO_BEGIN(__func__, size);
  std::memcpy(to, Memory(from), size);
  return 0;
}
KLO_DRIVER cuMemcpyDtoDAsync_v2(Address to, Address from, size_t size, void* stream) {
  KLO_BEGIN(__func__, size, "in", Number(stream));
  return Enqueue(stream, [=] { std::memcpy(Memory(to), Memory(from), size); });
}
KLO_DRIVER cuMemcpyAsync(Address to, Address from, size_t size, void* stream) {
  KLO_BEGIN(__func__, size, "in", Number(stream));
  return Enqueue(stream, [=] { std::memcpy(Memory(to), Memory(from), size); });
}
KLO_DRIVER cuMemsetD8Async(Address to, unsigned char byte, size_t size, void* stream) {
  KLO_BEGIN(__func__, size, "in", Number(stream));
  return Enqueue(stream, [=] { std::memset(Memory(to), byte, size); });
}
KLO_DRIVER cuMemsetD32_v2(Address to, unsigned number, size_t words) {
  KLO_BEGIN(__func__, words);
  for (size_t i = 0; i < words; ++i) static_cast<unsigned*>(Memory(to))[i] = number;
  return 0;
}
// What tests/fake_nvrtc.cc has made is "FAKE sm_90 symbols... ."; whatever else has all kernels.
KLO_DRIVER cuModuleLoadData(void** module, const void* data) {
  const std::string content = static_cast<const char*>(data);
  KLO_BEGIN(__func__);
  if (current.empty()) return kInvalidContext;
  if (content.empty()) return kInvalidImage;
  if (Begins(content, "FAKE ")) {
    if (content.compare(content.size() - 2, 2, " .") != 0) return kInvalidImage;
    const std::string exactly = "FAKE sm_" + std::to_string(Capability()) + ' ';
    if (!Begins(content, exactly.c_str()) && !Begins(content, "FAKE compute_")) return kNoBinary;
  }
  *module = Keep(new Module{current.back(), content});
  return 0;
}
KLO_DRIVER cuModuleGetFunction(void** function, void* handle, const char* symbol) {
  KLO_BEGIN(__func__, symbol);
  const auto& module = *static_cast<Module*>(handle);
  if (current.empty() || module.context != current.back()) return kInvalidContext;
  if (Begins(module.content, "FAKE ") && module.content.find(std::string(" ") + symbol + ' ') == std::string::npos) {
    return kNotFound;
  }
  Dl_info here;
  dladdr(reinterpret_cast<void*>(&cuInit), &here);
  void* kernel = dlsym(dlopen(here.dli_fname, RTLD_NOW), symbol);
  if (kernel == nullptr) return kNotFound;
  *function = Keep(new Function{module.context, symbol, reinterpret_cast<void (*)(Record)>(kernel)});
  return 0;
}
KLO_DRIVER cuLaunchKernel(void* function, unsigned blocks, unsigned, unsigned, unsigned threads, unsigned, unsigned,
                          unsigned, void* stream, void** parameters, void**) {
  const auto& called = *static_cast<const Function*>(function);
  KLO_BEGIN(__func__, called.symbol, blocks, 'x', threads, "in", Number(stream));
  if (current.empty() || called.context != current.back()) return kInvalidContext;
  if (blocks == 0) return kInvalidValue;
  Record record;
  std::memcpy(record.bytes, parameters[0], SizeOf(called.symbol));
  return Enqueue(stream, [=] {
    keras_legacy_opt::Fibres::Run(blocks, static_cast<int>(threads), HasBarriers(called.symbol), false,
                                  [&] { called.kernel(record); });
  });
}
KLO_DRIVER cuEventCreate(void** event, unsigned) {
  KLO_BEGIN(__func__);
  if (current.empty()) return kInvalidContext;
  *event = Keep(new Event{0});
  return 0;
}
KLO_DRIVER cuEventDestroy_v2(void* event) {
  KLO_BEGIN(__func__);
  delete Release(static_cast<Event*>(event));
  return 0;
}
KLO_DRIVER cuEventRecord(void* handle, void* stream) {
  KLO_BEGIN(__func__, "in", Number(stream));
  auto* event = static_cast<Event*>(handle);
  {
    const std::lock_guard<std::mutex> lock(mutex);
    ++event->pending;
  }
  return Enqueue(stream, [=] { --event->pending; });
}
KLO_DRIVER cuEventQuery(void* event) {
  KLO_BEGIN(__func__);
  const std::lock_guard<std::mutex> lock(mutex);
  return static_cast<Event*>(event)->pending > 0 ? kNotReady : 0;
}
KLO_DRIVER cuEventSynchronize(void*) {
  KLO_BEGIN(__func__);
  return 0;
}
KLO_DRIVER cuEventElapsedTime(float* milliseconds, void*, void*) {
  KLO_BEGIN(__func__);
  *milliseconds = 1;
  return 0;
}
