// From the indices of a sparse gradient to the rows to update: each row once, in ascending order, and for each row the
// positions of its gradients in the order of their appearance. That order fixes every sum, whatever the threads do.
#ifndef KERAS_LEGACY_OPT_APPLY_ROWS_H_
#define KERAS_LEGACY_OPT_APPLY_ROWS_H_

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

namespace keras_legacy_opt {

struct RowPlan {
  std::vector<int64_t> rows;       // the distinct rows, ascending
  std::vector<int64_t> first;      // rows[i] owns positions[first[i]] to positions[first[i + 1] - 1]
  std::vector<int64_t> positions;  // where the gradients of a row lie

  int64_t size() const { return static_cast<int64_t>(rows.size()); }
};

namespace rows_internal {

// Sorts packed (row, position) keys by the row, keeping the order of equal rows.
inline void RadixSort(std::vector<uint64_t>& keys, uint64_t table_rows) {
  // As few passes as counters in the first-level cache allow, over digits of the same size.
  constexpr int kMostBits = 12;
  int bits = 1;
  while (bits < 32 && (table_rows - 1) >> bits != 0) ++bits;
  const int passes = (bits + kMostBits - 1) / kMostBits, digit = (bits + passes - 1) / passes;
  const uint64_t mask = (uint64_t{1} << digit) - 1;
  std::vector<uint64_t> sorted(keys.size());
  std::vector<uint32_t> start(mask + 2);
  for (int pass = 0, shift = 32; pass < passes; ++pass, shift += digit) {
    std::fill(start.begin(), start.end(), 0);
    for (uint64_t key : keys) ++start[((key >> shift) & mask) + 1];
    for (uint64_t value = 1; value <= mask; ++value) start[value] += start[value - 1];
    for (uint64_t key : keys) sorted[start[(key >> shift) & mask]++] = key;
    keys.swap(sorted);
  }
}

template <class Row, class Position>
void Group(int64_t count, Row row_at, Position position_at, RowPlan* plan) {
  plan->positions.resize(count);
  plan->rows.reserve(count);
  plan->first.reserve(count + 1);
  for (int64_t i = 0; i < count; ++i) {
    plan->positions[i] = position_at(i);
    const int64_t row = row_at(i);
    if (plan->rows.empty() || plan->rows.back() != row) {
      plan->rows.push_back(row);
      plan->first.push_back(i);
    }
  }
  plan->first.push_back(count);
}

}  // namespace rows_internal

// Returns the position of the first index outside [0, table_rows), or -1 if all are inside and *plan is filled.
template <class Index>
int64_t PlanRows(const Index* indices, int64_t count, int64_t table_rows, RowPlan* plan) {
  for (int64_t i = 0; i < count; ++i) {
    if (indices[i] < 0 || static_cast<int64_t>(indices[i]) >= table_rows) return i;
  }
  constexpr int64_t kPackable = int64_t{1} << 32;
  if (count < kPackable && table_rows <= kPackable) {
    std::vector<uint64_t> keys(count);
    for (int64_t i = 0; i < count; ++i) keys[i] = static_cast<uint64_t>(indices[i]) << 32 | static_cast<uint64_t>(i);
    if (count < 512) {
      std::sort(keys.begin(), keys.end());
    } else {
      rows_internal::RadixSort(keys, static_cast<uint64_t>(table_rows));
    }
    rows_internal::Group(
        count, [&](int64_t i) { return static_cast<int64_t>(keys[i] >> 32); },
        [&](int64_t i) { return static_cast<int64_t>(keys[i] & 0xffffffffu); }, plan);
  } else {
    std::vector<std::pair<int64_t, int64_t>> keys(count);
    for (int64_t i = 0; i < count; ++i) keys[i] = {static_cast<int64_t>(indices[i]), i};
    std::sort(keys.begin(), keys.end());
    rows_internal::Group(
        count, [&](int64_t i) { return keys[i].first; }, [&](int64_t i) { return keys[i].second; }, plan);
  }
  return -1;
}

}  // namespace keras_legacy_opt

#endif  // KERAS_LEGACY_OPT_APPLY_ROWS_H_
