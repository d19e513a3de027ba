// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
//
// What a norm in front of a formula needs besides the formula's own kernels: the numbers of its
// channels, the second pass of backward, and the statistics of a batch.
#include "engine.cuh"
#include "sums.cuh"

namespace mmact {
namespace cuda {
namespace {

// A thread per channel.
template <class T>
__global__ void numbers_kernel(const __grid_constant__ NormReader norm, int64_t channels,
                               T* numbers) {
  const int64_t c = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (c >= channels) return;
  numbers[c] = static_cast<T>(norm.scale(c));
  numbers[channels + c] = static_cast<T>(norm.shift(c));
  numbers[2 * channels + c] = static_cast<T>(norm.mean.at(c));
}

// A block per channel: the gradients of weight and bias, and the numbers of the second pass, whose
// shift takes that of the first one's place.
template <class T>
__global__ void finish_kernel(const __grid_constant__ NormReader norm,
                              const __grid_constant__ Sums sums, double count, T* numbers,
                              const __grid_constant__ SlotsOf<2> gradients) {
  const int64_t c = blockIdx.x, first = sums.entries - Sums::kOfNorm;
  add_chunks(sums, first, Sums::kOfNorm, c);
  if (threadIdx.x != 0) return;
  const double sum = *total(sums, first, c), product = *total(sums, first + 1, c);
  const double inv_std = norm.inv_std(c), scale = norm.scale(c);
  if (norm.weight.data != nullptr) gradients.slots[0].put(c, product * inv_std);
  if (norm.bias.data != nullptr) gradients.slots[1].put(c, sum);
  numbers[sums.channels + c] = static_cast<T>(-scale * sum / count);
  numbers[3 * sums.channels + c] = static_cast<T>(-scale * inv_std * inv_std * product / count);
}

// Writes scale * gz + factor * (x - center) + shift.
template <class Raw, class A>
__global__ void __launch_bounds__(kMaxThreads)
    second_kernel(const __grid_constant__ Task task, const at::opmath_type<Raw>* numbers,
                  const Raw* gz, const Raw* __restrict__ x, Raw* gx) {
  using T = at::opmath_type<Raw>;
  using B = Batch<Raw, A>;
  const Place<A> place(task);
  numbers += place.existing(task);
  const T scale = numbers[0], shift = numbers[task.channels], center = numbers[2 * task.channels],
          factor = numbers[3 * task.channels];
  Walk<Raw, A> walk(task, place);
  while (walk.more()) {
    const B batch(walk);
    typename B::Pack packs[B::kCount], grads[B::kCount];
    batch.load(x, packs);
    batch.load(gz, grads);
#pragma unroll
    for (int j = 0; j < B::kCount; ++j) {
      if (!batch.has(j)) continue;
#pragma unroll
      for (int v = 0; v < B::kVector; ++v) {
        const T rest = Scalar<T>::fma(static_cast<T>(grads[j].values[v]), scale, shift);
        const T centered = static_cast<T>(packs[j].values[v]) - center;
        packs[j].values[v] = static_cast<Raw>(Scalar<T>::fma(centered, factor, rest));
      }
      batch.store(packs[j], j, gx);
    }
  }
}

// The channel's first element, or 0 if it is not finite: what statistics are taken about, so that a
// large mean costs no digits.
template <class Raw>
__device__ at::opmath_type<Raw> center_of(const Task& task, int64_t channel, const Raw* x) {
  const auto first = static_cast<at::opmath_type<Raw>>(x[channel * task.inner]);
  return first - first == 0 ? first : 0;
}

// Sums of the differences from the center, and of their squares.
template <class Raw, class A>
__global__ void __launch_bounds__(kMaxThreads)
    statistics_kernel(const __grid_constant__ Task task, const Raw* __restrict__ x,
                      double* __restrict__ partial) {
  using T = at::opmath_type<Raw>;
  using B = Batch<Raw, A>;
  const Place<A> place(task);
  const T center = center_of(task, place.existing(task), x);
  T sum = 0, square = 0;
  Walk<Raw, A> walk(task, place);
  while (walk.more()) {
    const B batch(walk);
    typename B::Pack packs[B::kCount];
    batch.load(x, packs);
#pragma unroll
    for (int j = 0; j < B::kCount; ++j) {
      if (!batch.has(j)) continue;
#pragma unroll
      for (int v = 0; v < B::kVector; ++v) {
        const T difference = static_cast<T>(packs[j].values[v]) - center;
        sum += difference;
        square = Scalar<T>::fma(difference, difference, square);
      }
    }
  }
  T* const sums = block_memory<T>();
  sums[threadIdx.x] = sum;
  sums[blockDim.x + threadIdx.x] = square;
  __syncthreads();
  add_threads(task, place, sums, Sums::kOfNorm,
              partial + place.chunk * Sums::kOfNorm * task.channels + place.first_channel);
}

// Results: mean, var, and BatchNorm's running ones, or null.
struct Statistics {
  SlotsOf<4> slots;
  double momentum;
};

// A block per channel.
template <class Raw>
__global__ void statistics_of_sums_kernel(const __grid_constant__ Task task, const Raw* x,
                                          const __grid_constant__ Sums sums,
                                          const __grid_constant__ Statistics to) {
  const int64_t c = blockIdx.x;
  add_chunks(sums, 0, Sums::kOfNorm, c);
  if (threadIdx.x != 0) return;
  const double count = static_cast<double>(task.elements);
  const double shifted = *total(sums, 0, c) / count, square = *total(sums, 1, c) / count;
  const double mean = static_cast<double>(center_of(task, c, x)) + shifted;
  const double difference = square - shifted * shifted;
  const double spread = difference < 0 ? 0 : difference;  // NaN stays
  to.slots.slots[0].put(c, mean);
  to.slots.slots[1].put(c, spread);
  const auto keep = [&](const Slots& running, double value) {
    if (running.data == nullptr) return;
    const double old = Values{running.data, running.storage}.at(c);
    running.put(c, to.momentum * value + (1 - to.momentum) * old);
  };
  keep(to.slots.slots[2], mean);
  keep(to.slots.slots[3], spread * count / (count - 1));
}

template <class Raw>
auto* data_of(const Tensor& t) {
  return static_cast<const Raw*>(t.const_data_ptr());
}

// Calls launch(T()) with the arithmetic type of the numbers.
template <class Launch>
void with_arithmetic(const Tensor& numbers, Launch launch) {
  if (numbers.scalar_type() == at::kDouble)
    launch(double());
  else
    launch(float());
}

// Writes scale * gz + factor * (x - center) + shift, the rows of `numbers` in their order there.
void second_pass(const Tensor& numbers, const Tensor& gz, const Tensor& x, Tensor& gx) {
  const bool aligned = is_aligned(gz) && is_aligned(x) && is_aligned(gx);
  const Plan plan = make_plan(x, numbers.size(1), 1, aligned, 0, 0, 0, 1);
  with_storage(x, [&](auto raw) {
    using Raw = decltype(raw);
    with_norm_access(plan, [&](auto access) {
      launch_kernel(second_kernel<Raw, decltype(access)>, plan.blocks(), plan.threads,
                    plan.shared_bytes, plan.task, numbers.const_data_ptr<at::opmath_type<Raw>>(),
                    data_of<Raw>(gz), data_of<Raw>(x), static_cast<Raw*>(gx.mutable_data_ptr()));
    });
  });
}

}  // namespace
}  // namespace cuda

CudaNorm::CudaNorm(const NormOf& of, const Tensor& x)
    : numbers(at::empty({4, of.channels()}, x.options().dtype(arithmetic_type(x)))) {
  const c10::cuda::CUDAGuard guard(x.device());
  norm.numbers = numbers.const_data_ptr();
  if (of.residual.defined()) norm.residual = of.residual.const_data_ptr();
  cuda::with_arithmetic(numbers, [&](auto zero) {
    using T = decltype(zero);
    const int64_t blocks = cuda::divide_up(channels(), cuda::kSumThreads);
    cuda::launch_kernel(cuda::numbers_kernel<T>, static_cast<unsigned>(blocks), cuda::kSumThreads,
                        0, NormReader(of), channels(), numbers.mutable_data_ptr<T>());
  });
}

void CudaNorm::finish(const NormOf& of, const Tensor& gz, const Tensor& x, Tensor& gx,
                      const Tensor& g_weight, const Tensor& g_bias) {
  const c10::cuda::CUDAGuard guard(x.device());
  const double count = static_cast<double>(x.numel() / channels());
  cuda::Sums own = sums;
  own.per_group = 1;  // the norm's channels are each alone
  cuda::with_arithmetic(numbers, [&](auto zero) {
    using T = decltype(zero);
    cuda::launch_kernel(cuda::finish_kernel<T>, static_cast<unsigned>(channels()),
                        cuda::kSumThreads, 0, NormReader(of), own, count,
                        numbers.mutable_data_ptr<T>(), SlotsOf<2>({g_weight, g_bias}));
  });
  if (gz.defined()) cuda::second_pass(numbers, gz, x, gx);
}

void CudaNorm::add_centered(Tensor& g, const Tensor& x, const Tensor& center, const Tensor& factor,
                            const Tensor& shift) {
  const c10::cuda::CUDAGuard guard(x.device());
  Tensor numbers = at::ones({4, center.size(0)}, x.options().dtype(arithmetic_type(x)));
  numbers[1].copy_(shift);
  numbers[2].copy_(center);
  numbers[3].copy_(factor);
  cuda::second_pass(numbers, g, x, g);
}

void CudaNorm::statistics(const Tensor& x, const OptionalTensor& running_mean,
                          const OptionalTensor& running_var, double momentum, Tensor& mean,
                          Tensor& var) {
  const c10::cuda::CUDAGuard guard(x.device());
  const int64_t channels = mean.size(0);
  const cuda::Plan plan =
      cuda::make_plan(x, channels, 1, cuda::is_aligned(x), 0, 1, cuda::Sums::kOfNorm, 1);
  const Tensor partial =
      at::empty({plan.num_chunks, cuda::Sums::kOfNorm, channels}, x.options().dtype(at::kDouble));
  const cuda::Sums sums{partial.mutable_data_ptr<double>(), plan.num_chunks, cuda::Sums::kOfNorm,
                        channels, 1};
  const auto given = [](const OptionalTensor& t) { return t ? *t : Tensor(); };
  const cuda::Statistics to{SlotsOf<4>({mean, var, given(running_mean), given(running_var)}),
                            momentum};
  cuda::with_storage(x, [&](auto raw) {
    using Raw = decltype(raw);
    cuda::with_norm_access(plan, [&](auto access) {
      cuda::launch_kernel(cuda::statistics_kernel<Raw, decltype(access)>, plan.blocks(),
                          plan.threads, plan.shared_bytes, plan.task, cuda::data_of<Raw>(x),
                          sums.partial);
    });
    cuda::launch_kernel(cuda::statistics_of_sums_kernel<Raw>, static_cast<unsigned>(channels),
                        cuda::kSumThreads, 0, plan.task, cuda::data_of<Raw>(x), sums, to);
  });
}

}  // namespace mmact
