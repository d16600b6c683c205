// The kernels of all optimizers on a GPU: the ops of ops/kernels.h, launching the kernels of gpu/ on TensorFlow's own
// stream. The host never waits: hyperparameters and all else that is computed stay on the device.
#ifndef KERAS_LEGACY_OPT_OPS_GPU_KERNELS_H_
#define KERAS_LEGACY_OPT_OPS_GPU_KERNELS_H_

#include "tf_compat.h"

#ifdef KLO_GPU

#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "../apply/traits.h"
#include "../gpu/driver.h"
#include "../gpu/geometry.h"
#include "tensorflow/core/platform/refcount.h"
#include "updates.h"

namespace keras_legacy_opt {
namespace gpu {

// Records are the same for every type that is computed in.
using AnyLaunch = Launch<void>;
using AnySparseLaunch = SparseLaunch<void>;
static_assert(sizeof(AnySparseLaunch) == sizeof(SparseLaunch<float>) &&
                  sizeof(AnySparseLaunch) == sizeof(SparseLaunch<double>),
              "records hold pointers only");

// What the kernels of one formula are.
struct FormulaSpec {
  FormulaShape shape;
  bool has_norms;
  bool idle_rows;  // whether sparse gradients change rows without gradient, too
};

template <template <class, Path> class F>
FormulaSpec SpecOf() {
  using Functor = F<float, Path::kSparse>;
  return {{Functor::kSlots, kScalarSlotsOf<Functor>, Functor::kHypers}, kHasNorms<Functor>, Functor::kIdle};
}

// The end of a kernel's symbol.
std::string NameOf(tensorflow::DataType dtype);

void* DataOf(const tensorflow::Tensor& tensor);

// Memory of the device for a while, in the order of its stream.
absl::Status Allocate(tensorflow::OpKernelContext* context, int64_t bytes, tensorflow::Tensor* tensor);

template <class Element>
void Append(const std::vector<Element>& list, std::string* bytes) {
  if (!list.empty()) bytes->append(reinterpret_cast<const char*>(list.data()), list.size() * sizeof(Element));
}

template <class Element>
std::string BytesOf(const std::vector<Element>& list) {
  std::string bytes;
  Append(list, &bytes);
  return bytes;
}

// One launch of an op, or some: where they run.
class Queue {
 public:
  absl::Status Open(tensorflow::OpKernelContext* context);

  Device* device() const { return device_; }
  Stream stream() const { return stream_; }

  template <class Record>
  absl::Status Run(const Kernel* kernel, int64_t blocks, const Record& record) const {
    std::string why;
    return StatusOf(device_->Run(kernel, blocks, record, stream_, &why), why);
  }
  absl::Status Upload(void* to, const void* from, size_t size) const;
  absl::Status Copy(void* to, const void* from, size_t size) const;
  absl::Status Fill(void* to, unsigned char byte, size_t size) const;

  static absl::Status StatusOf(bool is_done, const std::string& why);

 private:
  Device* device_ = nullptr;
  Stream stream_ = nullptr;
};

// What an op has uploaded.
struct Table {
  tensorflow::Tensor memory;
  std::shared_ptr<const Geometry> geometry;  // of a table of chunks
};

// Tables of an op on the device. Steps mostly want the ones of the step before: these stay.
class Tables {
 public:
  using Bytes = std::string;

  // The addresses of some tensors, which are their own key.
  absl::Status Get(tensorflow::OpKernelContext* context, const Queue& queue, const Bytes& addresses, Table* table);
  // The chunks of variables of these sizes, and behind them `first`. Of one op, with_empty is always the same.
  absl::Status Get(tensorflow::OpKernelContext* context, const Queue& queue, const std::vector<int64_t>& sizes,
                   Table* table, bool with_empty = false);

 private:
  // As many as there are models that take turns with one op.
  static constexpr size_t kKept = 8;

  struct Entry {
    Stream stream;
    Bytes key;
    Table table;
  };
  absl::Status Get(tensorflow::OpKernelContext* context, const Queue& queue, const Bytes& key,
                   const std::function<Bytes(Table*)>& content, Table* table);

  std::mutex mutex_;
  std::list<Entry> entries_;  // the one that was asked for last is the first
};

// The kernels of an op, of one device.
class Kernels {
 public:
  explicit Kernels(std::vector<std::string> symbols) : symbols_(std::move(symbols)) {}

  absl::Status Find(const Queue& queue, std::vector<const Kernel*>* kernels);

 private:
  const std::vector<std::string> symbols_;
  std::mutex mutex_;
  Device* device_ = nullptr;
  std::vector<const Kernel*> found_;
};

class DenseKernel : public DenseUpdate {
 public:
  DenseKernel(tensorflow::OpKernelConstruction* context, const FormulaSpec& spec, State state);
  void Compute(tensorflow::OpKernelContext* context) override;

 private:
  absl::Status Apply(tensorflow::OpKernelContext* context);
  // Updates variables [first, last), of which all tables are.
  absl::Status Update(const Queue& queue, const std::vector<const Kernel*>& kernels, const Geometry& geometry,
                      AnyLaunch launch, int first, int last) const;
  int64_t size_of_scale() const { return dtype_ == tensorflow::DT_DOUBLE ? sizeof(double) : sizeof(float); }

  const FormulaSpec spec_;
  Tables geometries_, pointers_;
  Kernels kernels_;
};

// What a step will have found wrong, when it runs: the host learns it later, and tells it in the next step of the same
// variable, or to whoever asks for those of all ops. One op may update several variables: TensorFlow keeps it for all
// that look alike.
class Reports {
 public:
  struct Report {
    std::unique_ptr<Pinned> word;
    std::unique_ptr<Event> event;
    tensorflow::core::WeakPtr<tensorflow::Var> variable;
    std::function<std::string(int32_t)> mistake;
  };
  using Taken = std::list<Report>;

  Reports();
  ~Reports();
  Reports(const Reports&) = delete;
  Reports& operator=(const Reports&) = delete;

  // The first error of the steps of a variable so far, if there is one that is known by now.
  absl::Status Next(const tensorflow::Var* variable);
  // The same of all variables and ops, of those that are gone, too.
  static absl::Status NextOfAll();
  // Takes what a report needs, before the step changes anything: there may be none left.
  absl::Status Take(const Queue& queue, Taken* report);
  // Has a word of the device, which is 0 if all is well, read when all that is in the stream is done.
  absl::Status Read(const Queue& queue, const int32_t* word, Taken* report);

 private:
  struct All;

  // The first error among those of a variable; of any, if it is null.
  static absl::Status NextOf(const tensorflow::Var* variable, Taken* running, Taken* idle);

  std::mutex mutex_;
  Taken running_, idle_;
};

class SparseKernel : public SparseUpdate {
 public:
  SparseKernel(tensorflow::OpKernelConstruction* context, const FormulaSpec& spec);
  void Compute(tensorflow::OpKernelContext* context) override;

 private:
  struct Memory;

  absl::Status Apply(tensorflow::OpKernelContext* context);
  absl::Status FindRows(const Queue& queue, const std::vector<const Kernel*>& kernels, const RowGeometry& geometry,
                        Rows* rows) const;
  absl::Status Update(const Queue& queue, const std::vector<const Kernel*>& kernels, const RowGeometry& geometry,
                      int64_t average_blocks, const AnySparseLaunch& launch) const;

  const FormulaSpec spec_;
  Tables geometries_, pointers_;
  Kernels kernels_;
  Reports reports_;
};

// Gives the tensor of a variable on a GPU a buffer of its own, with the same contents.
absl::Status CopyTensor(tensorflow::OpKernelContext* context, tensorflow::Tensor* tensor);

template <template <class, Path> class F, State kState>
tensorflow::OpKernel* NewDense(tensorflow::OpKernelConstruction* context) {
  return new DenseKernel(context, SpecOf<F>(), kState);
}
template <template <class, Path> class F>
tensorflow::OpKernel* NewSparse(tensorflow::OpKernelConstruction* context) {
  return new SparseKernel(context, SpecOf<F>());
}

// Registers the kernel of an op for every dtype. `on_host`: which inputs are handles.
void Register(const std::string& op, const std::vector<std::string>& on_host,
              tensorflow::OpKernel* (*create)(tensorflow::OpKernelConstruction*));

// Registers those of the three ops of a formula.
template <template <class, Path> class F>
bool RegisterFormula(const std::string& name, std::vector<std::string> handles) {
  Register("KerasLegacyOptGroup" + name, {"group"}, NewDense<F, State::kGroup>);
  handles.insert(handles.end(), {"var", "average"});
  Register("KerasLegacyOpt" + name, handles, NewDense<F, State::kInputs>);
  Register("KerasLegacyOptSparse" + name, handles, NewSparse<F>);
  return true;
}

}  // namespace gpu
}  // namespace keras_legacy_opt

#endif  // KLO_GPU

#endif  // KERAS_LEGACY_OPT_OPS_GPU_KERNELS_H_
