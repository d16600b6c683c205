// Variables with their slots, and gradients, for the tests.
#ifndef KERAS_LEGACY_OPT_TESTS_STATE_H_
#define KERAS_LEGACY_OPT_TESTS_STATE_H_

#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "../apply/dtype.h"
#include "formulas.h"

namespace keras_legacy_opt {

template <class T>
T Stored(Real x) {
  T t;
  Store(static_cast<Arithmetic<T>>(x), t);
  return t;
}

// One variable and its slots, at a chosen misalignment, with a guard on both sides.
template <class T>
class State {
 public:
  State(const std::vector<Real>& first, int64_t count, int64_t offset, unsigned seed)
      : count_(count), offset_(offset), data_(first.size()) {
    std::mt19937_64 random(seed);
    std::uniform_real_distribution<double> spread(0.5, 1.5);
    for (size_t k = 0; k < first.size(); ++k) {
      data_[k].resize(count + 2 * kGuard + offset, Stored<T>(77));
      for (int64_t i = 0; i < count; ++i) At(k, i) = Stored<T>(first[k] * spread(random));
      pointers_.push_back(&At(k, 0));
    }
  }
  State(const State& other) : count_(other.count_), offset_(other.offset_), data_(other.data_) {
    for (size_t k = 0; k < data_.size(); ++k) pointers_.push_back(&At(k, 0));
  }

  T& At(size_t k, int64_t i) { return data_[k][kGuard + offset_ + i]; }
  void* const* pointers() const { return pointers_.data(); }
  size_t size() const { return data_.size(); }
  int64_t count() const { return count_; }

  bool Guarded() const {
    const T guard = Stored<T>(77);
    for (const auto& tensor : data_) {
      for (int64_t i = 0; i < kGuard + offset_; ++i) {
        if (std::memcmp(&tensor[i], &guard, sizeof(T)) != 0) return false;
      }
      for (size_t i = kGuard + offset_ + count_; i < tensor.size(); ++i) {
        if (std::memcmp(&tensor[i], &guard, sizeof(T)) != 0) return false;
      }
    }
    return true;
  }
  bool SameBits(const State& other) const {
    for (size_t k = 0; k < data_.size(); ++k) {
      if (std::memcmp(data_[k].data(), other.data_[k].data(), data_[k].size() * sizeof(T)) != 0) return false;
    }
    return true;
  }

 private:
  static constexpr int64_t kGuard = 16;
  int64_t count_, offset_;
  std::vector<std::vector<T>> data_;
  std::vector<void*> pointers_;
};

template <class T>
std::vector<T> Gradients(int64_t count, unsigned seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<double> normal(0, 0.3);
  std::vector<T> grad(count);
  for (T& g : grad) g = Stored<T>(normal(random));
  return grad;
}

template <class T>
std::vector<Arithmetic<T>> HypersOf(const Formula& formula) {
  return std::vector<Arithmetic<T>>(formula.hypers.begin(), formula.hypers.end());
}

}  // namespace keras_legacy_opt

#endif  // KERAS_LEGACY_OPT_TESTS_STATE_H_
