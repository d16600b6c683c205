// The instruction sets a loop is compiled for. The choice is made once, at run time, from what the processor has; every
// level computes the same bits.
#ifndef KERAS_LEGACY_OPT_APPLY_ISA_H_
#define KERAS_LEGACY_OPT_APPLY_ISA_H_

#include <cstdlib>
#include <cstring>

namespace keras_legacy_opt {

enum class Isa { kBase, kAvx2, kAvx512 };
constexpr int kIsaLevels = 3;

#if defined(__x86_64__) && !defined(KLO_BASE_ISA_ONLY)
#define KLO_TARGET_AVX2 __attribute__((target("avx2")))
#define KLO_TARGET_AVX512 __attribute__((target("avx2,avx512f,avx512bw,avx512dq,avx512vl")))
#else
#define KLO_TARGET_AVX2
#define KLO_TARGET_AVX512
#endif

inline const char* IsaName(Isa isa) {
  return isa == Isa::kAvx512 ? "AVX-512" : isa == Isa::kAvx2 ? "AVX2" : "baseline";
}

inline Isa SupportedIsa() {
#if defined(__x86_64__) && !defined(KLO_BASE_ISA_ONLY)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl")) {
    return Isa::kAvx512;
  }
  if (__builtin_cpu_supports("avx2")) return Isa::kAvx2;
#endif
  return Isa::kBase;
}

// KERAS_LEGACY_OPT_ISA=baseline|avx2 lowers the choice, for tests and for comparing machines.
inline Isa ChosenIsa() {
  static const Isa chosen = [] {
    const Isa best = SupportedIsa();
    const char* wish = std::getenv("KERAS_LEGACY_OPT_ISA");
    if (wish == nullptr) return best;
    if (std::strcmp(wish, "baseline") == 0) return Isa::kBase;
    if (std::strcmp(wish, "avx2") == 0 && best == Isa::kAvx512) return Isa::kAvx2;
    return best;
  }();
  return chosen;
}

}  // namespace keras_legacy_opt

#endif  // KERAS_LEGACY_OPT_APPLY_ISA_H_
