// How a launch covers variables: by chunks, one for each block of threads.
#ifndef KERAS_LEGACY_OPT_GPU_GEOMETRY_H_
#define KERAS_LEGACY_OPT_GPU_GEOMETRY_H_

#include <algorithm>
#include <cstdint>
#include <vector>

#include "../apply/chunks.h"
#include "launch.h"

namespace keras_legacy_opt {
namespace gpu {

// It depends on nothing but the sizes of the variables: it can stay on the device from step to step.
struct Geometry {
  std::vector<Chunk> chunks;
  std::vector<int64_t> first;  // of each variable, the number of its first chunk; and behind the last one

  // with_empty: variables without elements have a chunk, too, which has none.
  explicit Geometry(const std::vector<int64_t>& sizes, bool with_empty = false) {
    static_assert(kBlock == ::keras_legacy_opt::kBlock, "norms have the bits of the CPU's");
    BlockTable blocks(kBlock);
    for (int64_t size : sizes) blocks.Add(with_empty ? std::max<int64_t>(size, 1) : size);
    chunks.reserve(blocks.size());
    blocks.ForEach(0, blocks.size(), [&](int64_t tensor, int64_t, int64_t offset, int64_t count) {
      chunks.push_back({offset, static_cast<int32_t>(tensor), static_cast<int32_t>(std::min(count, sizes[tensor]))});
    });
    for (size_t i = 0; i <= sizes.size(); ++i) first.push_back(blocks.First(static_cast<int64_t>(i)));
  }
};

// How a sparse update of a table covers it.
struct RowGeometry {
  int32_t tiles;           // blocks of kTile indices
  int passes;              // digits to sort by
  int64_t lines;           // rows that may change
  int32_t lines_of_block;  // with norms, as many rows as make a block of the CPU's
  int64_t blocks;

  RowGeometry(int64_t indices, int64_t table_rows, int64_t width, bool all_rows, bool norms) {
    tiles = static_cast<int32_t>((indices + kTile - 1) / kTile);
    int bits = 0;
    while (bits < 32 && (table_rows - 1) >> bits > 0) ++bits;
    passes = (bits + kDigitBits - 1) / kDigitBits;
    lines = all_rows ? table_rows : std::min(indices, table_rows);
    // Few rows are shared by many blocks.
    const int64_t elements = all_rows || norms ? int64_t{kBlock} : int64_t{kThreads} * 4;
    lines_of_block = static_cast<int32_t>(std::max<int64_t>(1, elements / std::max<int64_t>(1, width)));
    // One at least, which judges the scalars.
    blocks = std::max<int64_t>(1, (lines + lines_of_block - 1) / lines_of_block);
  }
};

}  // namespace gpu
}  // namespace keras_legacy_opt

#endif  // KERAS_LEGACY_OPT_GPU_GEOMETRY_H_
