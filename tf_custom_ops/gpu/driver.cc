#include "driver.h"

#include <dlfcn.h>
#include <pthread.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <climits>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <shared_mutex>
#include <utility>

#include "launch.h"

namespace keras_legacy_opt {
namespace gpu {
// Not an anonymous one: the library includes this file.
namespace driver_internal {

using Address = unsigned long long;  // CUdeviceptr

// What is used of the driver: names as it exports them, and what they take. All of them return an error's number.
#define KLO_DRIVER_FUNCTIONS(FUNCTION)                                                                                 \
  FUNCTION(cuInit, unsigned)                                                                                           \
  FUNCTION(cuGetErrorString, int, const char**)                                                                        \
  FUNCTION(cuDriverGetVersion, int*)                                                                                   \
  FUNCTION(cuDeviceGetCount, int*)                                                                                     \
  FUNCTION(cuDeviceGet, int*, int)                                                                                     \
  FUNCTION(cuDeviceGetName, char*, int, int)                                                                           \
  FUNCTION(cuDeviceGetAttribute, int*, int, int)                                                                       \
  FUNCTION(cuDevicePrimaryCtxRetain, void**, int)                                                                      \
  FUNCTION(cuCtxPushCurrent_v2, void*)                                                                                 \
  FUNCTION(cuCtxPopCurrent_v2, void**)                                                                                 \
  FUNCTION(cuCtxGetDevice, int*)                                                                                       \
  FUNCTION(cuStreamGetCtx, void*, void**)                                                                              \
  FUNCTION(cuModuleLoadData, void**, const void*)                                                                      \
  FUNCTION(cuModuleGetFunction, void**, void*, const char*)                                                            \
  FUNCTION(cuLaunchKernel, void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void*, void**, \
           void**)                                                                                                     \
  FUNCTION(cuMemHostAlloc, void**, size_t, unsigned)                                                                   \
  FUNCTION(cuMemFreeHost, void*)                                                                                       \
  FUNCTION(cuMemcpyAsync, Address, Address, size_t, void*)                                                             \
  FUNCTION(cuMemsetD8Async, Address, unsigned char, size_t, void*)                                                     \
  FUNCTION(cuEventCreate, void**, unsigned)                                                                            \
  FUNCTION(cuEventDestroy_v2, void*)                                                                                   \
  FUNCTION(cuEventRecord, void*, void*)                                                                                \
  FUNCTION(cuEventQuery, void*)

constexpr const char* kLibrary = "libcuda.so.1";
constexpr int kNotReady = 600;                               // CUDA_ERROR_NOT_READY
constexpr int kCapabilityMajor = 75, kCapabilityMinor = 76;  // CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*
constexpr unsigned kPortable = 1;                            // CU_MEMHOSTALLOC_PORTABLE: for every device
constexpr unsigned kWithoutTime = 2;                         // CU_EVENT_DISABLE_TIMING

Address AddressOf(const void* memory) { return reinterpret_cast<Address>(memory); }

// Whether this process was forked from one that had asked for devices. They do not survive that, and their locks may be
// held by threads that are not here.
std::atomic<bool> is_in_use = false, is_child = false;
[[maybe_unused]] const int kWatchesForks = pthread_atfork(nullptr, nullptr, [] { is_child = is_in_use.load(); });

// The driver's functions, or why there is no driver.
struct Driver {
#define KLO_MEMBER(NAME, ...) int (*NAME)(__VA_ARGS__) = nullptr;
  KLO_DRIVER_FUNCTIONS(KLO_MEMBER)
#undef KLO_MEMBER
  int version = 0;
  std::string why_not;

  // Loaded at the first call, for ever.
  static const Driver* Get(std::string* why_not) {
    if (is_child) {
      *why_not = "this process was forked from one that had asked for GPUs, which cannot be used by both";
      return nullptr;
    }
    is_in_use = true;
    static const Driver& driver = *new Driver;
    if (driver.why_not.empty()) return &driver;
    *why_not = driver.why_not;
    return nullptr;
  }

  // Whether a function succeeded.
  bool Check(int error, const char* function, std::string* why) const {
    if (error == 0) return true;
    const char* text = nullptr;
    if (cuGetErrorString(error, &text) != 0 || text == nullptr) text = "an error that the driver has no name for";
    *why = std::string(function) + " fails: " + text + " (" + std::to_string(error) + ")";
    return false;
  }

 private:
  Driver() {
    void* library = dlopen(kLibrary, RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) {
      const char* reason = dlerror();
      why_not = std::string("there is no driver of a GPU (") + (reason == nullptr ? kLibrary : reason) + ")";
      return;
    }
#define KLO_LOAD(NAME, ...)                                             \
  NAME = reinterpret_cast<int (*)(__VA_ARGS__)>(dlsym(library, #NAME)); \
  if (NAME == nullptr) why_not = "the driver, " + std::string(kLibrary) + ", has no " #NAME;
    KLO_DRIVER_FUNCTIONS(KLO_LOAD)
#undef KLO_LOAD
    if (!why_not.empty() || !Check(cuInit(0), "cuInit", &why_not)) return;
    if (!Check(cuDriverGetVersion(&version), "cuDriverGetVersion", &why_not)) return;
  }
};

// Of `driver`, in scope: whether a function succeeded, which has to be named.
#define KLO_CALL(FUNCTION, ...) driver.Check(driver.FUNCTION(__VA_ARGS__), #FUNCTION, why_not)

// While this is there, a context is current for its thread.
class Current {
 public:
  Current(const Driver& driver, void* context, std::string* why_not)
      : driver_(driver), is_current_(KLO_CALL(cuCtxPushCurrent_v2, context)) {}
  ~Current() {
    void* context;
    if (is_current_) driver_.cuCtxPopCurrent_v2(&context);
  }
  Current(const Current&) = delete;
  Current& operator=(const Current&) = delete;
  explicit operator bool() const { return is_current_; }

 private:
  const Driver& driver_;
  const bool is_current_;
};

// What a compiler has said.
struct Code {
  std::string unit, bytes, refusal;
};

// Who compiles. It is in use as long as the lock is shared.
struct CompilerSlot {
  std::shared_mutex mutex;
  KerasLegacyOptGpuCompiler compiler = nullptr;

  static CompilerSlot& Get() {
    static CompilerSlot& slot = *new CompilerSlot;
    return slot;
  }
};

bool Compile(const std::string& symbol, int capability, int driver, Code* code, std::string* why_not) {
  CompilerSlot& slot = CompilerSlot::Get();
  const std::shared_lock<std::shared_mutex> lock(slot.mutex);
  if (slot.compiler == nullptr) {
    *why_not = "nobody is there to compile " + symbol + " (the Python interpreter has not begun, or ends)";
    return false;
  }
  slot.compiler(symbol.c_str(), capability, driver, code);
  if (!code->bytes.empty()) return true;
  *why_not = code->refusal.empty() ? "the compiler of " + symbol + " says nothing" : code->refusal;
  return false;
}

}  // namespace driver_internal

using namespace driver_internal;

bool IsForkedChild() { return is_child; }

void Tell(const std::string& text, char* to, size_t room) {
  if (room == 0) return;
  const size_t size = std::min(text.size(), room - 1);
  std::memcpy(to, text.data(), size);
  to[size] = '\0';
}

struct Kernel {
  std::string symbol;
  const void* device;
  void* function;
};

struct Device::Impl {
  // A kernel, once it has been found. Its mutex is held meanwhile, so that nobody else compiles the same.
  struct Found {
    std::mutex mutex;
    std::unique_ptr<Kernel> kernel;
  };
  // Pinned memory, and the moment from which on it is free again.
  struct Stage {
    void* memory;
    void* event;
  };
  static constexpr int kStages = 48;  // for as many powers of two
  static constexpr size_t kLeastStage = 4096;

  explicit Impl(const Driver& its_driver) : driver(its_driver) {}

  // Is what a constructor would be, if that could fail.
  bool Open(int number, std::string* why_not) {
    ordinal = number;
    int handle, major, minor;
    char text[256] = "";
    if (!KLO_CALL(cuDeviceGet, &handle, ordinal) || !KLO_CALL(cuDeviceGetName, text, sizeof text - 1, handle) ||
        !KLO_CALL(cuDeviceGetAttribute, &major, kCapabilityMajor, handle) ||
        !KLO_CALL(cuDeviceGetAttribute, &minor, kCapabilityMinor, handle) ||
        !KLO_CALL(cuDevicePrimaryCtxRetain, &context, handle)) {
      return false;
    }
    name = text;
    capability = 10 * major + minor;
    return true;
  }

  Found& FoundOf(const std::string& symbol) {
    const std::lock_guard<std::mutex> lock(mutex);
    return kernels[symbol];
  }

  // The kernel of a unit, which is loaded once.
  bool Load(const Code& code, const std::string& symbol, void** function, std::string* why_not) {
    const std::lock_guard<std::mutex> lock(mutex);
    const Current current(driver, context, why_not);
    if (!current) return false;
    void*& module = modules[code.unit];
    if (module == nullptr && !KLO_CALL(cuModuleLoadData, &module, code.bytes.c_str())) {
      module = nullptr;
      return false;
    }
    return KLO_CALL(cuModuleGetFunction, function, module, symbol.c_str());
  }

  // Takes a stage of at least `size` bytes that no copy reads any more. In the device's context.
  bool TakeStage(int power, Stage* stage, std::string* why_not) {
    {
      const std::lock_guard<std::mutex> lock(mutex);
      std::deque<Stage>& waiting = stages[power];
      if (!waiting.empty()) {
        const int error = driver.cuEventQuery(waiting.front().event);
        if (error != kNotReady && !driver.Check(error, "cuEventQuery", why_not)) return false;
        if (error == 0) {
          *stage = waiting.front();
          waiting.pop_front();
          return true;
        }
      }
    }
    if (!KLO_CALL(cuMemHostAlloc, &stage->memory, kLeastStage << power, kPortable)) return false;
    if (KLO_CALL(cuEventCreate, &stage->event, kWithoutTime)) return true;
    driver.cuMemFreeHost(stage->memory);
    return false;
  }

  void GiveBack(int power, const Stage& stage) {
    const std::lock_guard<std::mutex> lock(mutex);
    stages[power].push_back(stage);
  }

  const Driver& driver;
  int ordinal = 0, capability = 0;
  std::string name;
  void* context = nullptr;
  std::mutex mutex;  // of what follows
  std::map<std::string, Found> kernels;
  std::map<std::string, void*> modules;           // by their units
  std::array<std::deque<Stage>, kStages> stages;  // of kLeastStage << its place, the oldest first
};

namespace driver_internal {

// The devices that were asked for. They stay.
struct Devices {
  std::mutex mutex;
  std::map<int, Device*> by_ordinal;
  std::map<void*, Device*> by_context;

  static Devices& Get() {
    static Devices& devices = *new Devices;
    return devices;
  }
};

}  // namespace driver_internal

Device* Device::Get(int ordinal, std::string* why_not) {
  const Driver* found = Driver::Get(why_not);
  if (found == nullptr) return nullptr;
  const Driver& driver = *found;
  Devices& devices = Devices::Get();
  const std::lock_guard<std::mutex> lock(devices.mutex);
  const auto known = devices.by_ordinal.find(ordinal);
  if (known != devices.by_ordinal.end()) return known->second;
  int count;
  if (!KLO_CALL(cuDeviceGetCount, &count)) return nullptr;
  if (ordinal < 0 || ordinal >= count) {
    *why_not = "there is no GPU " + std::to_string(ordinal) + " (there are " + std::to_string(count) + ")";
    return nullptr;
  }
  auto impl = std::make_unique<Impl>(driver);
  if (!impl->Open(ordinal, why_not)) return nullptr;
  void* const context = impl->context;
  Device* const device = new Device(impl.release());
  devices.by_ordinal[ordinal] = devices.by_context[context] = device;
  return device;
}

Device* Device::Of(Stream stream, std::string* why_not) {
  const Driver* found = Driver::Get(why_not);
  if (found == nullptr) return nullptr;
  const Driver& driver = *found;
  void* context;
  if (!KLO_CALL(cuStreamGetCtx, stream, &context)) return nullptr;
  Devices& devices = Devices::Get();
  {
    const std::lock_guard<std::mutex> lock(devices.mutex);
    const auto known = devices.by_context.find(context);
    if (known != devices.by_context.end()) return known->second;
  }
  int ordinal;  // A handle of a device is its number.
  {
    const Current current(driver, context, why_not);
    if (!current || !KLO_CALL(cuCtxGetDevice, &ordinal)) return nullptr;
  }
  Device* const device = Get(ordinal, why_not);
  if (device == nullptr || device->impl_->context == context) return device;
  *why_not = "the stream is not one of the primary context of GPU " + std::to_string(ordinal);
  return nullptr;
}

int Device::ordinal() const { return impl_->ordinal; }
int Device::capability() const { return impl_->capability; }
const std::string& Device::name() const { return impl_->name; }

const Kernel* Device::Find(const std::string& symbol, std::string* why_not) {
  Impl::Found& found = impl_->FoundOf(symbol);
  const std::lock_guard<std::mutex> lock(found.mutex);
  if (found.kernel != nullptr) return found.kernel.get();
  Code code;
  void* function;
  if (!Compile(symbol, impl_->capability, impl_->driver.version, &code, why_not)) return nullptr;
  if (!impl_->Load(code, symbol, &function, why_not)) return nullptr;
  found.kernel.reset(new Kernel{symbol, this, function});
  return found.kernel.get();
}

bool Device::RunWith(const Kernel* kernel, int64_t blocks, const void* record, Stream stream, std::string* why_not) {
  if (blocks == 0) return true;
  if (blocks < 0 || blocks > INT_MAX) {
    *why_not = kernel->symbol + " cannot run in " + std::to_string(blocks) + " blocks";
    return false;
  }
  if (kernel->device != this) {
    *why_not = kernel->symbol + " was found on another device";
    return false;
  }
  const Driver& driver = impl_->driver;
  const Current current(driver, impl_->context, why_not);
  void* parameters[] = {const_cast<void*>(record)};
  return current && KLO_CALL(cuLaunchKernel, kernel->function, static_cast<unsigned>(blocks), 1, 1, kThreads, 1, 1, 0,
                             stream, parameters, nullptr);
}

bool Device::Upload(void* to, const void* from, size_t size, Stream stream, std::string* why_not) {
  if (size == 0) return true;
  const Driver& driver = impl_->driver;
  const Current current(driver, impl_->context, why_not);
  if (!current) return false;
  int power = 0;
  while (Impl::kLeastStage << power < size) ++power;
  Impl::Stage stage;
  if (!impl_->TakeStage(power, &stage, why_not)) return false;
  std::memcpy(stage.memory, from, size);
  // Where it is not known when the copy is done, its memory is lost: something is badly wrong with the device.
  if (!KLO_CALL(cuMemcpyAsync, AddressOf(to), AddressOf(stage.memory), size, stream)) return false;
  if (!KLO_CALL(cuEventRecord, stage.event, stream)) return false;
  impl_->GiveBack(power, stage);
  return true;
}

bool Device::Copy(void* to, const void* from, size_t size, Stream stream, std::string* why_not) {
  if (size == 0) return true;
  const Driver& driver = impl_->driver;
  const Current current(driver, impl_->context, why_not);
  return current && KLO_CALL(cuMemcpyAsync, AddressOf(to), AddressOf(from), size, stream);
}

bool Device::Fill(void* to, unsigned char byte, size_t size, Stream stream, std::string* why_not) {
  if (size == 0) return true;
  const Driver& driver = impl_->driver;
  const Current current(driver, impl_->context, why_not);
  return current && KLO_CALL(cuMemsetD8Async, AddressOf(to), byte, size, stream);
}

std::unique_ptr<Pinned> Device::Pin(size_t size, std::string* why_not) {
  const Driver& driver = impl_->driver;
  const Current current(driver, impl_->context, why_not);
  void* memory;
  if (!current || !KLO_CALL(cuMemHostAlloc, &memory, std::max<size_t>(size, 1), kPortable)) return nullptr;
  return std::unique_ptr<Pinned>(new Pinned(this, memory, size));
}

Pinned::~Pinned() {
  std::string ignored;
  const Current current(device_->impl_->driver, device_->impl_->context, &ignored);
  if (current) device_->impl_->driver.cuMemFreeHost(data_);
}

std::unique_ptr<Event> Device::NewEvent(std::string* why_not) {
  const Driver& driver = impl_->driver;
  const Current current(driver, impl_->context, why_not);
  void* event;
  if (!current || !KLO_CALL(cuEventCreate, &event, kWithoutTime)) return nullptr;
  return std::unique_ptr<Event>(new Event(this, event));
}

Event::~Event() {
  std::string ignored;
  const Current current(device_->impl_->driver, device_->impl_->context, &ignored);
  if (current) device_->impl_->driver.cuEventDestroy_v2(event_);
}

bool Event::Record(Stream stream, std::string* why_not) {
  const Driver& driver = device_->impl_->driver;
  const Current current(driver, device_->impl_->context, why_not);
  return current && KLO_CALL(cuEventRecord, event_, stream);
}

bool Event::Query(bool* is_done, std::string* why_not) {
  const Driver& driver = device_->impl_->driver;
  const Current current(driver, device_->impl_->context, why_not);
  if (!current) return false;
  const int error = driver.cuEventQuery(event_);
  *is_done = error == 0;
  return error == kNotReady || driver.Check(error, "cuEventQuery", why_not);
}

}  // namespace gpu
}  // namespace keras_legacy_opt

#define KLO_EXPORT extern "C" __attribute__((visibility("default")))

KLO_EXPORT void keras_legacy_opt_gpu_set_compiler(KerasLegacyOptGpuCompiler compiler) {
  if (keras_legacy_opt::gpu::driver_internal::is_child) return;  // Nobody asks one any more.
  auto& slot = keras_legacy_opt::gpu::driver_internal::CompilerSlot::Get();
  const std::unique_lock<std::shared_mutex> lock(slot.mutex);
  slot.compiler = compiler;
}

KLO_EXPORT void keras_legacy_opt_gpu_give(void* to, const char* unit, const void* code, size_t size) {
  auto* said = static_cast<keras_legacy_opt::gpu::driver_internal::Code*>(to);
  said->unit = unit;
  said->bytes.assign(static_cast<const char*>(code), size);
}

KLO_EXPORT void keras_legacy_opt_gpu_refuse(void* to, const char* why_not) {
  static_cast<keras_legacy_opt::gpu::driver_internal::Code*>(to)->refusal = why_not;
}

KLO_EXPORT int keras_legacy_opt_gpu_find(int ordinal, const char* symbol, char* why_not, size_t room) {
  using keras_legacy_opt::gpu::Device;
  std::string reason;
  Device* const device = Device::Get(ordinal, &reason);
  const bool is_found = device != nullptr && (symbol == nullptr || device->Find(symbol, &reason) != nullptr);
  if (!is_found) keras_legacy_opt::gpu::Tell(reason, why_not, room);
  return is_found;
}
