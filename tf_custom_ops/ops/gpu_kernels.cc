#include "gpu_kernels.h"

#ifdef KLO_GPU

#include <algorithm>
#include <cstring>
#include <limits>
#include <map>
#include <set>
#include <utility>

#include "xla/stream_executor/stream.h"

namespace keras_legacy_opt {
namespace gpu {

using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;

std::string NameOf(tensorflow::DataType dtype) {
  return dtype == tensorflow::DT_DOUBLE ? "double" : tensorflow::DataTypeString(dtype);
}

void* DataOf(const Tensor& tensor) { return const_cast<char*>(tensor.tensor_data().data()); }

absl::Status Allocate(OpKernelContext* context, int64_t bytes, Tensor* tensor) {
  return context->allocate_temp(tensorflow::DT_UINT8, tensorflow::TensorShape({bytes}), tensor);
}

namespace {

constexpr const char* kPrefix = "KerasLegacyOpt";

// The symbols of an op's kernels: jobs, of the formula of an op that is called `prefix` and its name.
std::vector<std::string> SymbolsOf(const std::string& op, const std::string& prefix, tensorflow::DataType dtype,
                                   const std::vector<std::string>& jobs) {
  const std::string formula = op.substr(std::min(op.size(), prefix.size()));
  std::vector<std::string> symbols;
  for (const std::string& job : jobs) symbols.push_back(job + "_" + formula + "_" + NameOf(dtype));
  return symbols;
}

// What of a launch is inputs of the op.
template <class Inputs>
AnyLaunch LaunchOf(OpKernelContext* context, const Inputs& inputs, int hypers) {
  const auto data = [context](int input) -> const void* { return input < 0 ? nullptr : DataOf(context->input(input)); };
  AnyLaunch launch = {};
  for (int i = 0; i < hypers; ++i) launch.hypers[i] = data(inputs.hypers + i);
  launch.transform = data(inputs.transform);
  launch.condition = static_cast<const bool*>(data(inputs.condition));
  launch.per_variable = data(inputs.per_variable);
  launch.average_weight = data(inputs.average_weight);
  launch.transform_of_each = inputs.transform_of_each;
  launch.per_variable_of_each = inputs.per_variable_of_each;
  return launch;
}

}  // namespace

absl::Status Queue::StatusOf(bool is_done, const std::string& why) {
  if (is_done) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("keras_legacy_opt cannot use the GPU: ", why, "."));
}

absl::Status Queue::Open(OpKernelContext* context) {
  const tensorflow::DeviceContext* on = context->op_device_context();
  if (on == nullptr || on->stream() == nullptr) {
    return absl::InternalError(absl::StrCat(context->device()->name(), " has no stream for kernels."));
  }
  stream_ = on->stream()->platform_specific_handle().stream;
  std::string why;
  device_ = Device::Of(stream_, &why);
  return StatusOf(device_ != nullptr, why);
}

absl::Status Queue::Upload(void* to, const void* from, size_t size) const {
  std::string why;
  return StatusOf(device_->Upload(to, from, size, stream_, &why), why);
}

absl::Status Queue::Copy(void* to, const void* from, size_t size) const {
  std::string why;
  return StatusOf(device_->Copy(to, from, size, stream_, &why), why);
}

absl::Status Queue::Fill(void* to, unsigned char byte, size_t size) const {
  std::string why;
  return StatusOf(device_->Fill(to, byte, size, stream_, &why), why);
}

absl::Status Tables::Get(OpKernelContext* context, const Queue& queue, const Bytes& key,
                         const std::function<Bytes(Table*)>& content, Table* table) {
  std::lock_guard<std::mutex> lock(mutex_);
  const auto known = std::find_if(entries_.begin(), entries_.end(), [&](const Entry& entry) {
    return entry.stream == queue.stream() && entry.key == key;
  });
  if (known != entries_.end()) {
    entries_.splice(entries_.begin(), entries_, known);
    *table = known->table;
    return absl::OkStatus();
  }
  const Bytes bytes = content(table);
  KLO_RETURN_IF_ERROR(Allocate(context, static_cast<int64_t>(bytes.size()), &table->memory));
  KLO_RETURN_IF_ERROR(queue.Upload(DataOf(table->memory), bytes.data(), bytes.size()));
  // The memory of one that goes is used again behind what is in the stream, as that of every tensor.
  if (entries_.size() == kKept) entries_.pop_back();
  entries_.push_front({queue.stream(), key, *table});
  return absl::OkStatus();
}

absl::Status Tables::Get(OpKernelContext* context, const Queue& queue, const Bytes& addresses, Table* table) {
  return Get(context, queue, addresses, [&](Table*) { return addresses; }, table);
}

absl::Status Tables::Get(OpKernelContext* context, const Queue& queue, const std::vector<int64_t>& sizes, Table* table,
                         bool with_empty) {
  const auto content = [&](Table* made) {
    const auto geometry = std::make_shared<const Geometry>(sizes, with_empty);
    made->geometry = geometry;
    Bytes bytes = BytesOf(geometry->chunks);
    Append(geometry->first, &bytes);
    return bytes;
  };
  return Get(context, queue, BytesOf(sizes), content, table);
}

absl::Status Kernels::Find(const Queue& queue, std::vector<const Kernel*>* kernels) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (device_ != queue.device()) {
    std::vector<const Kernel*> found;
    for (const std::string& symbol : symbols_) {
      std::string why;
      const Kernel* kernel = queue.device()->Find(symbol, &why);
      if (kernel == nullptr) {
        return absl::InternalError(absl::StrCat("keras_legacy_opt has no kernel ", symbol, " for the GPU: ", why, "."));
      }
      found.push_back(kernel);
    }
    found_ = std::move(found);
    device_ = queue.device();
  }
  *kernels = found_;
  return absl::OkStatus();
}

DenseKernel::DenseKernel(OpKernelConstruction* context, const FormulaSpec& spec, State state)
    : DenseUpdate(context, spec.shape, state),
      spec_(spec),
      kernels_(SymbolsOf(
          type_string(), absl::StrCat(kPrefix, state == State::kGroup ? "Group" : ""), dtype_,
          spec.has_norms ? std::vector<std::string>{"Direct", "Scale", "Move"} : std::vector<std::string>{"Dense"})) {}

void DenseKernel::Compute(OpKernelContext* context) { OP_REQUIRES_OK(context, Apply(context)); }

absl::Status DenseKernel::Apply(OpKernelContext* context) {
  ScalarInputs inputs;
  KLO_RETURN_IF_ERROR(FindScalars(context, first_scalar(), count_, &inputs));
  Queue queue;
  KLO_RETURN_IF_ERROR(queue.Open(context));
  std::vector<const Kernel*> kernels;
  KLO_RETURN_IF_ERROR(kernels_.Find(queue, &kernels));  // before anything is locked: it may compile
  Variables variables;
  Work work;
  KLO_RETURN_IF_ERROR(Prepare(context, inputs.averages, &variables, &work));

  Table chunks, pointers;
  KLO_RETURN_IF_ERROR(geometries_.Get(context, queue, work.sizes, &chunks));
  std::string addresses = BytesOf(work.state);
  Append(work.grads, &addresses);
  KLO_RETURN_IF_ERROR(pointers_.Get(context, queue, addresses, &pointers));
  const Geometry& geometry = *chunks.geometry;

  AnyLaunch launch = LaunchOf(context, inputs, shape_.hypers);
  launch.chunks = static_cast<const Chunk*>(DataOf(chunks.memory));
  launch.first = reinterpret_cast<const int64_t*>(launch.chunks + geometry.chunks.size());
  launch.state = static_cast<void* const*>(DataOf(pointers.memory));
  launch.grads = launch.state + work.state.size();
  Tensor memory;  // Nothing is launched before all there has to be is there.
  if (spec_.has_norms) {
    const int64_t squares = static_cast<int64_t>(geometry.chunks.size() * sizeof(Squares));
    KLO_RETURN_IF_ERROR(Allocate(context, squares + count_ * size_of_scale(), &memory));
    launch.squares = static_cast<Squares*>(DataOf(memory));
    launch.scales = launch.squares + geometry.chunks.size();
  }
  if (!variables.Repeats(count_)) return Update(queue, kernels, geometry, launch, 0, count_);
  // The same variable twice is updated twice, one after the other.
  for (int i = 0; i < count_; ++i) KLO_RETURN_IF_ERROR(Update(queue, kernels, geometry, launch, i, i + 1));
  return absl::OkStatus();
}

absl::Status DenseKernel::Update(const Queue& queue, const std::vector<const Kernel*>& kernels,
                                 const Geometry& geometry, AnyLaunch launch, int first, int last) const {
  const int64_t begin = geometry.first[first], blocks = geometry.first[last] - begin;
  launch.chunks += begin;
  if (!spec_.has_norms) return queue.Run(kernels[0], blocks, launch);

  Squares* const all = launch.squares;
  launch.squares += begin;
  KLO_RETURN_IF_ERROR(queue.Run(kernels[0], blocks, launch));
  // A block for each variable, which it finds by the number of the block.
  AnyLaunch scale = launch;
  scale.state += int64_t{first} * tensors();
  scale.first += first;
  scale.squares = all;
  scale.scales = static_cast<char*>(launch.scales) + first * size_of_scale();
  if (launch.per_variable_of_each) {
    scale.per_variable = static_cast<const char*>(launch.per_variable) + 2 * first * size_of_scale();
  }
  KLO_RETURN_IF_ERROR(queue.Run(kernels[1], last - first, scale));
  return queue.Run(kernels[2], blocks, launch);
}

// Those of all ops, and what ops have left that are gone.
struct Reports::All {
  std::mutex mutex;
  std::set<Reports*> reports;
  Taken left;

  static All& Get() {
    static All& all = *new All;
    return all;
  }
};

Reports::Reports() {
  All& all = All::Get();
  std::lock_guard<std::mutex> lock(all.mutex);
  all.reports.insert(this);
}

Reports::~Reports() {
  All& all = All::Get();
  std::lock_guard<std::mutex> lock(all.mutex);
  all.reports.erase(this);
  all.left.splice(all.left.end(), running_);
}

absl::Status Reports::Next(const tensorflow::Var* variable) {
  std::lock_guard<std::mutex> lock(mutex_);
  return NextOf(variable, &running_, &idle_);
}

absl::Status Reports::NextOfAll() {
  All& all = All::Get();
  std::lock_guard<std::mutex> lock(all.mutex);
  Taken done;
  KLO_RETURN_IF_ERROR(NextOf(nullptr, &all.left, &done));
  for (Reports* reports : all.reports) KLO_RETURN_IF_ERROR(reports->Next(nullptr));
  return absl::OkStatus();
}

absl::Status Reports::NextOf(const tensorflow::Var* variable, Taken* running, Taken* idle) {
  for (auto next = running->begin(); next != running->end();) {
    const auto report = next++;
    bool is_done = false;
    std::string why;
    if (!report->event->Query(&is_done, &why)) {
      return absl::InternalError(absl::StrCat("The GPU failed in a step before: ", why, "."));
    }
    if (!is_done) return absl::OkStatus();  // Nor are those behind it.
    const int32_t word = *static_cast<const int32_t*>(report->word->data());
    absl::Status error = absl::OkStatus();
    if (word != 0) {
      const auto updated = report->variable.GetNewRef();
      if (variable != nullptr && updated != nullptr && updated.get() != variable) continue;  // It waits for a step.
      if (variable == nullptr || updated != nullptr) {
        const char* const end = variable == nullptr ? "." : ", nor does this one.";
        error = absl::InvalidArgumentError(absl::StrCat(report->mistake(word), end));
      }
    }
    report->mistake = nullptr;
    idle->splice(idle->begin(), *running, report);
    KLO_RETURN_IF_ERROR(error);
  }
  return absl::OkStatus();
}

absl::Status Reports::Take(const Queue& queue, Taken* report) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (!idle_.empty()) {
    report->splice(report->begin(), idle_, idle_.begin());
    return absl::OkStatus();
  }
  Report& made = report->emplace_front();
  std::string why;
  made.word = queue.device()->Pin(sizeof(int32_t), &why);
  if (made.word != nullptr) made.event = queue.device()->NewEvent(&why);
  return Queue::StatusOf(made.event != nullptr, why);
}

absl::Status Reports::Read(const Queue& queue, const int32_t* word, Taken* report) {
  std::lock_guard<std::mutex> lock(mutex_);
  KLO_RETURN_IF_ERROR(queue.Copy(report->front().word->data(), word, sizeof *word));
  std::string why;
  KLO_RETURN_IF_ERROR(Queue::StatusOf(report->front().event->Record(queue.stream(), &why), why));
  running_.splice(running_.end(), *report);
  return absl::OkStatus();
}

namespace {

// The numbers of a sparse op's kernels; behind those of its formula comes the one of averages.
enum SparseJob { kMakeKeys, kCountDigits, kScan, kSortDigit, kCountHeads, kWriteHeads, kOwn };

std::vector<std::string> SparseSymbols(const std::string& op, const FormulaSpec& spec, tensorflow::DataType dtype,
                                       bool averages) {
  std::vector<std::string> symbols = {"Rows_MakeKeys",  "Rows_CountDigits", "Rows_Scan",
                                      "Rows_SortDigit", "Rows_CountHeads",  "Rows_WriteHeads"};
  const std::vector<std::string> jobs = spec.has_norms
                                            ? std::vector<std::string>{"SparseDirect", "SparseScale", "SparseMove"}
                                            : std::vector<std::string>{"Sparse"};
  const std::vector<std::string> own = SymbolsOf(op, absl::StrCat(kPrefix, "Sparse"), dtype, jobs);
  symbols.insert(symbols.end(), own.begin(), own.end());
  if (averages) symbols.push_back("Average_" + NameOf(dtype));
  return symbols;
}

}  // namespace

SparseKernel::SparseKernel(OpKernelConstruction* context, const FormulaSpec& spec)
    : SparseUpdate(context, spec.shape),
      spec_(spec),
      kernels_(SparseSymbols(type_string(), spec, dtype_, average_weights_)) {}

void SparseKernel::Compute(OpKernelContext* context) { OP_REQUIRES_OK(context, Apply(context)); }

// What a step needs and nobody reads after it, in one piece.
struct SparseKernel::Memory {
  explicit Memory(const RowGeometry& geometry, int64_t indices) {
    keys = Take(indices * sizeof(uint64_t));
    sorted = Take(indices * sizeof(uint64_t));
    squares = Take(geometry.blocks * sizeof(Squares));
    scale = Take(sizeof(double));
    counts = Take((int64_t{kDigits} * geometry.tiles + 1) * sizeof(uint32_t));
    heads = Take((indices + 1) * sizeof(uint32_t));
    head_count = Take(sizeof(uint32_t));
    refusal = Take(sizeof(int32_t));
  }

  template <class T>
  T* At(int64_t offset) const {
    return reinterpret_cast<T*>(static_cast<char*>(DataOf(tensor)) + offset);
  }

  int64_t size = 0, keys, sorted, squares, scale, counts, heads, head_count, refusal;
  Tensor tensor;

 private:
  int64_t Take(int64_t bytes) {
    const int64_t offset = size;
    size += (bytes + 15) / 16 * 16;
    return offset;
  }
};

absl::Status SparseKernel::FindRows(const Queue& queue, const std::vector<const Kernel*>& kernels,
                                    const RowGeometry& geometry, Rows* rows) const {
  const auto run = [&](SparseJob job, bool is_one) {
    return queue.Run(kernels[job], is_one ? 1 : geometry.tiles, *rows);
  };
  KLO_RETURN_IF_ERROR(queue.Fill(rows->refusal, 0, sizeof *rows->refusal));
  KLO_RETURN_IF_ERROR(run(kMakeKeys, false));
  for (int pass = 0; pass < geometry.passes; ++pass, rows->shift += kDigitBits) {
    KLO_RETURN_IF_ERROR(run(kCountDigits, false));
    KLO_RETURN_IF_ERROR(run(kScan, true));
    KLO_RETURN_IF_ERROR(run(kSortDigit, false));
    std::swap(rows->keys, rows->sorted);
  }
  rows->counted = 1;
  KLO_RETURN_IF_ERROR(run(kCountHeads, false));
  KLO_RETURN_IF_ERROR(run(kScan, true));
  return run(kWriteHeads, false);
}

absl::Status SparseKernel::Update(const Queue& queue, const std::vector<const Kernel*>& kernels,
                                  const RowGeometry& geometry, int64_t average_blocks,
                                  const AnySparseLaunch& launch) const {
  if (launch.width == 0 && spec_.has_norms) return absl::OkStatus();  // Scalar slots stay as they are, too.
  KLO_RETURN_IF_ERROR(queue.Run(kernels[kOwn], geometry.blocks, launch));
  if (spec_.has_norms) {
    KLO_RETURN_IF_ERROR(queue.Run(kernels[kOwn + 1], 1, launch));
    KLO_RETURN_IF_ERROR(queue.Run(kernels[kOwn + 2], geometry.blocks, launch));
  }
  if (!average_weights_) return absl::OkStatus();
  return queue.Run(kernels.back(), average_blocks, launch);
}

absl::Status SparseKernel::Apply(OpKernelContext* context) {
  ScalarInputs inputs;
  KLO_RETURN_IF_ERROR(FindScalars(context, first_scalar(), 1, &inputs));
  Queue queue;
  KLO_RETURN_IF_ERROR(queue.Open(context));
  std::vector<const Kernel*> kernels;
  KLO_RETURN_IF_ERROR(kernels_.Find(queue, &kernels));
  Variables variables;
  Table table;
  KLO_RETURN_IF_ERROR(LookUp(context, inputs.averages, spec_.idle_rows || spec_.has_norms, &variables, &table));
  KLO_RETURN_IF_ERROR(reports_.Next(variables.Resource(0)));
  const Tensor& indices = IndicesOf(context);
  const int64_t count = indices.NumElements();
  const bool are_rows_countable = table.rows <= int64_t{1} << 32 || table.width == 0;
  if (!are_rows_countable || count > std::numeric_limits<int32_t>::max() - kTile) {
    return absl::InvalidArgumentError(absl::StrCat("Variable '", table.name, "' has ", table.rows,
                                                   " rows, and its sparse gradient ", count,
                                                   ": on a GPU at most 2^32 and 2^31 are possible."));
  }
  std::vector<void*> addresses;
  KLO_RETURN_IF_ERROR(Prepare(context, &variables, &addresses));

  const RowGeometry geometry(count, table.rows, table.width, spec_.idle_rows, spec_.has_norms);
  Memory memory(geometry, count);
  KLO_RETURN_IF_ERROR(Allocate(context, memory.size, &memory.tensor));
  addresses.push_back(DataOf(Grad(context)));
  gpu::Table pointers, chunks;
  KLO_RETURN_IF_ERROR(pointers_.Get(context, queue, BytesOf(addresses), &pointers));
  const std::vector<int64_t> sizes = {table.rows * table.width};
  if (average_weights_) KLO_RETURN_IF_ERROR(geometries_.Get(context, queue, sizes, &chunks));
  // Nothing is launched before all there has to be is there.
  Reports::Taken report;
  KLO_RETURN_IF_ERROR(reports_.Take(queue, &report));
  report.front().variable = tensorflow::core::WeakPtr<tensorflow::Var>(variables.Resource(0));
  report.front().mistake = [op = type_string(), table](int32_t word) {
    const std::string what = word < 0
                                 ? absl::StrCat(op, " refused its scalars")
                                 : absl::StrCat("its index at position ", word - 1, " is not in [0, ", table.rows, ")");
    return absl::StrCat("The sparse gradient of variable '", table.name,
                        "' in an earlier step, which the GPU has run meanwhile: ", what,
                        ". That step did not change the variable");
  };

  AnySparseLaunch launch = {};
  launch.all = LaunchOf(context, inputs, shape_.hypers);
  launch.all.state = static_cast<void* const*>(DataOf(pointers.memory));
  launch.all.grads = launch.all.state + addresses.size() - 1;
  if (average_weights_) launch.all.chunks = static_cast<const Chunk*>(DataOf(chunks.memory));
  launch.all.squares = memory.At<Squares>(memory.squares);
  launch.all.scales = memory.At<void>(memory.scale);
  launch.width = table.width;
  launch.lines = geometry.lines;
  launch.lines_of_block = geometry.lines_of_block;
  launch.average = shape_.slots + 1 - shape_.scalar_slots;
  launch.rows = {DataOf(indices),
                 static_cast<int32_t>(count),
                 indices.dtype() == tensorflow::DT_INT64,
                 table.rows,
                 memory.At<uint64_t>(memory.keys),
                 memory.At<uint64_t>(memory.sorted),
                 0,
                 geometry.tiles,
                 kDigits,
                 memory.At<uint32_t>(memory.counts),
                 memory.At<uint32_t>(memory.heads),
                 memory.At<uint32_t>(memory.head_count),
                 memory.At<int32_t>(memory.refusal),
                 launch.all.condition};
  KLO_RETURN_IF_ERROR(FindRows(queue, kernels, geometry, &launch.rows));
  const int64_t average_blocks = average_weights_ ? static_cast<int64_t>(chunks.geometry->chunks.size()) : 0;
  KLO_RETURN_IF_ERROR(Update(queue, kernels, geometry, average_blocks, launch));
  return reports_.Read(queue, launch.rows.refusal, &report);
}

absl::Status CopyTensor(OpKernelContext* context, Tensor* tensor) {
  Queue queue;
  KLO_RETURN_IF_ERROR(queue.Open(context));
  Tensor copy;
  KLO_RETURN_IF_ERROR(context->allocate_temp(tensor->dtype(), tensor->shape(), &copy));
  if (tensor->TotalBytes() > 0) KLO_RETURN_IF_ERROR(queue.Copy(DataOf(copy), DataOf(*tensor), tensor->TotalBytes()));
  *tensor = copy;
  return absl::OkStatus();
}

void Register(const std::string& op, const std::vector<std::string>& on_host,
              tensorflow::OpKernel* (*create)(OpKernelConstruction*)) {
  for (tensorflow::DataType dtype :
       {tensorflow::DT_FLOAT, tensorflow::DT_DOUBLE, tensorflow::DT_HALF, tensorflow::DT_BFLOAT16}) {
    const tensorflow::DataType computed = dtype == tensorflow::DT_DOUBLE ? dtype : tensorflow::DT_FLOAT;
    tensorflow::KernelDefBuilder builder(op.c_str());
    builder.Device(tensorflow::DEVICE_GPU).TypeConstraint("T", dtype).TypeConstraint("U", computed);
    for (const std::string& name : on_host) builder.HostMemory(name.c_str());
    compat::RegisterKernel(builder.Build(), op, create);
  }
}

// The check of all gradients of a step, see ops/all_finite.cc.
class AllFiniteKernel : public tensorflow::OpKernel {
 public:
  explicit AllFiniteKernel(OpKernelConstruction* context) : OpKernel(context) {}

  void Compute(OpKernelContext* context) override { OP_REQUIRES_OK(context, Judge(context)); }

 private:
  // A dtype of some inputs.
  struct Part {
    std::vector<const void*> tensors;
    std::vector<int64_t> sizes;
  };

  absl::Status Judge(OpKernelContext* context) {
    const int count = context->num_inputs() - 1;
    const Tensor& factor = context->input(count);
    if (factor.NumElements() != 1) {
      return absl::InvalidArgumentError("The factor of KerasLegacyOptAllFinite must be a scalar.");
    }
    Queue queue;
    KLO_RETURN_IF_ERROR(queue.Open(context));
    Tensor* result;
    KLO_RETURN_IF_ERROR(context->allocate_output(0, tensorflow::TensorShape({}), &result));
    KLO_RETURN_IF_ERROR(queue.Fill(DataOf(*result), 1, sizeof(bool)));
    std::map<tensorflow::DataType, Part> parts;
    for (int i = 0; i < count; ++i) {
      Part& part = parts[context->input(i).dtype()];
      part.tensors.push_back(DataOf(context->input(i)));
      part.sizes.push_back(context->input(i).NumElements());
    }
    for (const auto& [dtype, part] : parts) {
      FiniteLaunch launch = {};
      launch.factor = static_cast<const float*>(DataOf(factor));
      launch.finite = static_cast<bool*>(DataOf(*result));
      KLO_RETURN_IF_ERROR(Launch(context, queue, dtype, part, launch));
    }
    return absl::OkStatus();
  }

  absl::Status Launch(OpKernelContext* context, const Queue& queue, tensorflow::DataType dtype, const Part& part,
                      FiniteLaunch launch) {
    std::string why;
    const Kernel* kernel = queue.device()->Find("Finite_" + NameOf(dtype), &why);
    if (kernel == nullptr) return absl::InternalError(absl::StrCat("There is no kernel for the GPU: ", why, "."));
    Table chunks, pointers;
    KLO_RETURN_IF_ERROR(geometries_.Get(context, queue, part.sizes, &chunks));
    KLO_RETURN_IF_ERROR(pointers_.Get(context, queue, BytesOf(part.tensors), &pointers));
    launch.chunks = static_cast<const Chunk*>(DataOf(chunks.memory));
    launch.tensors = static_cast<const void* const*>(DataOf(pointers.memory));
    return queue.Run(kernel, static_cast<int64_t>(chunks.geometry->chunks.size()), launch);
  }

  Tables geometries_, pointers_;
};

REGISTER_KERNEL_BUILDER(Name("KerasLegacyOptAllFinite").Device(tensorflow::DEVICE_GPU), AllFiniteKernel);

}  // namespace gpu
}  // namespace keras_legacy_opt

// The first mistake of a step on a GPU that is known by now: returns the code of its status, writes its message. It is
// not told again. 0 if there is none.
extern "C" __attribute__((visibility("default"))) int keras_legacy_opt_gpu_mistake(char* message, size_t room) {
  using namespace keras_legacy_opt::gpu;
  if (IsForkedChild()) return 0;
  const absl::Status error = Reports::NextOfAll();
  Tell(std::string(error.message()), message, room);
  return static_cast<int>(error.code());
}

#endif  // KLO_GPU
