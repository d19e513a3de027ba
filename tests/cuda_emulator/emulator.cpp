// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
//
// Blocks run one after the other, in an order that a seed decides, and so do the threads between two
// barriers. Shared memory is full of NaN when a block begins. What a GPU does not allow is an error:
// a launch beyond the limits of sm_80, a barrier that not all threads of the block reach, a shuffle
// whose mask names a lane that does not come, writing beyond the shared memory asked for.
#include "emulator.h"

#include <algorithm>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace mmact {
namespace cuda {
// What a kernel declares as its shared memory.
constexpr size_t kSharedLimit = 48 * 1024;
alignas(64) unsigned char mmact_block_memory[kSharedLimit];
}  // namespace cuda
}  // namespace mmact

// Saves the registers of one stack and takes up those of another.
extern "C" void emulator_switch(void** from, void* to);
asm(R"(
.pushsection .text
.globl emulator_switch
.type emulator_switch, @function
emulator_switch:
  push %rbp
  push %rbx
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp, (%rdi)
  mov %rsi, %rsp
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbx
  pop %rbp
  ret
.size emulator_switch, .-emulator_switch
.popsection
)");

dim3 threadIdx, blockIdx, blockDim;

namespace emulator {

namespace {

using mmact::cuda::kSharedLimit;
using mmact::cuda::mmact_block_memory;

constexpr int kWarp = 32;
// Not a power of two apart, or the ends of all stacks would share a few lines of the caches.
constexpr size_t kStack = 128 * 1024 + 192;
constexpr unsigned kMaxThreads = 1024;

enum class State { kReady, kBarrier, kShuffle, kDone };

struct Access {
  uintptr_t address;
  uint32_t bytes;
  bool store;
};

struct Thread {
  State state;
  void* stack_pointer;
  int line;  // of the barrier
  unsigned mask, delta;
  uint64_t value, result;
  std::vector<Access> accesses;
};

struct Counts {
  int64_t launches, blocks, barriers, shuffles;
  int64_t bytes_read, bytes_written, sectors, ideal_sectors;
};
Counts counts;
bool counting = false;

unsigned char* stacks() {
  static unsigned char* const memory = static_cast<unsigned char*>(
      std::aligned_alloc(64, kStack * kMaxThreads));
  return memory;
}

std::vector<Thread> threads(kMaxThreads);
unsigned current;
void* scheduler;
void (*body)(void*);
void* arguments;

[[noreturn]] void fail(const std::string& what) {
  throw std::runtime_error("CUDA emulator: " + what + " (block " + std::to_string(blockIdx.x) +
                           ", " + std::to_string(blockDim.x) + " threads)");
}

#if defined(__SANITIZE_ADDRESS__)
const void* scheduler_bottom;
size_t scheduler_size;
#endif

// Leaves the fiber for the scheduler.
void leave() {
  Thread& self = threads[current];
#if defined(__SANITIZE_ADDRESS__)
  void* fake;
  __sanitizer_start_switch_fiber(self.state == State::kDone ? nullptr : &fake, scheduler_bottom,
                                 scheduler_size);
  emulator_switch(&self.stack_pointer, scheduler);
  __sanitizer_finish_switch_fiber(fake, &scheduler_bottom, &scheduler_size);
#else
  emulator_switch(&self.stack_pointer, scheduler);
#endif
}

void enter() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &scheduler_bottom, &scheduler_size);
#endif
  body(arguments);
  threads[current].state = State::kDone;
  leave();
  std::abort();
}

void start(unsigned t) {
  Thread& thread = threads[t];
  thread.state = State::kReady;
  thread.accesses.clear();
  // As emulator_switch finds it: six registers, and enter() to return to, with the stack aligned as
  // after a call.
  void** top = reinterpret_cast<void**>(stacks() + (t + 1) * kStack) - 1;
  *--top = reinterpret_cast<void*>(&enter);
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  thread.stack_pointer = top;
}

void resume(unsigned t) {
  current = t;
  threadIdx = dim3(t);
#if defined(__SANITIZE_ADDRESS__)
  void* fake;
  __sanitizer_start_switch_fiber(&fake, stacks() + t * kStack, kStack);
  emulator_switch(&scheduler, threads[t].stack_pointer);
  __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#else
  emulator_switch(&scheduler, threads[t].stack_pointer);
#endif
}

// Lets the lanes of a warp go on that wait for a shuffle. Returns whether any did.
bool resolve_shuffle(unsigned first, unsigned end) {
  for (unsigned t = first; t < end; ++t) {
    if (threads[t].state != State::kShuffle) continue;
    const unsigned mask = threads[t].mask;
    bool all = true;
    for (unsigned lane = 0; lane < kWarp; ++lane) {
      if (!(mask >> lane & 1)) continue;
      if (first + lane >= end || threads[first + lane].state == State::kDone)
        fail("a shuffle's mask names a lane that has ended");
      const Thread& other = threads[first + lane];
      all = all && other.state == State::kShuffle && other.mask == mask;
    }
    if (!all) continue;
    if (!(mask >> (t - first) & 1)) fail("a lane shuffles that is not in its mask");
    for (unsigned lane = 0; lane < kWarp; ++lane) {
      if (!(mask >> lane & 1)) continue;
      Thread& own = threads[first + lane];
      const unsigned from = lane + own.delta;
      if (from < kWarp && !(mask >> from & 1)) fail("a shuffle reads a lane that is not in its mask");
      own.result = threads[first + (from < kWarp ? from : lane)].value;
      own.state = State::kReady;
    }
    ++counts.shuffles;
    return true;
  }
  return false;
}

bool resolve_barrier(unsigned size) {
  const int line = threads[0].line;
  for (unsigned t = 0; t < size; ++t) {
    if (threads[t].state != State::kBarrier) return false;
    if (threads[t].line != line) fail("threads wait at different barriers");
  }
  for (unsigned t = 0; t < size; ++t) threads[t].state = State::kReady;
  ++counts.barriers;
  return true;
}

// The k-th accesses of a warp's lanes are one access of the warp: it moves the sectors of 32 bytes
// that they touch.
void count_warp(unsigned first, unsigned end) {
  size_t most = 0;
  for (unsigned t = first; t < end; ++t) most = std::max(most, threads[t].accesses.size());
  std::vector<uintptr_t> sectors;
  for (size_t k = 0; k < most; ++k) {
    sectors.clear();
    int64_t bytes = 0;
    for (unsigned t = first; t < end; ++t) {
      if (k >= threads[t].accesses.size()) continue;
      const Access& a = threads[t].accesses[k];
      bytes += a.bytes;
      (a.store ? counts.bytes_written : counts.bytes_read) += a.bytes;
      for (uintptr_t s = a.address / 32; s <= (a.address + a.bytes - 1) / 32; ++s)
        sectors.push_back(s);
    }
    std::sort(sectors.begin(), sectors.end());
    counts.sectors += std::unique(sectors.begin(), sectors.end()) - sectors.begin();
    counts.ideal_sectors += (bytes + 31) / 32;
  }
}

std::mt19937& random_numbers() {
  static const char* const seed = std::getenv("MMACT_EMULATOR_SEED");
  static std::mt19937 generator(seed ? std::atoi(seed) : 0);
  return generator;
}

void run_block(size_t shared_bytes) {
  const unsigned size = blockDim.x;
  memset(mmact_block_memory, 0xff, kSharedLimit);
  std::vector<unsigned> order(size);
  std::iota(order.begin(), order.end(), 0u);
  std::shuffle(order.begin(), order.end(), random_numbers());
  for (unsigned t = 0; t < size; ++t) start(t);
  for (;;) {
    bool ran = false, done = true;
    for (const unsigned t : order) {
      if (threads[t].state != State::kReady) continue;
      resume(t);
      ran = true;
    }
    for (unsigned first = 0; first < size; first += kWarp)
      while (resolve_shuffle(first, std::min(first + kWarp, size))) ran = true;
    for (unsigned t = 0; t < size; ++t) done = done && threads[t].state == State::kDone;
    if (done) break;
    if (!ran && !resolve_barrier(size)) fail("some threads wait for others that do not come");
  }
  static const std::vector<unsigned char> unwritten(kSharedLimit, 0xff);
  if (memcmp(mmact_block_memory + shared_bytes, unwritten.data(), kSharedLimit - shared_bytes) != 0)
    fail("a write beyond the shared memory of the launch");
  if (counting)
    for (unsigned first = 0; first < size; first += kWarp)
      count_warp(first, std::min(first + kWarp, size));
}

}  // namespace

void launch(const cudaLaunchConfig_t& config, void (*given)(void*), void* with) {
  blockDim = config.blockDim;
  blockIdx = dim3(0);
  if (config.gridDim.x == 0 || config.gridDim.x > 0x7fffffffu) fail("the grid has no legal size");
  if (blockDim.x == 0 || blockDim.x > kMaxThreads) fail("too many threads in a block");
  if (config.dynamicSmemBytes > kSharedLimit) fail("more than 48 KiB of shared memory");
  body = given;
  arguments = with;
  ++counts.launches;
  counts.blocks += config.gridDim.x;
  // Any order of blocks: start anywhere and take steps that share no factor with their number.
  const uint64_t blocks = config.gridDim.x, start = random_numbers()() % blocks;
  uint64_t step = random_numbers()() % blocks | 1;
  while (std::gcd(step, blocks) != 1) ++step;
  for (uint64_t i = 0; i < blocks; ++i) {
    blockIdx = dim3(static_cast<unsigned>((start + i * step) % blocks));
    run_block(config.dynamicSmemBytes);
  }
}

void barrier(int line) {
  threads[current].line = line;
  threads[current].state = State::kBarrier;
  leave();
}

uint64_t shuffle_down(unsigned mask, uint64_t value, unsigned delta) {
  Thread& self = threads[current];
  self.mask = mask;
  self.delta = delta;
  self.value = value;
  self.state = State::kShuffle;
  leave();
  return self.result;
}

void access(const void* address, size_t bytes, bool store) {
  if (counting)
    threads[current].accesses.push_back(
        {reinterpret_cast<uintptr_t>(address), static_cast<uint32_t>(bytes), store});
}

}  // namespace emulator

// For tests, by ctypes: orders of blocks and threads from here on.
extern "C" __attribute__((visibility("default"))) void emulator_seed(int seed) {
  emulator::random_numbers().seed(seed);
}

// The same. Fills in launches, blocks, barriers, shuffles, bytes read, bytes written,
// sectors and the fewest sectors that could hold as many bytes; starts anew, counting accesses or not.
extern "C" __attribute__((visibility("default"))) void emulator_counts(int64_t* to,
                                                                      bool count_accesses) {
  memcpy(to, &emulator::counts, sizeof(emulator::counts));
  emulator::counts = {};
  emulator::counting = count_accesses;
}
