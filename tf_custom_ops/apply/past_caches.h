// Writes of what is not read soon: they neither read memory first nor take the caches from what is needed sooner.
#ifndef KERAS_LEGACY_OPT_APPLY_PAST_CACHES_H_
#define KERAS_LEGACY_OPT_APPLY_PAST_CACHES_H_

#include <cstdint>
#include <cstring>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

namespace keras_legacy_opt {

constexpr int64_t kCacheLine = 64;

// Copies numbers, where both begin at a multiple of 16 bytes. Other threads see them after AfterPastCaches().
template <class C>
void StorePastCaches(const C* from, int64_t count, C* to) {
#ifdef __SSE2__
  constexpr int64_t kAtOnce = sizeof(__m128i) / sizeof(C);
  for (; count >= kAtOnce; count -= kAtOnce, from += kAtOnce, to += kAtOnce) {
    _mm_stream_si128(reinterpret_cast<__m128i*>(to), _mm_load_si128(reinterpret_cast<const __m128i*>(from)));
  }
#endif
  std::memcpy(to, from, count * sizeof(C));
}

inline void AfterPastCaches() {
#ifdef __SSE2__
  _mm_sfence();
#endif
}

}  // namespace keras_legacy_opt

#endif  // KERAS_LEGACY_OPT_APPLY_PAST_CACHES_H_
