// From the indices of a sparse gradient to its rows, in the order of the CPU's: by a stable sort of one digit after the
// other, each in three launches (CountDigits, Scan, SortDigit), and then the heads of the rows (CountHeads, Scan,
// WriteHeads). Nothing depends on the order in which threads run.
#ifndef KERAS_LEGACY_OPT_GPU_ROW_PLAN_H_
#define KERAS_LEGACY_OPT_GPU_ROW_PLAN_H_

#include "device.h"

namespace keras_legacy_opt {
namespace gpu {

KLO_DEVICE bool Goes(const Rows& rows) { return *rows.refusal == 0 && (rows.condition == nullptr || *rows.condition); }

// A block for each tile, as for all that follows but Scan.
KLO_DEVICE void MakeKeys(const Rows& rows) {
  if (rows.condition != nullptr && !*rows.condition) return;
  const int64_t tile = int64_t{blockIdx.x} * kTile;
  KLO_ROLLED
  for (int64_t i = tile + threadIdx.x; i < tile + kTile && i < rows.count; i += kThreads) {
    const int64_t row =
        rows.has_long ? static_cast<const int64_t*>(rows.indices)[i] : static_cast<const int32_t*>(rows.indices)[i];
    if (row < 0 || row >= rows.table_rows) {
      *rows.refusal = static_cast<int32_t>(i) + 1;
      continue;
    }
    rows.keys[i] = static_cast<uint64_t>(row) << 32 | static_cast<uint64_t>(i);
  }
}

KLO_DEVICE uint32_t RowOf(uint64_t key) { return static_cast<uint32_t>(key >> 32); }
KLO_DEVICE uint32_t PositionOf(uint64_t key) { return static_cast<uint32_t>(key); }
KLO_DEVICE int DigitOf(const Rows& rows, uint64_t key) { return RowOf(key) >> rows.shift & (kDigits - 1); }

// Calls visit(place, key) for the keys of this thread, in their order.
template <class Visit>
KLO_DEVICE void ForEachKey(const Rows& rows, Visit visit) {
  const int64_t begin = int64_t{blockIdx.x} * kTile + threadIdx.x * kKeysOfThread;
  KLO_ROLLED
  for (int64_t i = begin; i < begin + kKeysOfThread && i < rows.count; ++i) visit(i, rows.keys[i]);
}

// The sum of the numbers of the threads before this one; of all, behind them.
KLO_DEVICE uint32_t SumBefore(uint32_t number, uint32_t* all) {
  __shared__ uint32_t sums[2][kThreads];
  const int thread = static_cast<int>(threadIdx.x);
  int from = 0;
  sums[0][thread] = number;
  __syncthreads();
  KLO_ROLLED
  for (int distance = 1; distance < kThreads; distance *= 2, from ^= 1) {
    sums[from ^ 1][thread] = sums[from][thread] + (thread >= distance ? sums[from][thread - distance] : 0);
    __syncthreads();
  }
  const uint32_t sum = sums[from][thread];
  *all = sums[from][kThreads - 1];
  __syncthreads();
  return sum - number;
}

// One block: replaces counts by the sums of those before each; the sum of all comes behind them, and is the number of
// heads if they were counted.
KLO_DEVICE void Scan(const Rows& rows) {
  if (!Goes(rows)) return;
  uint32_t* const numbers = rows.counts;
  const uint32_t size = static_cast<uint32_t>(rows.counted * rows.tiles);
  const uint32_t part = (size + kThreads - 1) / kThreads;
  const uint32_t begin = part * threadIdx.x, end = begin + part < size ? begin + part : size;
  uint32_t sum = 0, all;
  for (uint32_t i = begin; i < end; ++i) sum += numbers[i];
  sum = SumBefore(sum, &all);
  for (uint32_t i = begin; i < end; ++i) {
    const uint32_t number = numbers[i];
    numbers[i] = sum;
    sum += number;
  }
  if (threadIdx.x != 0) return;
  numbers[size] = all;
  if (rows.counted == kDigits) return;
  *rows.head_count = all;
  rows.heads[all] = static_cast<uint32_t>(rows.count);
}

KLO_DEVICE void CountDigits(const Rows& rows) {
  __shared__ uint32_t counts[kDigits];
  if (!Goes(rows)) return;
  if (threadIdx.x < kDigits) counts[threadIdx.x] = 0;
  __syncthreads();
  ForEachKey(rows, [&](int64_t, uint64_t key) { atomicAdd(&counts[DigitOf(rows, key)], 1u); });
  __syncthreads();
  if (threadIdx.x < kDigits) rows.counts[threadIdx.x * rows.tiles + blockIdx.x] = counts[threadIdx.x];
}

// How many keys of a digit a thread has, for each of both; a quarter of the threads lies together.
struct DigitTable {
  static constexpr int kQuarter = kThreads / 4, kPadded = kQuarter + 2;  // which keeps the banks apart
  uint16_t counts[kDigits * 4 * kPadded];

  KLO_DEVICE uint16_t& At(int digit, int thread) {
    return counts[(digit * 4 + thread / kQuarter) * kPadded + thread % kQuarter];
  }
};

// Replaces each number by the sum of those of the threads before, of the same digit.
KLO_DEVICE void SumOverThreads(DigitTable& table) {
  static_assert(kThreads == 4 * kDigits, "a thread for each quarter");
  __shared__ uint32_t quarters[kThreads];
  const int me = static_cast<int>(threadIdx.x), digit = me / 4, first = me % 4 * DigitTable::kQuarter;
  uint16_t* const counts = &table.At(digit, first);
  uint32_t sum = 0;
  KLO_UNROLL_8
  for (int i = 0; i < DigitTable::kQuarter; ++i) sum += counts[i];
  quarters[me] = sum;
  __syncthreads();
  sum = 0;
  KLO_ROLLED
  for (int i = digit * 4; i < me; ++i) sum += quarters[i];
  KLO_UNROLL_8
  for (int i = 0; i < DigitTable::kQuarter; ++i) {
    const uint32_t before = sum;
    sum += counts[i];
    counts[i] = static_cast<uint16_t>(before);
  }
  __syncthreads();
}

KLO_DEVICE void SortDigit(const Rows& rows) {
  __shared__ DigitTable table;
  if (!Goes(rows)) return;
  const int thread = static_cast<int>(threadIdx.x);
  KLO_UNROLL_8
  for (int digit = 0; digit < kDigits; ++digit) table.At(digit, thread) = 0;
  ForEachKey(rows, [&](int64_t, uint64_t key) { ++table.At(DigitOf(rows, key), thread); });
  __syncthreads();
  SumOverThreads(table);
  ForEachKey(rows, [&](int64_t, uint64_t key) {
    const int digit = DigitOf(rows, key);
    rows.sorted[rows.counts[digit * rows.tiles + blockIdx.x] + table.At(digit, thread)++] = key;
  });
}

KLO_DEVICE bool IsHead(const Rows& rows, int64_t place, uint64_t key) {
  return place == 0 || RowOf(rows.keys[place - 1]) != RowOf(key);
}

KLO_DEVICE uint32_t HeadsOfThread(const Rows& rows) {
  uint32_t heads = 0;
  ForEachKey(rows, [&](int64_t place, uint64_t key) { heads += IsHead(rows, place, key); });
  return heads;
}

KLO_DEVICE void CountHeads(const Rows& rows) {
  if (!Goes(rows)) return;
  uint32_t all;
  SumBefore(HeadsOfThread(rows), &all);
  if (threadIdx.x == 0) rows.counts[blockIdx.x] = all;
}

KLO_DEVICE void WriteHeads(const Rows& rows) {
  if (!Goes(rows)) return;
  uint32_t all, rank = rows.counts[blockIdx.x] + SumBefore(HeadsOfThread(rows), &all);
  ForEachKey(rows, [&](int64_t place, uint64_t key) {
    if (IsHead(rows, place, key)) rows.heads[rank++] = static_cast<uint32_t>(place);
  });
}

}  // namespace gpu
}  // namespace keras_legacy_opt

// Defines a kernel: JOB is one of those above.
#define KLO_ROWS_KERNEL(SYMBOL, JOB) \
  KLO_KERNEL SYMBOL(const ::keras_legacy_opt::gpu::Rows rows) { ::keras_legacy_opt::gpu::JOB(rows); }

#endif  // KERAS_LEGACY_OPT_GPU_ROW_PLAN_H_
