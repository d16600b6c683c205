// GPUs that there are not, for TensorFlow: devices of type GPU whose memory is the host's, and which run TensorFlow's
// kernels of the CPU. Kernels of ours run through the driver of tests/fake_driver.cc. What is true of a GPU and matters
// to us is so here, too:
//   - memory cannot be reached by the host, but by the driver and TensorFlow's own kernels: an access of ours crashes;
//   - what is launched runs late: when TensorFlow's own kernels or copies need what is in the device's stream.
#include <dlfcn.h>
#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "tensorflow/core/common_runtime/device/device_event_mgr.h"
#include "tensorflow/core/common_runtime/dma_helper.h"
#include "tensorflow/core/common_runtime/gpu_device_context.h"
#include "tensorflow/core/common_runtime/local_device.h"
#include "tensorflow/core/framework/device_factory.h"
#include "tensorflow/core/framework/kernel_def.pb.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "xla/stream_executor/host/host_event.h"
#include "xla/stream_executor/host/host_stream.h"
#include "xla/stream_executor/platform_manager.h"

namespace {

using tensorflow::Allocator;
using tensorflow::AllocatorAttributes;
using tensorflow::Device;
using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;

#if __has_include("xla/stream_executor/device_address.h")  // from TensorFlow 2.21 on
using DeviceMemory = stream_executor::DeviceAddressBase;
#else
using DeviceMemory = stream_executor::DeviceMemoryBase;
#endif

constexpr int kDevices = 2;

// What the driver offers beside its interface, see tests/fake_driver.cc; it has been loaded.
struct Driver {
  void* (*stream)(int device, bool is_held);
  void (*run)(void* stream);

  static const Driver& Get() {
    static const Driver driver = [] {
      void* library = dlopen("libcuda.so.1", RTLD_NOW);
      return Driver{reinterpret_cast<void* (*)(int, bool)>(dlsym(library, "fake_cuda_stream")),
                    reinterpret_cast<void (*)(void*)>(dlsym(library, "fake_cuda_run"))};
    }();
    return driver;
  }
};

// The memory of a device: first fit, so that what was freed is used again at once.
class Arena : public Allocator {
 public:
  static Arena& Of(int device) {
    static Arena* const arenas = new Arena[kDevices];
    return arenas[device];
  }

  // While it lives, the host reaches the memory of all devices.
  class Open {
   public:
    Open() { All(1); }
    ~Open() { All(-1); }

   private:
    static void All(int more) {
      for (int i = 0; i < kDevices; ++i) Of(i).Reach(more);
    }
  };

  Arena() {
    memory_ = static_cast<char*>(mmap(nullptr, kSize, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    free_[memory_] = kSize;
  }

  std::string Name() override { return "fake GPU"; }

  void* AllocateRaw(size_t, size_t bytes) override {
    const size_t size = std::max<size_t>((bytes + kAlignment - 1) / kAlignment * kAlignment, kAlignment);
    std::lock_guard<std::mutex> lock(mutex_);
    for (auto it = free_.begin(); it != free_.end(); ++it) {
      if (it->second < size) continue;
      const auto [start, room] = *it;
      free_.erase(it);
      if (room > size) free_[start + size] = room - size;
      used_[start] = size;
      return start;
    }
    return nullptr;
  }

  void DeallocateRaw(void* pointer) override {
    std::lock_guard<std::mutex> lock(mutex_);
    const auto used = used_.find(static_cast<char*>(pointer));
    char* start = used->first;
    size_t size = used->second;
    used_.erase(used);
    auto next = free_.lower_bound(start);
    if (next != free_.end() && next->first == start + size) {
      size += next->second;
      next = free_.erase(next);
    }
    if (next != free_.begin() && std::prev(next)->first + std::prev(next)->second == start) {
      std::prev(next)->second += size;
      start = std::prev(next)->first;
    } else {
      free_[start] = size;
    }
    freed_.insert(start);
  }

  // Nothing that was launched needs what is free any more: whoever reads it reads NaN.
  void Spoil() {
    std::lock_guard<std::mutex> lock(mutex_);
    for (char* start : freed_) {
      const auto block = free_.find(start);
      if (block != free_.end()) std::memset(start, 0xff, std::min(block->second, kMostSpoilt));
    }
    freed_.clear();
  }

  tensorflow::AllocatorMemoryType GetMemoryType() const override { return tensorflow::AllocatorMemoryType::kDevice; }

 private:
  // More than there is: who needs it all does not touch it.
  static constexpr size_t kSize = size_t{1} << 36, kAlignment = 256;
  static constexpr size_t kMostSpoilt = size_t{1} << 20;

  void Reach(int more) {
    std::lock_guard<std::mutex> lock(mutex_);
    const bool was_open = open_ > 0;
    open_ += more;
    if (was_open != (open_ > 0)) mprotect(memory_, kSize, was_open ? PROT_NONE : PROT_READ | PROT_WRITE);
  }

  std::mutex mutex_;
  char* memory_;
  int open_ = 0;
  std::map<char*, size_t> free_, used_;
  std::set<char*> freed_;  // since it was spoilt
};

class Stream : public stream_executor::host::HostStream {
 public:
  Stream(stream_executor::StreamExecutor* executor, int ordinal)
      : HostStream(executor), handle_(Driver::Get().stream(ordinal, true)), memory_(Arena::Of(ordinal)) {}

  // Held by whoever puts something into it.
  std::recursive_mutex& mutex() const { return mutex_; }
  PlatformSpecificHandle platform_specific_handle() const override { return {handle_}; }
  // TensorFlow copies by it from device to device. Before 2.21, the host's stream has a thread that copies later.
  absl::Status Memcpy(DeviceMemory* to, const DeviceMemory& from, uint64_t size) override {
    Flush();
    Arena::Open open;
    std::memcpy(to->opaque(), from.opaque(), size);
    return absl::OkStatus();
  }
  using HostStream::Memcpy;

  absl::Status WaitFor(stream_executor::Stream* other) override {
    static_cast<Stream*>(other)->Flush();
    return absl::OkStatus();
  }
  using HostStream::WaitFor;

  // What is recorded has been done. TensorFlow records an event again, which the host's events are not for.
  absl::Status RecordEvent(stream_executor::Event* event) override {
    const auto& notification = static_cast<stream_executor::HostEvent*>(event)->notification();
    if (!notification->HasBeenNotified()) notification->Notify();
    return absl::OkStatus();
  }

  // Does what has been launched.
  void Flush() const {
    const std::lock_guard<std::recursive_mutex> lock(mutex_);
    Arena::Open open;
    Driver::Get().run(handle_);
    memory_.Spoil();
  }

 private:
  void* const handle_;
  Arena& memory_;
  mutable std::recursive_mutex mutex_;
};

class Context : public tensorflow::GPUDeviceContext {
 public:
  explicit Context(Stream* stream)
      : GPUDeviceContext(0, stream, stream, stream, {stream}, tensorflow::cpu_allocator()), stream_(stream) {}

  void CopyCPUTensorToDevice(const Tensor* from, Device*, Tensor* to, tensorflow::StatusCallback done,
                             bool) const override {
    Copy(from, to, done);
  }
  void CopyDeviceTensorToCPU(const Tensor* from, absl::string_view, Device*, Tensor* to,
                             tensorflow::StatusCallback done) override {
    Copy(from, to, done);
  }
  void CopyTensorInSameDevice(const Tensor* from, Device*, Tensor* to, tensorflow::StatusCallback done) const override {
    Copy(from, to, done);
  }

 private:
  void Copy(const Tensor* from, Tensor* to, const tensorflow::StatusCallback& done) const {
    stream_->Flush();
    {
      Arena::Open open;
      if (from->TotalBytes() > 0) {
        std::memcpy(tensorflow::DMAHelper::base(to), tensorflow::DMAHelper::base(from), from->TotalBytes());
      }
    }
    done(absl::OkStatus());
  }

  Stream* const stream_;
};

class FakeDevice : public tensorflow::LocalDevice {
 public:
  FakeDevice(const tensorflow::SessionOptions& options, const tensorflow::DeviceAttributes& attributes, int ordinal)
      : LocalDevice(options, attributes),
        memory_(Arena::Of(ordinal)),
        stream_(stream_executor::PlatformManager::PlatformWithName("Host").value()->ExecutorForDevice(ordinal).value(),
                ordinal),
        context_(&stream_) {
    info_.stream = &stream_;
    info_.default_context = &context_;
    info_.gpu_id = ordinal;
    info_.event_mgr = tensorflow::EventMgrFactory::Singleton()->GetEventMgr(stream_.parent(), {});
    set_tensorflow_accelerator_device_info(&info_);
  }

  Allocator* GetAllocator(AllocatorAttributes attributes) override {
    return attributes.on_host() ? tensorflow::cpu_allocator() : &memory_;
  }
  absl::Status TryGetDeviceContext(tensorflow::DeviceContext** context) override {
    context_.Ref();
    *context = &context_;
    return absl::OkStatus();
  }
  absl::Status MakeTensorFromProto(const tensorflow::TensorProto& proto, const AllocatorAttributes attributes,
                                   Tensor* tensor) override {
    Tensor parsed;
    if (!parsed.FromProto(proto)) return absl::InvalidArgumentError("cannot parse a tensor");
    if (attributes.on_host()) {
      *tensor = parsed;
      return absl::OkStatus();
    }
    *tensor = Tensor(&memory_, parsed.dtype(), parsed.shape());
    Arena::Open open;
    std::memcpy(tensorflow::DMAHelper::base(tensor), tensorflow::DMAHelper::base(&parsed), parsed.TotalBytes());
    return absl::OkStatus();
  }
  // One kernel after the other, as their launches are in a stream: memory that one has freed, and that what it launched
  // still needs, is no other's before that has been done.
  void Compute(OpKernel* kernel, OpKernelContext* context) override {
    const std::lock_guard<std::recursive_mutex> lock(stream_.mutex());
    kernel->Compute(context);
  }
  absl::Status Sync() override {
    stream_.Flush();
    return absl::OkStatus();
  }

 private:
  Arena& memory_;
  Stream stream_;
  Context context_;
  AcceleratorDeviceInfo info_;
};

// A kernel of the CPU, on a fake GPU.
class Delegate : public OpKernel {
 public:
  explicit Delegate(OpKernelConstruction* context) : OpKernel(context) {
    absl::Status status;
    kernel_ = tensorflow::CreateOpKernel(
        tensorflow::DeviceType(tensorflow::DEVICE_CPU), static_cast<Device*>(context->device()),
        context->device()->GetAllocator(AllocatorAttributes()), context->def(), context->graph_def_version(), &status);
    context->SetStatus(status);
  }

  void Compute(OpKernelContext* context) override {
    static_cast<Stream*>(context->op_device_context()->stream())->Flush();
    Arena::Open open;
    kernel_->Compute(context);
  }

 private:
  std::unique_ptr<OpKernel> kernel_;
};

class Factory : public tensorflow::DeviceFactory {
 public:
  absl::Status ListPhysicalDevices(std::vector<std::string>* devices) override {
    for (int i = 0; i < kDevices; ++i) devices->push_back(absl::StrCat("/physical_device:GPU:", i));
    return absl::OkStatus();
  }
  absl::Status GetDeviceDetails(int, std::unordered_map<std::string, std::string>* details) override {
    (*details)["device_name"] = "no GPU, but its stand-in";
    (*details)["compute_capability"] = "9.0";
    return absl::OkStatus();
  }
  absl::Status CreateDevices(const tensorflow::SessionOptions& options, const std::string& prefix,
                             std::vector<std::unique_ptr<Device>>* devices) override {
    for (int i = 0; i < kDevices; ++i) {
      const auto attributes = Device::BuildDeviceAttributes(
          absl::StrCat(prefix, "/device:GPU:", i), tensorflow::DeviceType(tensorflow::DEVICE_GPU),
          tensorflow::Bytes(int64_t{1} << 36), tensorflow::DeviceLocality(), "fake");
      devices->push_back(std::make_unique<FakeDevice>(options, attributes, i));
    }
    return absl::OkStatus();
  }
};

// Ops whose kernels of the GPU call no CUDA, or which are no kernels in this sense.
bool IsLeft(const std::string& op, const std::string& name) {
  static const std::set<std::string> left = {"VarHandleOp",
                                             "ReadVariableOp",
                                             "AssignVariableOp",
                                             "_VarHandlesOp",
                                             "DestroyResourceOp",
                                             "VarIsInitializedOp",
                                             "Identity",
                                             "IdentityN",
                                             "NoOp",
                                             "Const",
                                             "PartitionedCall",
                                             "StatefulPartitionedCall",
                                             "If",
                                             "StatelessIf",
                                             "While",
                                             "StatelessWhile",
                                             "Switch",
                                             "Merge",
                                             "Enter",
                                             "Exit",
                                             "NextIteration",
                                             "LoopCond",
                                             "ControlTrigger",
                                             "SymbolicGradient",
                                             "Placeholder",
                                             "Shape",
                                             "ShapeN",
                                             "Size",
                                             "Rank",
                                             "Reshape",
                                             "ExpandDims",
                                             "Squeeze",
                                             "StopGradient",
                                             "PreventGradient",
                                             "EnsureShape",
                                             "Assert",
                                             "Case",
                                             "StatelessCase",
                                             "RemoteCall"};
  return op[0] == '_' || left.count(op) > 0 || op.rfind("Collective", 0) == 0 || op.rfind("Nccl", 0) == 0 ||
         op.rfind("KerasLegacyOpt", 0) == 0 || name.find("Async") != std::string::npos;
}

// Registers, with a higher priority, a delegate for each kernel of the GPU.
void Delegates() {
  const tensorflow::KernelList all = tensorflow::GetAllRegisteredKernels();
  std::set<std::string> on_cpu;
  for (const auto& kernel : all.kernel()) {
    if (kernel.device_type() == tensorflow::DEVICE_CPU) on_cpu.insert(kernel.op());
  }
  for (const auto& kernel : all.kernel()) {
    if (kernel.device_type() != tensorflow::DEVICE_GPU || on_cpu.count(kernel.op()) == 0) continue;
    if (IsLeft(kernel.op(), "")) continue;
    auto* mine = new tensorflow::KernelDef(kernel);
    mine->set_priority(kernel.priority() + 1);
    tensorflow::kernel_factory::OpKernelRegistrar registrar(
        mine, "Delegate", [](OpKernelConstruction* context) -> OpKernel* { return new Delegate(context); });
  }
}

const bool kRegistered = [] {
  tensorflow::DeviceFactory::Register(tensorflow::DEVICE_GPU, std::make_unique<Factory>(), 500, false);
  Delegates();
  return true;
}();

}  // namespace
