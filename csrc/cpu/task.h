// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
//
// The work of kernels, in types that every instruction set's build shares.
#pragma once

#include <cstdint>

#include "../formulas/storage.h"

namespace mmact {

// A normalisation in front of a formula, which is given z = scale * x + shift in place of x, to
// which the residual is added, or factor * (residual - center). Its channels are those of the
// tensor, also where a formula's function is shared by a group of them: the element at p has
// channel p / inner % channels.
//
// In backward the kernel finds the gradient of z, and its sums over each channel. Where scale and
// shift are constants, `out` gets the gradient of x, and `grad_residual` that of z; else `out` gets
// that of z.
struct Norm {
  // More numbers behind the last channel, as if the channels went round: whole vectors are read.
  static constexpr int64_t kPadding = 16;
  int64_t channels, inner;
  const void *scale, *shift;  // in the arithmetic type
  const void* center;         // backward only
  const void* factor;         // or null
  const void* residual;       // or null
  // Backward only.
  bool constant;
  void* grad_residual;  // or null
  // Partial sums of gz and of gz * (x - center), zero at the start. Where neighbours in memory
  // belong to different channels: (num_chunks, 2, stride); else (outer * channels, parts, 2), where
  // a part is what a chunk has of a run of `inner` elements.
  double* sums;
  int64_t stride, parts;
};

// A dense tensor seen as (outer, channels, inner): element (o, c, i) is at
// (o * channels + c) * inner + i. Every dense tensor has this form, whatever its memory format:
// inner is the product of the sizes of the dimensions that vary faster than the channel's.
//
// Work is cut into items in a way that depends on sizes alone, never on the number of threads, so
// that sums come out the same to the bit on any number of them.
struct Task {
  Storage storage;  // of x, grad and out; arithmetic is in double if it is, else in float
  const void* x;
  const void* grad;  // backward only
  void* out;         // y, or the gradient of x
  int64_t outer, channels, inner;
  int64_t chunk, num_chunks;  // elements of one channel (of all, if inner is 1) in one work item
  // The formula's table, in the arithmetic type: number `row` of channel c is at
  // c * table_channel + row * table_row. Where a lane is a channel, whole vectors of channels can
  // be read.
  const void* table;
  int64_t table_channel, table_row;
  // Backward: partial sums, zero at the start: (num_chunks, entries, channel_stride) where a lane
  // is a channel, else (num_chunks, channels, entries).
  double* sums;
  int64_t channel_stride;
  const Norm* norm;  // or null

  // Neighbours in memory belong to different channels: a lane is a channel, not an element of one.
  bool lane_is_channel() const { return inner == 1 && channels > 1; }
  // Whether tensors lie in memory in the kernel's arithmetic type.
  bool is_plain() const { return storage == Storage::kFloat || storage == Storage::kDouble; }
  int64_t element_size() const {
    return storage == Storage::kDouble ? 8 : storage == Storage::kFloat ? 4 : 2;
  }
  static constexpr int64_t kLaneChannels = 256;  // channels in one work item of that layout
  int64_t num_items() const {
    return num_chunks *
           (lane_is_channel() ? (channels + kLaneChannels - 1) / kLaneChannels : channels);
  }
};

// The work of kernels whose coefficients belong to a sample, and which may read and sum numbers of
// a pixel, that is of all its channels.
struct SamplesTask {
  static constexpr int64_t kBlock = 64;  // channels in a block at most; whole vectors
  // One sample: pointers to the first; a chunk is a run of pixels. Its sums are
  // (num_chunks, samples, entries, channel_stride).
  Task task;
  int64_t samples, block, num_blocks;  // a work item is a chunk of pixels of a block of channels
  // In the arithmetic type, or null.
  const void* pixels;  // (samples, pixels)
  void* pixel_sums;    // (num_blocks, samples, pixels): partial sums
};

// Numbers of the channels of samples, in the arithmetic type: number `row` of a channel is at
// sample * sample_stride + row * row_stride + channel. Where a lane is a channel, whole vectors of
// channels can be read.
struct SampleTable {
  const void* numbers;
  int64_t sample_stride, row_stride;
};

}  // namespace mmact
