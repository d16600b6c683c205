// Many tensors as one long line of elements, so that threads share the work evenly whatever the tensors' sizes are.
#ifndef KERAS_LEGACY_OPT_APPLY_CHUNKS_H_
#define KERAS_LEGACY_OPT_APPLY_CHUNKS_H_

#include <algorithm>
#include <cstdint>
#include <vector>

namespace keras_legacy_opt {

// Elements that a thread takes at once: enough to hide the cost of taking them, few enough to share evenly. Also the
// block over which squares are summed, on which the bits of a norm depend.
constexpr int64_t kBlock = 1 << 14;

class ChunkTable {
 public:
  void Reserve(int64_t tensors) { ends_.reserve(tensors); }
  void Add(int64_t elements) { ends_.push_back(size() + elements); }

  int64_t size() const { return ends_.empty() ? 0 : ends_.back(); }

  // Calls visit(tensor, offset in the tensor, count) for each piece of [begin, end) of the line.
  template <class Visit>
  void ForEach(int64_t begin, int64_t end, Visit visit) const {
    auto tensor = std::upper_bound(ends_.begin(), ends_.end(), begin);
    for (; begin < end; ++tensor) {
      const int64_t start = tensor == ends_.begin() ? 0 : *(tensor - 1);
      const int64_t stop = std::min(end, *tensor);
      if (begin < stop) visit(static_cast<int64_t>(tensor - ends_.begin()), begin - start, stop - begin);
      begin = stop;
    }
  }

 private:
  std::vector<int64_t> ends_;
};

// Tensors as one line of blocks. Where a block of a tensor begins does not depend on the threads, nor on the other
// tensors, so that sums over blocks do not.
class BlockTable {
 public:
  explicit BlockTable(int64_t block) : block_(block) {}

  void Add(int64_t elements) {
    blocks_.Add((elements + block_ - 1) / block_);
    sizes_.push_back(elements);
    elements_ += elements;
    first_.push_back(blocks_.size());
  }

  int64_t size() const { return blocks_.size(); }

  // The number of the first block of a tensor, or behind the last one.
  int64_t First(int64_t tensor) const { return first_[tensor]; }

  // How many blocks have about as many elements.
  int64_t AtOnce(int64_t elements) const {
    return elements_ == 0 ? 1 : std::max<int64_t>(1, elements * size() / elements_);
  }

  // Calls visit(tensor, number of the block, offset in the tensor, count) for each of the blocks [begin, end).
  template <class Visit>
  void ForEach(int64_t begin, int64_t end, Visit visit) const {
    blocks_.ForEach(begin, end, [&](int64_t tensor, int64_t first, int64_t count) {
      for (int64_t block = first; block < first + count; ++block) {
        const int64_t offset = block * block_;
        visit(tensor, first_[tensor] + block, offset, std::min(block_, sizes_[tensor] - offset));
      }
    });
  }

 private:
  const int64_t block_;
  int64_t elements_ = 0;
  ChunkTable blocks_;
  std::vector<int64_t> sizes_, first_ = {0};
};

}  // namespace keras_legacy_opt

#endif  // KERAS_LEGACY_OPT_APPLY_CHUNKS_H_
