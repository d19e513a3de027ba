// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
//
// The CUDA engine: runs a formula over a tensor in any layout and storage type, and sums what its
// backward adds per channel and bin.
//
// A formula's table is a matrix of `rows` by channels in global memory. A thread works on one
// channel; what the engine runs on its elements is formula.load(column), `column` being its
// channel's column of the table.
//
// There are no floating-point atomics: every sum is taken in an order that sizes alone decide.
#pragma once

#include <ATen/OpMathType.h>

#include <type_traits>

#include "host.h"
#include "launch.cuh"
#include "scalar.h"

namespace mmact {
namespace cuda {

// A kernel's way to its data; the fields of Plan of the same names.
template <bool vector, bool lanes, bool shared_table, bool norm = false>
struct Access {
  static constexpr bool kVector = vector, kLanes = lanes, kSharedTable = shared_table;
  static constexpr bool kNorm = norm;
  static constexpr int kWidth = lanes ? kWarp : 1;  // channels in a group
};

// A column of a table, from some row on.
template <class T, class A>
struct Column {
  const T* entries;
  int64_t stride;

  __device__ T at(int row) const {
    if constexpr (A::kSharedTable)
      return entries[row * A::kWidth];
    else
      return __ldg(entries + row * stride);
  }
  // at(row), where kFrom <= row < kTo.
  template <int kFrom, int kTo>
  __device__ T between(int row) const {
    return at(row);
  }
  // A part to be looked up by index.
  __device__ Column table(int row, int) const {
    return {entries + row * (A::kSharedTable ? A::kWidth : stride), stride};
  }
};

// The work item of a block, and the channel of a thread. The last group may be incomplete: threads
// whose channel does not exist do nothing but take part in what all threads of the block do.
template <class A>
struct Place {
  int64_t chunk, first_channel, channel;

  __device__ explicit Place(const Task& task) {
    const unsigned groups = static_cast<unsigned>(task.groups);
    chunk = blockIdx.x / groups;
    first_channel = static_cast<int64_t>(blockIdx.x % groups) * A::kWidth;
    channel = first_channel + threadIdx.x % A::kWidth;
  }
  // The table's columns, and a channel's. Without a norm nothing is kept or computed for them.
  __device__ static int64_t columns(const Task& task) {
    return A::kNorm ? task.columns : task.channels;
  }
  __device__ static int64_t column(const Task& task, int64_t channel) {
    return A::kNorm ? channel / task.per_column : channel;
  }
  // A channel to read the numbers of, also where there is none.
  __device__ int64_t existing(const Task& task) const {
    const int64_t last = task.channels - 1;
    return channel < last ? channel : last;
  }
};

// The column of the thread's channel. All threads of the block must call it: it brings the columns
// of the block's channels to `shared`, which must hold task.rows * kWidth values.
template <class A, class T>
__device__ Column<T, A> open_table(const Task& task, const Place<A>& place, const T* table,
                                   T* shared) {
  if constexpr (A::kSharedTable) {
    for (int k = threadIdx.x; k < task.rows * A::kWidth; k += blockDim.x) {
      const int64_t row = k / A::kWidth, channel = place.first_channel + k % A::kWidth;
      shared[k] = channel < task.channels
                      ? table[row * place.columns(task) + place.column(task, channel)]
                      : T(0);
    }
    __syncthreads();
    return {shared + threadIdx.x % A::kWidth, A::kWidth};
  } else {
    return {table + place.column(task, place.existing(task)), place.columns(task)};
  }
}

// The positions of a thread in its channel and chunk, one after the other.
template <class Raw, class A>
struct Walk {
  const Task& task;
  int64_t position, end;
  int64_t in_run, offset;  // the position in the run of `inner`, and in memory

  __device__ Walk(const Task& t, const Place<A>& place) : task(t) {
    constexpr int kVector = A::kVector ? kGroupBytes / sizeof(Raw) : 1;
    const int64_t begin = place.chunk * task.chunk, stop = begin + task.chunk;
    position = begin + static_cast<int>(threadIdx.x) / A::kWidth * kVector;
    end = stop < task.elements ? stop : task.elements;
    if (place.channel >= task.channels) end = 0;
    const int64_t outer = position / task.inner;
    in_run = position - outer * task.inner;
    offset = (outer * task.channels + place.channel) * task.inner + in_run;
  }
  __device__ bool more() const { return position < end; }
  __device__ void advance() {
    position += task.step;
    offset += task.step_offset;
    if constexpr (A::kLanes) return;  // runs of one element: every step begins one
    in_run += task.step_inner;
    if (in_run >= task.inner) {
      in_run -= task.inner;
      offset += task.next_run;
    }
  }
};

// The next 16 bytes of a walk: one vector, or several single elements, so that as many loads are
// under way at a time.
template <class Raw, class A>
struct Batch {
  static constexpr int kVector = A::kVector ? kGroupBytes / sizeof(Raw) : 1;
  static constexpr int kCount = kGroupBytes / sizeof(Raw) / kVector;

  struct alignas(kVector * sizeof(Raw)) Pack {
    Raw values[kVector];
  };

  int64_t offsets[kCount];    // in memory; -1 where the walk has ended
  int64_t positions[kCount];  // in the channel

  __device__ explicit Batch(Walk<Raw, A>& walk) {
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      offsets[j] = walk.more() ? walk.offset : -1;
      positions[j] = walk.position;
      walk.advance();
    }
  }
  // Numbers the elements of the tensor: (position in the channel) * channels + channel, where what
  // shares a function is one channel.
  __device__ uint32_t index(const Task& task, const Place<A>& place, int j, int v) const {
    int64_t position = positions[j] + v;
    if constexpr (A::kNorm) {
      const int64_t outer = position / task.inner, member = place.channel % task.per_column;
      position += (outer * (task.per_column - 1) + member) * task.inner;
    }
    return static_cast<uint32_t>(position * place.columns(task) +
                                 place.column(task, place.channel));
  }
  __device__ bool has(int j) const { return offsets[j] >= 0; }
  __device__ void load(const Raw* from, Pack (&to)[kCount]) const {
#pragma unroll
    for (int j = 0; j < kCount; ++j)
      if (has(j)) to[j] = read_global(reinterpret_cast<const Pack*>(from + offsets[j]));
  }
  __device__ void store(const Pack& from, int j, Raw* to) const {
    write_global(reinterpret_cast<Pack*>(to + offsets[j]), from);
  }
};

// The block's shared memory. A function, so that kernels of different T share one declaration.
template <class T>
__device__ T* block_memory() {
  extern __shared__ __align__(16) unsigned char mmact_block_memory[];
  return reinterpret_cast<T*>(mmact_block_memory);
}

// A thread's part of the norm, or of nothing, in front of its formula.
template <class Raw, class A>
struct Front {
  using T = at::opmath_type<Raw>;
  const Norm& norm;
  T scale, shift, center, sum = 0, product = 0;

  __device__ Front(const Task& task, const Place<A>& place, const Norm& norm) : norm(norm) {
    if constexpr (A::kNorm) {
      const T* const numbers = static_cast<const T*>(norm.numbers) + place.existing(task);
      scale = numbers[0];
      shift = numbers[task.channels];
      center = numbers[2 * task.channels];
    }
  }
  template <class B>
  __device__ void load_residual(const B& batch, typename B::Pack (&to)[B::kCount]) const {
    if constexpr (A::kNorm)
      if (norm.residual != nullptr) batch.load(static_cast<const Raw*>(norm.residual), to);
  }
  // What the formula is given in place of x.
  __device__ T value(const Raw& x, const Raw& residual) const {
    if constexpr (A::kNorm) {
      const T z = Scalar<T>::fma(static_cast<T>(x), scale, shift);
      return norm.residual == nullptr ? z : z + static_cast<T>(residual);
    } else {
      return static_cast<T>(x);
    }
  }
  // Turns the gradient that the formula gives into what is written as that of x; with a norm it is
  // added to the sums, and left in `residual`.
  __device__ Raw gradient(T gz, const Raw& x, Raw& residual) {
    if constexpr (A::kNorm) {
      sum += gz;
      product = Scalar<T>::fma(gz, static_cast<T>(x) - center, product);
      residual = static_cast<Raw>(gz);
      if (norm.constant) gz *= scale;
    }
    return static_cast<Raw>(gz);
  }
  template <class B>
  __device__ void store_residual(const B& batch, const typename B::Pack& from, int j) const {
    if constexpr (A::kNorm)
      if (norm.grad_residual != nullptr)
        batch.store(from, j, static_cast<Raw*>(norm.grad_residual));
  }
  // Leaves the sums behind the thread's others.
  __device__ void put_sums(T* to) const {
    if constexpr (A::kNorm) {
      to[0] = sum;
      to[blockDim.x] = product;
    }
  }
};

// Forward ----------------------------------------------------------------------------------------

template <class Raw, class A, class Formula>
__global__ void __launch_bounds__(kMaxThreads)
    forward_kernel(const __grid_constant__ Task task, const __grid_constant__ Norm norm,
                   const Formula formula, const at::opmath_type<Raw>* __restrict__ table,
                   const Raw* __restrict__ x, Raw* __restrict__ y) {
  using T = at::opmath_type<Raw>;
  using B = Batch<Raw, A>;
  const Place<A> place(task);
  const auto f =
      formula.template load<Scalar<T>>(open_table<A>(task, place, table, block_memory<T>()));
  const Front<Raw, A> front(task, place, norm);
  Walk<Raw, A> walk(task, place);
  while (walk.more()) {
    const B batch(walk);
    typename B::Pack packs[B::kCount], residuals[B::kCount];
    batch.load(x, packs);
    front.load_residual(batch, residuals);
#pragma unroll
    for (int j = 0; j < B::kCount; ++j) {
      if (!batch.has(j)) continue;
#pragma unroll
      for (int v = 0; v < B::kVector; ++v)
        packs[j].values[v] =
            static_cast<Raw>(f.forward(front.value(packs[j].values[v], residuals[j].values[v]),
                                       batch.index(task, place, j, v)));
      batch.store(packs[j], j, y);
    }
  }
}

// Backward ---------------------------------------------------------------------------------------

// Adds up the threads' sums, entry e of thread t being sums[e * blockDim.x + t], in double: over
// the whole block, or over the threads of each channel. `to` is entry 0 of the block's first
// channel. All threads of the block must call it, between barriers.
template <class A, class T>
__device__ void add_threads(const Task& task, const Place<A>& place, const T* sums, int entries,
                            double* to) {
  const int threads = blockDim.x, lane = threadIdx.x % kWarp;
  for (int e = threadIdx.x / kWarp; e < entries; e += threads / kWarp) {
    double sum = 0;
    for (int t = lane; t < threads; t += kWarp) sum += sums[e * threads + t];
    if constexpr (A::kLanes) {
      if (place.channel < task.channels) to[e * task.channels + lane] = sum;
    } else {
      for (int other = kWarp / 2; other > 0; other /= 2)
        sum += __shfl_down_sync(0xffffffffu, sum, other);
      if (lane == 0) to[e * task.channels] = sum;
    }
  }
}

// Writes the gradient of x, and to `partial` the sums of each chunk: (num_chunks, bins * kTerms,
// channels). Sums of a thread are in T: a chunk is too short for their error to matter (see
// make_plan). They are private to the thread, and in banks of their own: no two threads of a warp
// ever meet in a bank.
template <class Raw, class A, class Formula>
__global__ void __launch_bounds__(kMaxThreads)
    backward_kernel(const __grid_constant__ Task task, const __grid_constant__ Norm norm,
                    const Formula formula, const at::opmath_type<Raw>* __restrict__ table,
                    const Raw* __restrict__ x, const Raw* __restrict__ grad,
                    Raw* __restrict__ grad_x, double* __restrict__ partial, int bins,
                    int bins_per_pass) {
  using T = at::opmath_type<Raw>;
  using B = Batch<Raw, A>;
  const int threads = blockDim.x;
  const Place<A> place(task);
  T* const columns = block_memory<T>();
  T* const sums = columns + (A::kSharedTable ? task.rows * A::kWidth : 0);
  T* const own = sums + threadIdx.x;
  const auto f = formula.template load<Scalar<T>>(open_table<A>(task, place, table, columns));
  constexpr int kTerms = std::decay_t<decltype(f)>::kTerms;
  Front<Raw, A> front(task, place, norm);

  // One pass, unless there are so many bins that their sums do not fit into shared memory.
  for (int first = 0; first < bins; first += bins_per_pass) {
    const int count = bins - first < bins_per_pass ? bins - first : bins_per_pass;
    for (int e = 0; e < count * kTerms; ++e) own[e * threads] = 0;
    Walk<Raw, A> walk(task, place);
    while (walk.more()) {
      const B batch(walk);
      typename B::Pack packs[B::kCount], grads[B::kCount], residuals[B::kCount];
      batch.load(x, packs);
      batch.load(grad, grads);
      front.load_residual(batch, residuals);
#pragma unroll
      for (int j = 0; j < B::kCount; ++j) {
        if (!batch.has(j)) continue;
#pragma unroll
        for (int v = 0; v < B::kVector; ++v) {
          int bin;
          T terms[kTerms];
          Raw &here = packs[j].values[v], &residual = residuals[j].values[v];
          const T gz = f.backward(front.value(here, residual), static_cast<T>(grads[j].values[v]),
                                  bin, terms);
          here = front.gradient(gz, here, residual);
          bin -= first;
          if (0 <= bin && bin < count) {
#pragma unroll
            for (int t = 0; t < kTerms; ++t) own[(bin * kTerms + t) * threads] += terms[t];
          }
        }
        if (first != 0) continue;
        batch.store(packs[j], j, grad_x);
        front.store_residual(batch, residuals[j], j);
      }
    }
    front.put_sums(own + count * kTerms * threads);
    __syncthreads();
    const int64_t entry = place.chunk * (bins * kTerms + (A::kNorm ? Sums::kOfNorm : 0));
    double* const to = partial + entry * task.channels + place.first_channel;
    add_threads(task, place, sums, count * kTerms, to + first * kTerms * task.channels);
    if (A::kNorm && first == 0)
      add_threads(task, place, sums + count * kTerms * threads, Sums::kOfNorm,
                  to + bins * kTerms * task.channels);
    __syncthreads();  // the next pass overwrites sums that other threads may still be reading
  }
}

// The same for formulas that add every element to the same sums, which a thread keeps in registers
// until its elements are done.
template <class Raw, class A, class Formula>
__global__ void __launch_bounds__(kMaxThreads)
    backward_sums_kernel(const __grid_constant__ Task task, const __grid_constant__ Norm norm,
                         const Formula formula, const at::opmath_type<Raw>* __restrict__ table,
                         const Raw* __restrict__ x, const Raw* __restrict__ grad,
                         Raw* __restrict__ grad_x, double* __restrict__ partial, int count) {
  using T = at::opmath_type<Raw>;
  using B = Batch<Raw, A>;
  const int threads = blockDim.x;
  const Place<A> place(task);
  T* const columns = block_memory<T>();
  T* const shared_sums = columns + (A::kSharedTable ? task.rows * A::kWidth : 0);
  const auto f = formula.template load<Scalar<T>>(open_table<A>(task, place, table, columns));
  T sums[std::decay_t<decltype(f)>::kSums];
#pragma unroll
  for (int e = 0; e < count; ++e) sums[e] = 0;
  Front<Raw, A> front(task, place, norm);

  Walk<Raw, A> walk(task, place);
  while (walk.more()) {
    const B batch(walk);
    typename B::Pack packs[B::kCount], grads[B::kCount], residuals[B::kCount];
    batch.load(x, packs);
    batch.load(grad, grads);
    front.load_residual(batch, residuals);
#pragma unroll
    for (int j = 0; j < B::kCount; ++j) {
      if (!batch.has(j)) continue;
#pragma unroll
      for (int v = 0; v < B::kVector; ++v) {
        Raw &here = packs[j].values[v], &residual = residuals[j].values[v];
        const T gz = f.backward(front.value(here, residual), static_cast<T>(grads[j].values[v]),
                                batch.index(task, place, j, v), sums);
        here = front.gradient(gz, here, residual);
      }
      batch.store(packs[j], j, grad_x);
      front.store_residual(batch, residuals[j], j);
    }
  }
#pragma unroll
  for (int e = 0; e < count; ++e) shared_sums[e * threads + threadIdx.x] = sums[e];
  front.put_sums(shared_sums + count * threads + threadIdx.x);
  __syncthreads();
  const int entries = count + (A::kNorm ? Sums::kOfNorm : 0);
  add_threads(task, place, shared_sums, entries,
              partial + place.chunk * entries * task.channels + place.first_channel);
}

// Launching --------------------------------------------------------------------------------------

// With a norm in front.
template <class Launch>
void with_norm_access(const Plan& plan, Launch launch) {
  if (plan.lanes)
    launch(Access<false, true, false, true>{});
  else if (plan.vector)
    launch(Access<true, false, true, true>{});
  else
    launch(Access<false, false, false, true>{});
}

// Calls launch(Access) with the kernels' way to get at their data under the plan.
template <class Launch>
void with_access(const Plan& plan, Launch launch) {
  if (plan.norm)
    with_norm_access(plan, launch);
  else if (plan.lanes && plan.shared_table)
    launch(Access<false, true, true>{});
  else if (plan.lanes)
    launch(Access<false, true, false>{});
  else if (plan.vector)
    launch(Access<true, false, true>{});
  else if (plan.shared_table)
    launch(Access<false, false, true>{});
  else
    launch(Access<false, false, false>{});
}

template <class Raw, class Settings>
void launch_forward(const Plan& plan, const Norm& norm, const Settings& settings, const void* table,
                    const void* x, void* y) {
  using T = at::opmath_type<Raw>;
  settings.with_formula([&](const auto& formula) {
    using Formula = std::decay_t<decltype(formula)>;
    with_access(plan, [&](auto access) {
      launch_kernel(forward_kernel<Raw, decltype(access), Formula>, plan.blocks(), plan.threads,
                    plan.shared_bytes, plan.task, norm, formula, static_cast<const T*>(table),
                    static_cast<const Raw*>(x), static_cast<Raw*>(y));
    });
  });
}

template <class Raw, class Settings>
void launch_backward(const Plan& plan, const Norm& norm, const Settings& settings,
                     const void* table, const void* x, const void* grad, void* gx,
                     double* partial) {
  using T = at::opmath_type<Raw>;
  settings.with_formula([&](const auto& formula) {
    using Formula = std::decay_t<decltype(formula)>;
    with_access(plan, [&](auto access) {
      using A = decltype(access);
      const auto launch = [&](auto kernel, const auto&... counts) {
        launch_kernel(kernel, plan.blocks(), plan.threads, plan.shared_bytes, plan.task, norm,
                      formula, static_cast<const T*>(table), static_cast<const Raw*>(x),
                      static_cast<const Raw*>(grad), static_cast<Raw*>(gx), partial, counts...);
      };
      if constexpr (Settings::kTerms > 0)
        launch(backward_kernel<Raw, A, Formula>, settings.entries() / Settings::kTerms,
               plan.bins_per_pass);
      else
        launch(backward_sums_kernel<Raw, A, Formula>, settings.entries());
    });
  });
}

}  // namespace cuda
}  // namespace mmact
