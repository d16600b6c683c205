// Many tensors as one long line of elements, so that threads share the work evenly whatever the tensors' sizes are.
#ifndef KERAS_LEGACY_OPT_APPLY_CHUNKS_H_
#define KERAS_LEGACY_OPT_APPLY_CHUNKS_H_

#include <algorithm>
#include <cstdint>
#include <vector>

namespace keras_legacy_opt {

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

}  // namespace keras_legacy_opt

#endif  // KERAS_LEGACY_OPT_APPLY_CHUNKS_H_
