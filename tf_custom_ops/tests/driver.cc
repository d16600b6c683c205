// The host's side of the GPU's kernels, against tests/fake_driver.cc, which is found as the driver would be. With an
// argument, it only asks for a device and expects this text in the reason why there is none.
#include "../gpu/driver.h"

#include <dlfcn.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "../gpu/geometry.h"
#include "check.h"

namespace keras_legacy_opt {
namespace {

using gpu::Device;
using gpu::Kernel;

constexpr int kThreads = 8;

template <class Function>
Function* Fake(const char* name) {
  void* function = dlsym(dlopen("libcuda.so.1", RTLD_NOW), name);
  CHECK(function != nullptr, name);
  return reinterpret_cast<Function*>(function);
}

std::string Calls() { return Fake<const char*()>("fake_cuda_calls")(); }
void* NewStream(int device, bool is_held) { return Fake<void*(int, bool)>("fake_cuda_stream")(device, is_held); }
void RunHeld(void* stream) { Fake<void(void*)>("fake_cuda_run")(stream); }

int CountOf(const std::string& what, const std::string& in) {
  int count = 0;
  for (size_t at = in.find(what); at != std::string::npos; at = in.find(what, at + 1)) ++count;
  return count;
}

bool Contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

// A compiler that needs no time, and its failures.
struct TestCompiler {
  static inline std::atomic<int> calls = 0;
  static inline std::atomic<bool> is_running = false, stays = false;
  static inline std::string says;  // instead of code

  static void Compile(const char* symbol, int capability, int driver, void* to) {
    ++calls;
    is_running = true;
    CHECK(capability == 90 && driver == 12090, capability << ' ' << driver);
    while (stays) std::this_thread::yield();
    const std::string code = says.empty() ? "FAKE sm_90 " + std::string(symbol) + " ." : says;
    if (code == "refuse") {
      keras_legacy_opt_gpu_refuse(to, "it is Sunday");
    } else if (code != "nothing") {
      keras_legacy_opt_gpu_give(to, symbol, code.data(), code.size());
    }
    is_running = false;
  }
};

// For as long as it is there, a function of the driver fails.
struct Failing {
  explicit Failing(const std::string& function) { setenv("FAKE_CUDA_FAIL", (function + "=700").c_str(), 1); }
  ~Failing() { unsetenv("FAKE_CUDA_FAIL"); }
};

Device* DeviceOf(int ordinal) {
  std::string why_not;
  Device* device = Device::Get(ordinal, &why_not);
  CHECK(device != nullptr, why_not);
  return device;
}

const Kernel* KernelOf(Device* device, const char* symbol) {
  std::string why_not;
  const Kernel* kernel = device->Find(symbol, &why_not);
  CHECK(kernel != nullptr, why_not);
  return kernel;
}

// Calls something that takes a reason, and has to succeed.
template <class Call>
void Succeed(Call call) {
  std::string why_not;
  CHECK(call(&why_not), why_not);
}

// A step of gradient descent for two variables, from tables on the device that were uploaded.
struct Step {
  static constexpr int64_t kSizes[] = {gpu::kBlock + 3, 5};
  std::vector<float> memory[4];  // of the device: variables, and gradients
  std::vector<char> tables = std::vector<char>(4096);
  float rate = 0.5f;
  gpu::Launch<float> launch = {};
  int64_t blocks = 0;

  Step() {
    for (int i = 0; i < 4; ++i) memory[i].assign(kSizes[i % 2], i < 2 ? 1.0f : 0.5f);
  }

  // `from` is overwritten as soon as it has been uploaded.
  bool Upload(Device* device, void* stream, std::string* why_not) {
    size_t used = 0;
    const auto put = [&](std::vector<char> from) {
      void* to = tables.data() + used;
      used += from.size();
      const bool is_done = device->Upload(to, from.data(), from.size(), stream, why_not);
      std::fill(from.begin(), from.end(), '\x55');
      return is_done ? to : nullptr;
    };
    const auto bytes = [](const auto* first, size_t count) {
      const char* begin = reinterpret_cast<const char*>(first);
      return std::vector<char>(begin, begin + count * sizeof *first);
    };
    const gpu::Geometry geometry({kSizes[0], kSizes[1]});
    blocks = static_cast<int64_t>(geometry.chunks.size());
    const void* at[] = {memory[0].data(), memory[1].data(), memory[2].data(), memory[3].data()};
    launch.chunks = static_cast<const gpu::Chunk*>(put(bytes(geometry.chunks.data(), geometry.chunks.size())));
    launch.state = static_cast<void* const*>(put(bytes(at, 2)));
    launch.grads = static_cast<const void* const*>(put(bytes(at + 2, 2)));
    launch.hypers[0] = static_cast<const float*>(put(bytes(&rate, 1)));
    return launch.chunks != nullptr && launch.state != nullptr && launch.grads != nullptr &&
           launch.hypers[0] != nullptr;
  }

  bool IsAll(float expected) const {
    for (int i = 0; i < 2; ++i) {
      for (float x : memory[i]) {
        if (x != expected) return false;
      }
    }
    return true;
  }
};

// What a step calls, in its order; nothing else is touched.
void TestCalls() {
  Device* device = DeviceOf(0);
  const Kernel* kernel = KernelOf(device, "Dense_Sgd_float");
  CHECK(device->ordinal() == 0 && device->capability() == 90 && Contains(device->name(), "stand-in"), device->name());
  void* stream = NewStream(0, true);
  Step step;
  Calls();
  Succeed([&](std::string* why_not) { return step.Upload(device, stream, why_not); });
  Calls();
  Succeed([&](std::string* why_not) { return step.Upload(device, stream, why_not); });
  const std::string number = " in " + std::to_string(*static_cast<int*>(stream)) + "\n";
  std::string upload = "cuCtxPushCurrent_v2 0\ncuEventQuery\ncuMemHostAlloc 4096 1\ncuEventCreate\ncuMemcpyAsync ";
  std::string expected;
  for (size_t size : {3 * sizeof(gpu::Chunk), 2 * sizeof(void*), 2 * sizeof(void*), sizeof(float)}) {
    expected += upload + std::to_string(size) + number + "cuEventRecord" + number + "cuCtxPopCurrent_v2\n";
  }
  std::string got = Calls();
  CHECK(got == expected, got);
  Succeed([&](std::string* why_not) { return device->Run(kernel, step.blocks, step.launch, stream, why_not); });
  got = Calls();
  CHECK(got == "cuCtxPushCurrent_v2 0\ncuLaunchKernel Dense_Sgd_float 3 x 256" + number + "cuCtxPopCurrent_v2\n", got);
  step.launch = {};
  CHECK(step.IsAll(1), "it ran already");
  RunHeld(stream);
  CHECK(step.IsAll(0.75f), step.memory[0][0]);
  // What was uploaded has arrived: its memory is used again.
  Succeed([&](std::string* why_not) { return step.Upload(device, stream, why_not); });
  CHECK(!Contains(Calls(), "cuMemHostAlloc"), "pinned memory is not used again");
  RunHeld(stream);
}

void TestMemory() {
  Device* device = DeviceOf(0);
  void* stream = NewStream(0, true);
  std::string why_not;
  std::vector<char> memory(100, 1);
  {
    const auto pinned = device->Pin(100, &why_not);
    const auto event = device->NewEvent(&why_not);
    CHECK(pinned != nullptr && event != nullptr && pinned->size() == 100, why_not);
    bool is_done = false;
    CHECK(event->Query(&is_done, &why_not) && is_done, "no event was recorded: " << why_not);
    CHECK(device->Fill(memory.data(), 7, 100, stream, &why_not), why_not);
    CHECK(device->Copy(pinned->data(), memory.data(), 100, stream, &why_not), why_not);
    CHECK(event->Record(stream, &why_not), why_not);
    CHECK(event->Query(&is_done, &why_not) && !is_done && memory[0] == 1, "nobody waits");
    RunHeld(stream);
    CHECK(event->Query(&is_done, &why_not) && is_done && static_cast<char*>(pinned->data())[99] == 7, why_not);
    Calls();
  }
  CHECK(Contains(Calls(), "cuEventDestroy_v2\n") && why_not.empty(), why_not);
  Calls();
  CHECK(device->Fill(nullptr, 0, 0, stream, &why_not) && device->Copy(nullptr, nullptr, 0, stream, &why_not) &&
            device->Upload(nullptr, nullptr, 0, stream, &why_not) && Calls().empty(),
        "of nothing, nothing is to be done");
  // Sizes that are no power of two, and large ones.
  for (size_t size : {4096, 4097, 1 << 20, (1 << 20) + 1}) {
    std::vector<char> from(size, 'x'), to(size + 1);
    Succeed([&](std::string* why) { return device->Upload(to.data(), from.data(), size, nullptr, why); });
    from.push_back(0);
    CHECK(to == from, size);
  }
}

// Each has its context, and its modules; that of the caller stays.
void TestDevices() {
  Device *first = DeviceOf(0), *second = DeviceOf(1);
  std::string why_not;
  CHECK(first != second && DeviceOf(1) == second && second->ordinal() == 1, "");
  void* streams[] = {NewStream(0, false), NewStream(1, false)};
  CHECK(Device::Of(streams[0], &why_not) == first && Device::Of(streams[1], &why_not) == second, why_not);
  Calls();
  const Kernel *one = KernelOf(first, "Finite_float"), *other = KernelOf(second, "Finite_float");
  CHECK(one != other && KernelOf(second, "Finite_float") == other, "");
  const std::string got = Calls(), loads = "cuModuleLoadData\ncuModuleGetFunction Finite_float\ncuCtxPopCurrent_v2\n";
  CHECK(got == "cuCtxPushCurrent_v2 0\n" + loads + "cuCtxPushCurrent_v2 1\n" + loads, got);
  gpu::FiniteLaunch launch = {};
  CHECK(!first->Run(other, 1, launch, streams[0], &why_not) && Contains(why_not, "another device"), why_not);
  CHECK(!first->Run(one, 1, launch, streams[1], &why_not) && Contains(why_not, "invalid resource handle"), why_not);
  CHECK(Device::Of(NewStream(4, false), &why_not) == nullptr && Contains(why_not, "primary context of GPU 0"), why_not);
  CHECK(Device::Of(nullptr, &why_not) == nullptr && Contains(why_not, "cuStreamGetCtx fails"), why_not);
  for (int ordinal : {-1, 2}) {
    CHECK(Device::Get(ordinal, &why_not) == nullptr && Contains(why_not, "(there are 2)"), why_not);
  }
  size_t depth;
  CHECK(Fake<int(size_t*)>("fake_cuda_current")(&depth) == -1 && depth == 0, "a context was left behind: " << depth);
}

void TestBlocks() {
  Device* device = DeviceOf(0);
  const Kernel* kernel = KernelOf(device, "Finite_float");
  std::string why_not;
  Calls();
  CHECK(device->Run(kernel, 0, gpu::FiniteLaunch{}, nullptr, &why_not) && Calls().empty(), why_not);
  for (int64_t blocks : {int64_t{-1}, int64_t{1} << 31}) {
    CHECK(!device->Run(kernel, blocks, gpu::FiniteLaunch{}, nullptr, &why_not), blocks);
    CHECK(Contains(why_not, "cannot run in " + std::to_string(blocks) + " blocks"), why_not);
  }
}

// Every function of the driver may fail: that is told, the contexts are as before, and later it works.
void TestErrors() {
  const std::vector<const char*> functions = {"cuDeviceGetCount",
                                              "cuDeviceGet",
                                              "cuDeviceGetName",
                                              "cuDeviceGetAttribute",
                                              "cuDevicePrimaryCtxRetain",
                                              "cuCtxPushCurrent_v2",
                                              "cuModuleLoadData",
                                              "cuModuleGetFunction",
                                              "cuMemHostAlloc",
                                              "cuEventCreate",
                                              "cuMemcpyAsync",
                                              "cuEventRecord",
                                              "cuEventQuery",
                                              "cuLaunchKernel"};
  constexpr int kNew = 2;  // a device that nobody has asked for yet
  void* stream = NewStream(kNew, true);
  Step step;
  const auto all = [&](std::string* why_not) {
    Device* device = Device::Get(kNew, why_not);
    if (device == nullptr) return false;
    const Kernel* kernel = device->Find("Dense_Sgd_float", why_not);
    return kernel != nullptr && step.Upload(device, stream, why_not) &&
           device->Run(kernel, step.blocks, step.launch, stream, why_not);
  };
  setenv("FAKE_CUDA_DEVICES", "3", 1);
  for (const char* function : functions) {
    std::string why_not;
    {
      const Failing failing(function);
      CHECK(!all(&why_not), function);
    }
    CHECK(why_not == std::string(function) + " fails: an illegal memory access was encountered (700)", why_not);
    size_t depth;
    Fake<int(size_t*)>("fake_cuda_current")(&depth);
    CHECK(depth == 0, function);
  }
  Succeed(all);
  RunHeld(stream);
  CHECK(Contains(Calls(), "cuMemFreeHost"), "pinned memory without an event is not released");
  std::string why_not;
  Device* device = DeviceOf(kNew);
  {
    const Failing failing("cuMemsetD8Async");
    CHECK(!device->Fill(&step, 0, 1, stream, &why_not) && Contains(why_not, "cuMemsetD8Async"), why_not);
  }
  const auto event = device->NewEvent(&why_not);
  const Failing failing("cuEventQuery");
  bool is_done;
  CHECK(!event->Query(&is_done, &why_not) && Contains(why_not, "cuEventQuery fails"), why_not);
}

// What goes wrong with the code of a kernel; it is asked for again.
void TestCode() {
  Device* device = DeviceOf(0);
  std::string why_not;
  const std::pair<const char*, const char*> cases[] = {
      {"refuse", "it is Sunday"},
      {"nothing", "the compiler of Unknown says nothing"},
      {"FAKE sm_90 Unknown", "cuModuleLoadData fails: device kernel image is invalid (200)"},
      {"FAKE sm_80 Unknown .", "no kernel image is available"},
      {"FAKE sm_90 Another .", "cuModuleGetFunction fails: named symbol not found (500)"},
  };
  for (const auto& [says, reason] : cases) {
    TestCompiler::says = says;
    const int before = TestCompiler::calls;
    CHECK(device->Find("Unknown", &why_not) == nullptr && Contains(why_not, reason), why_not);
    CHECK(TestCompiler::calls == before + 1, "");
  }
  TestCompiler::says = "";
  keras_legacy_opt_gpu_set_compiler(nullptr);
  CHECK(device->Find("Dense_Sgd_half", &why_not) == nullptr && Contains(why_not, "nobody is there to compile"),
        why_not);
  KernelOf(device, "Dense_Sgd_float");  // which is there
  keras_legacy_opt_gpu_set_compiler(&TestCompiler::Compile);
  char reason[10] = "unchanged";
  CHECK(keras_legacy_opt_gpu_find(0, "Finite_float", reason, sizeof reason) && std::string(reason) == "unchanged", "");
  CHECK(keras_legacy_opt_gpu_find(1, nullptr, nullptr, 0) == 1, "");
  CHECK(!keras_legacy_opt_gpu_find(7, nullptr, reason, sizeof reason) && std::string(reason) == "there is ", reason);
}

template <class Work>
void InThreads(Work work) {
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) threads.emplace_back(work, i);
  for (std::thread& thread : threads) thread.join();
}

// Many at once, at first need; each kernel is compiled and loaded once for each device.
void TestThreads() {
  std::atomic<const Kernel*> found[2] = {};
  InThreads([&](int i) {
    std::string why_not;
    void* stream = NewStream(i % 2, false);
    Device* device = Device::Of(stream, &why_not);
    CHECK(device != nullptr && device->ordinal() == i % 2, why_not);
    const Kernel* kernel = KernelOf(device, "Dense_Sgd_float");
    const Kernel* before = found[i % 2].exchange(kernel);
    CHECK(before == nullptr || before == kernel, "the same kernel twice");
    for (int k = 0; k < 20; ++k) {
      Step step;
      Succeed([&](std::string* why) {
        return step.Upload(device, stream, why) && device->Run(kernel, step.blocks, step.launch, stream, why);
      });
      CHECK(step.IsAll(0.75f), step.memory[0][0]);
    }
  });
  CHECK(TestCompiler::calls == 2 && CountOf("cuModuleLoadData\n", Calls()) == 2, TestCompiler::calls);
}

// Who takes the compiler away waits until it is not running any more.
void TestEnd() {
  TestCompiler::stays = true;
  std::atomic<bool> is_over = false;
  std::thread step([] {
    std::string why_not;
    CHECK(DeviceOf(1)->Find("Sought", &why_not) == nullptr && Contains(why_not, "cuModuleGetFunction"), why_not);
  });
  while (!TestCompiler::is_running) std::this_thread::yield();
  std::thread end([&] {
    keras_legacy_opt_gpu_set_compiler(nullptr);
    CHECK(!TestCompiler::is_running, "it is running still");
    is_over = true;
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  CHECK(!is_over, "nobody waited");
  TestCompiler::stays = false;
  end.join();
  step.join();
  keras_legacy_opt_gpu_set_compiler(&TestCompiler::Compile);
}

}  // namespace
}  // namespace keras_legacy_opt

int main(int count, char** arguments) {
  using namespace keras_legacy_opt;
  if (count > 1) {
    std::string why_not;
    CHECK(gpu::Device::Get(0, &why_not) == nullptr && Contains(why_not, arguments[1]), why_not);
    CHECK(gpu::Device::Get(0, &why_not) == nullptr && Contains(why_not, arguments[1]), why_not);
    return 0;
  }
  setenv("FAKE_CUDA_DEVICES", "2", 1);
  keras_legacy_opt_gpu_set_compiler(&TestCompiler::Compile);
  TestThreads();  // first, when nothing is loaded
  TestEnd();
  TestCalls();
  TestMemory();
  TestDevices();
  TestBlocks();
  TestErrors();
  TestCode();
  std::printf("%d checks passed\n", Checks());
}
