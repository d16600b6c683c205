// Room for the directions that the first of two passes keeps for the second.
#ifndef KERAS_LEGACY_OPT_APPLY_DIRECTIONS_H_
#define KERAS_LEGACY_OPT_APPLY_DIRECTIONS_H_

#include <cstdint>
#include <mutex>
#include <new>
#include <vector>

#include "past_caches.h"

namespace keras_legacy_opt {

// One for the process, which stays: to get as much from the system in each step takes longer than it saves. Whoever
// comes while another step has it goes without.
class DirectionsBuffer {
 public:
  static constexpr int64_t kMostBytes = int64_t{64} << 20;

  explicit DirectionsBuffer(int64_t bytes) : lock_(mutex_, std::defer_lock) {
    if (bytes == 0 || bytes > kMostBytes || !lock_.try_lock() || bytes <= size_) return;
    ::operator delete(memory_, kAlignment);
    memory_ = ::operator new(bytes, kAlignment, std::nothrow);
    size_ = memory_ == nullptr ? 0 : bytes;
  }

  // Null if there is none.
  void* Get(int64_t bytes) const { return lock_ && bytes <= size_ ? memory_ : nullptr; }

 private:
  static constexpr std::align_val_t kAlignment{kCacheLine};
  inline static std::mutex mutex_;
  inline static void* memory_ = nullptr;
  inline static int64_t size_ = 0;
  std::unique_lock<std::mutex> lock_;
};

// The directions of several tensors, each from a cache line of its own on.
template <class C>
class Directions {
 public:
  static constexpr int64_t kMost = DirectionsBuffer::kMostBytes / sizeof(C);

  static int64_t Padded(int64_t elements) {
    constexpr int64_t kLine = kCacheLine / sizeof(C);
    return (elements + kLine - 1) / kLine * kLine;
  }

  explicit Directions(const std::vector<int64_t>& sizes) : first_(Places(sizes)), buffer_(first_.back() * sizeof(C)) {}

  // Those of a tensor; null if there is no room.
  C* Of(int64_t tensor) const {
    void* all = buffer_.Get(first_.back() * sizeof(C));
    return all == nullptr ? nullptr : static_cast<C*>(all) + first_[tensor];
  }

 private:
  static std::vector<int64_t> Places(const std::vector<int64_t>& sizes) {
    std::vector<int64_t> first = {0};
    for (int64_t size : sizes) first.push_back(first.back() + Padded(size));
    return first;
  }

  const std::vector<int64_t> first_;
  const DirectionsBuffer buffer_;
};

}  // namespace keras_legacy_opt

#endif  // KERAS_LEGACY_OPT_APPLY_DIRECTIONS_H_
