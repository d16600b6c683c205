// Stand-ins for what the kernels of gpu/ use of CUDA: the same text, compiled as C++, runs block by block.
//
// Each thread of a block is a fibre, which runs until the next barrier. One that misses a barrier of the others is
// found, and so are most races: blocks can run with their threads in either order.
#ifndef KERAS_LEGACY_OPT_TESTS_CUDA_H_
#define KERAS_LEGACY_OPT_TESTS_CUDA_H_

#include <ucontext.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "check.h"

#define KLO_DEVICE inline
#define KLO_KERNEL void
#define KLO_UNROLL
#define KLO_UNROLL_8
#define KLO_ROLLED
#define __shared__ static

struct CudaIndex {
  unsigned x;
};
inline CudaIndex threadIdx, blockIdx, gridDim;

namespace keras_legacy_opt {

class Fibres {
 public:
  // Calls kernel() for every thread of every block. A kernel without barriers needs no fibres.
  static void Run(int64_t blocks, int threads, bool has_barriers, bool is_reversed,
                  const std::function<void()>& kernel) {
    gridDim.x = static_cast<unsigned>(blocks);
    Fibres fibres(threads, kernel);
    for (int64_t block = 0; block < blocks; ++block) {
      blockIdx.x = static_cast<unsigned>(is_reversed ? blocks - 1 - block : block);
      if (has_barriers) {
        fibres.RunBlock(is_reversed);
        continue;
      }
      for (int thread = 0; thread < threads; ++thread) {
        threadIdx.x = static_cast<unsigned>(is_reversed ? threads - 1 - thread : thread);
        kernel();
      }
    }
  }

  static void Barrier() {
    CHECK(current_ != nullptr, "a kernel that was said to have no barriers has one");
    const unsigned thread = threadIdx.x;
    current_->at_barrier_ = true;
    swapcontext(&current_->contexts_[thread], &current_->main_);
    threadIdx.x = thread;
  }

 private:
  static constexpr size_t kStack = size_t{1} << 16;

  Fibres(int threads, const std::function<void()>& kernel)
      : threads_(threads), kernel_(kernel), contexts_(threads), stacks_(new char[threads * kStack]) {}

  static void Enter() {
    current_->kernel_();
    current_->at_barrier_ = false;
  }

  void RunBlock(bool is_reversed) {
    current_ = this;
    for (int i = 0; i < threads_; ++i) {
      getcontext(&contexts_[i]);
      contexts_[i].uc_stack.ss_sp = stacks_.get() + i * kStack;
      contexts_[i].uc_stack.ss_size = kStack;
      contexts_[i].uc_link = &main_;
      makecontext(&contexts_[i], &Fibres::Enter, 0);
    }
    bool runs = true;
    while (runs) {
      for (int i = 0; i < threads_; ++i) {
        const int thread = is_reversed ? threads_ - 1 - i : i;
        threadIdx.x = static_cast<unsigned>(thread);
        swapcontext(&main_, &contexts_[thread]);
        CHECK(i == 0 || at_barrier_ == runs, "thread " << thread << " and another one disagree about a barrier");
        runs = at_barrier_;
      }
    }
    current_ = nullptr;
  }

  static inline Fibres* current_ = nullptr;
  const int threads_;
  const std::function<void()>& kernel_;
  ucontext_t main_;
  std::vector<ucontext_t> contexts_;
  std::unique_ptr<char[]> stacks_;
  bool at_barrier_ = false;
};

}  // namespace keras_legacy_opt

inline void __syncthreads() { keras_legacy_opt::Fibres::Barrier(); }

// Blocks run one after the other.
inline void __threadfence() {}

inline uint32_t atomicAdd(uint32_t* to, uint32_t number) {
  const uint32_t before = *to;
  *to += number;
  return before;
}

#endif  // KERAS_LEGACY_OPT_TESTS_CUDA_H_
