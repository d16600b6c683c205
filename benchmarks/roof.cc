// How fast memory is: reads some arrays and updates others in place, as an optimizer does, with next to no arithmetic.
#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace {

template <int kUpdated>
void Stream(float* const* updated, const float* __restrict__ read, int64_t begin, int64_t end);

template <>
__attribute__((target("avx2"))) void Stream<0>(float* const*, const float* __restrict__ read, int64_t begin,
                                               int64_t end) {
  float lanes[32] = {};
  for (int64_t i = begin; i + 32 <= end; i += 32) {
    for (int j = 0; j < 32; ++j) lanes[j] += read[i + j];
  }
  asm volatile("" : : "r"(lanes) : "memory");  // They are used.
}
template <>
__attribute__((target("avx2"))) void Stream<1>(float* const* updated, const float* __restrict__ read, int64_t begin,
                                               int64_t end) {
  float* __restrict__ a = updated[0];
  for (int64_t i = begin; i < end; ++i) a[i] += read[i];
}
template <>
__attribute__((target("avx2"))) void Stream<2>(float* const* updated, const float* __restrict__ read, int64_t begin,
                                               int64_t end) {
  float* __restrict__ a = updated[0], * __restrict__ b = updated[1];
  for (int64_t i = begin; i < end; ++i) a[i] += read[i], b[i] += read[i];
}
template <>
__attribute__((target("avx2"))) void Stream<3>(float* const* updated, const float* __restrict__ read, int64_t begin,
                                               int64_t end) {
  float* __restrict__ a = updated[0], * __restrict__ b = updated[1], * __restrict__ c = updated[2];
  for (int64_t i = begin; i < end; ++i) a[i] += read[i], b[i] += read[i], c[i] += read[i];
}
template <>
__attribute__((target("avx2"))) void Stream<4>(float* const* updated, const float* __restrict__ read, int64_t begin,
                                               int64_t end) {
  float* __restrict__ a = updated[0], * __restrict__ b = updated[1], * __restrict__ c = updated[2], * __restrict__ d = updated[3];
  for (int64_t i = begin; i < end; ++i) a[i] += read[i], b[i] += read[i], c[i] += read[i], d[i] += read[i];
}
template <>
__attribute__((target("avx2"))) void Stream<5>(float* const* updated, const float* __restrict__ read, int64_t begin,
                                               int64_t end) {
  Stream<3>(updated, read, begin, end);
  Stream<2>(updated + 3, read, begin, end);
}

}  // namespace

// Adds `read` to each of `count` arrays of `size` floats, or only reads it, on `threads` threads. Each takes the next
// block that is left: when each has every other block, two threads need a fifth more time.
extern "C" void stream(float* const* updated, int count, const float* read, int64_t size, int threads) {
  constexpr int64_t kBlock = 1 << 14;
  std::atomic<int64_t> next{0};
  const auto work = [&] {
    for (int64_t begin; (begin = next.fetch_add(kBlock)) < size;) {
      const int64_t end = begin + kBlock < size ? begin + kBlock : size;
      if (count == 0) Stream<0>(updated, read, begin, end);
      if (count == 1) Stream<1>(updated, read, begin, end);
      if (count == 2) Stream<2>(updated, read, begin, end);
      if (count == 3) Stream<3>(updated, read, begin, end);
      if (count == 4) Stream<4>(updated, read, begin, end);
      if (count == 5) Stream<5>(updated, read, begin, end);
    }
  };
  std::vector<std::thread> others;
  for (int i = 1; i < threads; ++i) others.emplace_back(work);
  work();
  for (auto& other : others) other.join();
}
