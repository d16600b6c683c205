// Several threads share the work of one step, as TensorFlow's do: for ThreadSanitizer, and for the bits.
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "../apply/chunks.h"
#include "../apply/cpu.h"
#include "../apply/finite.h"
#include "check.h"
#include "formulas.h"

namespace keras_legacy_opt {
namespace {

constexpr int kThreads = 4;

// Calls work(begin, end) for parts of [0, total), at once or one after the other.
template <class Work>
void Share(bool at_once, int64_t total, Work work) {
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) {
    const auto part = [&work, begin = total * i / kThreads, end = total * (i + 1) / kThreads] { work(begin, end); };
    threads.emplace_back(part);
    if (!at_once) threads.back().join();
  }
  for (std::thread& thread : threads) {
    if (thread.joinable()) thread.join();
  }
}

// A few tensors and their slots, and one gradient that is long enough for each of them.
template <class T>
class Tensors {
 public:
  Tensors(const std::vector<Real>& first, const std::vector<int64_t>& sizes) {
    for (int64_t size : sizes) {
      line_.Add(size);
      auto& state = data_.emplace_back();
      for (Real value : first) state.emplace_back(size, Stored(value));
      auto& pointers = pointers_.emplace_back();
      for (auto& tensor : state) pointers.push_back(tensor.data());
    }
    std::mt19937_64 random(1);
    std::normal_distribution<double> normal(0, 0.3);
    for (int64_t i = 0; i < line_.size(); ++i) gradient_.push_back(Stored(normal(random)));
  }

  const ChunkTable& line() const { return line_; }
  void* const* state(int64_t tensor) const { return pointers_[tensor].data(); }
  const T* gradient() const { return gradient_.data(); }

  bool SameBits(const Tensors& other) const {
    for (size_t i = 0; i < data_.size(); ++i) {
      for (size_t k = 0; k < data_[i].size(); ++k) {
        const auto &ours = data_[i][k], &theirs = other.data_[i][k];
        if (std::memcmp(ours.data(), theirs.data(), ours.size() * sizeof(T)) != 0) return false;
      }
    }
    return true;
  }

 private:
  static T Stored(Real x) {
    T t;
    Store(static_cast<Arithmetic<T>>(x), t);
    return t;
  }

  ChunkTable line_;
  std::vector<std::vector<std::vector<T>>> data_;
  std::vector<std::vector<void*>> pointers_;
  std::vector<T> gradient_;
};

template <class T>
struct SharedStepTest {
  template <template <class, Path> class F>
  void operator()(const Formula& formula) const {
    const std::vector<Arithmetic<T>> hyper(formula.hypers.begin(), formula.hypers.end());
    const GradientTransform<Arithmetic<T>> transform = {0.5, 0.1, 3, 1.25};
    const auto dense = [&](bool at_once) {
      Tensors<T> tensors(formula.first_state, {1, 300, 0, 2, 77});
      const auto bound = Bind<F, Path::kDense>(ChosenIsa(), hyper.data());
      const Updater<T> updater(ChosenIsa(), bound, &transform);
      Share(at_once, tensors.line().size(), [&](int64_t begin, int64_t end) {
        tensors.line().ForEach(begin, end, [&](int64_t tensor, int64_t offset, int64_t count) {
          updater.Dense(tensors.state(tensor), tensors.gradient(), offset, count);
        });
      });
      return tensors;
    };
    CHECK(dense(true).SameBits(dense(false)), formula.name << " dense");

    const int64_t rows = 37, width = 3;
    const std::vector<int64_t> indices = {36, 1, 1, 9, 10, 11, 12, 9, 0, 20, 36, 36};
    const auto sparse = [&](bool at_once) {
      Tensors<T> tensors(formula.first_state, {rows * width});
      const auto bound = Bind<F, Path::kSparse>(ChosenIsa(), hyper.data());
      const Updater<T> updater(ChosenIsa(), bound, nullptr);
      RowPlan plan;
      CHECK(PlanRows(indices.data(), indices.size(), rows, &plan) == -1, "");
      Share(at_once, updater.SparseRows(plan, rows), [&](int64_t begin, int64_t end) {
        updater.Sparse(tensors.state(0), tensors.gradient(), plan, width, begin, end);
      });
      return tensors;
    };
    CHECK(sparse(true).SameBits(sparse(false)), formula.name << " sparse");
  }
};

// Threads that are the first to ask which instruction set to use.
void TestFirstUse() {
  const std::vector<float> values(1000, 1.0f);
  Share(true, values.size(), [&](int64_t begin, int64_t end) {
    if (!AllFinite(ChosenIsa(), values.data() + begin, end - begin, 1.0f)) std::abort();
  });
}

}  // namespace
}  // namespace keras_legacy_opt

int main() {
  using namespace keras_legacy_opt;
  TestFirstUse();
  ForEachFormula(SharedStepTest<float>());
  ForEachFormula(SharedStepTest<double>());
  ForEachFormula(SharedStepTest<Bfloat16>());
  ForEachFormula(SharedStepTest<Half>());
  std::printf("%d checks of threads passed\n", Checks());
}
