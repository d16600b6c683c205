// What host and device tell each other: records of pointers into the memory of the device.
#ifndef KERAS_LEGACY_OPT_GPU_LAUNCH_H_
#define KERAS_LEGACY_OPT_GPU_LAUNCH_H_

#include "../apply/dtype.h"

namespace keras_legacy_opt {
namespace gpu {

// Threads of a block, of every kernel.
constexpr int kThreads = 256;

// Elements that a block updates: as many as make a block of the CPU's, so that sums over blocks have the same bits.
constexpr int kBlock = 1 << 14;

constexpr int kMaxHypers = 16;

// What one block works on: elements [offset, offset + count) of a tensor, with count <= kBlock.
struct Chunk {
  int64_t offset;
  int32_t tensor;
  int32_t count;
};

// The sums of the squares of a chunk of a variable, and of its direction.
struct Squares {
  double variable, direction;
};

// A dense update of many variables. Null is what there is none of. Hyperparameters and all else lie on the device, so
// that the host never waits for them.
template <class C>
struct Launch {
  const Chunk* chunks;           // one for each block
  void* const* state;            // [variable][tensor]: itself, its slots, its average, its scalar slots
  const void* const* grads;      // of each variable
  const C* hypers[kMaxHypers];   // in the order of the formula's names
  const C* transform;            // [1, or variables][4]: see GradientTransform
  const bool* condition;         // whether there is an update at all
  const C* per_variable;         // [1, or variables][2]: a factor of the learning rate, and a decay
  const C* average_weight;       // null: there are no averages
  int32_t transform_of_each;     // whether every variable has a row of the transform
  int32_t per_variable_of_each;  // likewise
  // Of formulas with norms.
  const int64_t* first;  // of each variable, the number of its first chunk; and behind the last one
  Squares* squares;      // of each chunk
  C* scales;             // of each variable
};

// Whether tensors are finite.
struct FiniteLaunch {
  const Chunk* chunks;
  const void* const* tensors;
  const float* factor;  // what every element is multiplied by before
  bool* finite;
};

// Norms of tensors, and the transforms that clip them.
template <class C>
struct NormLaunch {
  const Chunk* chunks;         // one for each block; of an empty tensor, one without elements
  const int64_t* first;        // of each tensor, the number of its first chunk; and behind the last one
  const void* const* tensors;  // whose norms these are
  const C* transform;          // [4], of GradientTransform: what happens to elements before
  const C* limit;
  double* squares;     // of each chunk
  uint32_t* counters;  // of each norm, 0: the blocks that are done
  C* norms;            // [1, or tensors]
  C* clippings;        // [1, or tensors][4]
  int32_t of_each;     // whether every tensor has a norm of its own
};

// From the indices of a sparse gradient to its rows, see RowPlan: keys of (row, position) are sorted, digit by digit,
// and of each row the first is a head. How many there are, the host never learns.
constexpr int kDigitBits = 6, kDigits = 1 << kDigitBits;
constexpr int kKeysOfThread = 16, kTile = kThreads * kKeysOfThread;  // keys of a block

struct Rows {
  const void* indices;
  int32_t count;       // of indices
  int32_t has_long;    // whether they have 64 bits
  int64_t table_rows;  // at most 2^32
  uint64_t* keys;      // row << 32 | position
  uint64_t* sorted;    // what a pass makes of them; the host swaps both
  int32_t shift;       // of the digit that a pass sorts by
  int32_t tiles;       // blocks of kTile keys
  int32_t counted;     // what is counted in each tile: kDigits, or 1 when it is heads
  uint32_t* counts;    // [counted][tiles], and the sum of all
  uint32_t* heads;     // the positions of the heads in `keys`, and `count`
  uint32_t* head_count;
  int32_t* refusal;       // 0; or 1 and the position of a bad index; or -1: the formula refuses its scalars
  const bool* condition;  // as in Launch
};

// A sparse update of one variable, after its rows were found. Blocks walk over `lines`: of a formula that changes rows
// without gradient, all rows of the table, else the heads.
template <class C>
struct SparseLaunch {
  Launch<C> all;  // with one variable, and without chunks
  Rows rows;
  int64_t width;           // elements of a row
  int64_t lines;           // as far as the host knows them
  int32_t lines_of_block;  // 1, or so few that they have no more than kBlock elements
  int32_t average;         // its place in the state
};

}  // namespace gpu
}  // namespace keras_legacy_opt

#endif  // KERAS_LEGACY_OPT_GPU_LAUNCH_H_
