// The host's side of the kernels: devices, what runs on them, and how it gets there. Nothing here waits for a device;
// the driver may, when it loads code or allocates pinned memory, as in first steps.
//
// The driver, libcuda.so.1, is looked for when a device is first asked for. The code of kernels comes from whoever has
// registered itself by keras_legacy_opt_gpu_set_compiler, at first need. Every function may be called by every thread;
// the context that is current for it stays so. In a child that is forked after a device was asked for, all devices are
// refused, and nothing waits for what threads of the parent were doing. What fails returns false or null, and says why
// in a sentence's part, as "cuInit fails: no CUDA-capable device is detected".
#ifndef KERAS_LEGACY_OPT_GPU_DRIVER_H_
#define KERAS_LEGACY_OPT_GPU_DRIVER_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <type_traits>

namespace keras_legacy_opt {
namespace gpu {

// Whether this process was forked from one that had asked for a device: none can be used here.
bool IsForkedChild();

// Writes text for C: as much as there is room for, and a 0.
void Tell(const std::string& text, char* to, size_t room);

// A CUstream: TensorFlow's stream->platform_specific_handle().stream. All that takes one happens in its order.
using Stream = void*;

// A kernel on one device, for ever.
struct Kernel;

class Device;

// Memory of the host that the devices' copies reach without waiting. Its release may wait for them.
class Pinned {
 public:
  ~Pinned();
  Pinned(const Pinned&) = delete;
  Pinned& operator=(const Pinned&) = delete;

  void* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  friend class Device;
  Pinned(Device* device, void* data, size_t size) : device_(device), data_(data), size_(size) {}

  Device* const device_;
  void* const data_;
  const size_t size_;
};

// A moment in a stream.
class Event {
 public:
  ~Event();
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  // The event is from now on that all that is in the stream by now has been done.
  [[nodiscard]] bool Record(Stream stream, std::string* why_not);
  // Whether it has come, or none was recorded. An error of what was to be done is one here.
  [[nodiscard]] bool Query(bool* is_done, std::string* why_not);

 private:
  friend class Device;
  Event(Device* device, void* event) : device_(device), event_(event) {}

  Device* const device_;
  void* const event_;
};

// A GPU, in its primary context, which is TensorFlow's. Devices are never destroyed.
class Device {
 public:
  // By its number among those that the process sees (CUDA_VISIBLE_DEVICES).
  [[nodiscard]] static Device* Get(int ordinal, std::string* why_not);
  // That of a stream.
  [[nodiscard]] static Device* Of(Stream stream, std::string* why_not);

  int ordinal() const;
  int capability() const;  // 90 for compute capability 9.0
  const std::string& name() const;

  // A kernel by its symbol: JOB_FORMULA_DTYPE ("Dense_Adam_float"; of a formula with norms "Direct_Lamb_half" and
  // Scale, Move; SparseDirect and so on for sparse gradients), Rows_JOB, Average_DTYPE, Finite_DTYPE, Norm_DTYPE.
  // The dtypes are float, double, half and bfloat16. What has to be compiled first takes some tenths of a second. Keep
  // the pointer. Whoever calls this must not hold Python's lock, which compiling needs; TensorFlow does not when it
  // runs ops.
  [[nodiscard]] const Kernel* Find(const std::string& symbol, std::string* why_not);

  // Runs a kernel in `blocks` blocks of kThreads threads. The record is copied at once; of no blocks, nothing runs.
  template <class Record>
  [[nodiscard]] bool Run(const Kernel* kernel, int64_t blocks, const Record& record, Stream stream,
                         std::string* why_not) {
    static_assert(std::is_trivially_copyable_v<Record>, "it is copied to the device");
    return RunWith(kernel, blocks, &record, stream, why_not);
  }

  // Copies from the host's memory to the device's. It passes through pinned memory: `from` is free again at once.
  [[nodiscard]] bool Upload(void* to, const void* from, size_t size, Stream stream, std::string* why_not);
  // Copies between memory of devices and pinned memory, which both have to stay until it is done.
  [[nodiscard]] bool Copy(void* to, const void* from, size_t size, Stream stream, std::string* why_not);
  // Fills memory of the device with a byte.
  [[nodiscard]] bool Fill(void* to, unsigned char byte, size_t size, Stream stream, std::string* why_not);

  [[nodiscard]] std::unique_ptr<Pinned> Pin(size_t size, std::string* why_not);
  [[nodiscard]] std::unique_ptr<Event> NewEvent(std::string* why_not);

 private:
  friend class Pinned;
  friend class Event;
  struct Impl;

  explicit Device(Impl* impl) : impl_(impl) {}
  bool RunWith(const Kernel* kernel, int64_t blocks, const void* record, Stream stream, std::string* why_not);

  Impl* const impl_;
};

}  // namespace gpu
}  // namespace keras_legacy_opt

extern "C" {

// Compiles the kernel `symbol` for a compute capability (90) and a driver that is of CUDA `driver` (12040 for 12.4):
// calls keras_legacy_opt_gpu_give with what the driver shall load, and the name of the unit that it is; or
// keras_legacy_opt_gpu_refuse with the reason. `to` is for them, and valid until it returns.
typedef void (*KerasLegacyOptGpuCompiler)(const char* symbol, int capability, int driver, void* to);

// Who compiles from now on; null is nobody. Returns when the one before is not running any more.
void keras_legacy_opt_gpu_set_compiler(KerasLegacyOptGpuCompiler compiler);
void keras_legacy_opt_gpu_give(void* to, const char* unit, const void* code, size_t size);
void keras_legacy_opt_gpu_refuse(void* to, const char* why_not);

// Finds a kernel on a device, so that a step needs not. Returns whether it could; writes the reason into `why_not`, as
// far as it has room. Without a symbol: only the device.
int keras_legacy_opt_gpu_find(int ordinal, const char* symbol, char* why_not, size_t room);

// The headers that kernels are made of: a JSON object of texts by path.
const char* keras_legacy_opt_gpu_sources();

}  // extern "C"

#endif  // KERAS_LEGACY_OPT_GPU_DRIVER_H_
