// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
//
// What a kernel works on, in types that every instruction set's build shares.
#pragma once

#include <cstdint>

namespace mmact {

enum class Storage { kHalf, kBFloat16, kFloat, kDouble };

// A dense tensor seen as (outer, channels, inner): element (o, c, i) is at
// (o * channels + c) * inner + i. Every dense tensor has this form, whatever its memory format:
// inner is the product of the sizes of the dimensions that vary faster than the channel's.
//
// Work is cut into items in a way that depends on sizes alone, never on the number of threads, so
// that sums come out the same to the bit on any number of them.
struct Task {
  const void* x;
  const void* grad;  // backward only
  void* out;         // y, or the gradient of x
  int64_t outer, channels, inner;
  int64_t chunk, num_chunks;  // elements of one channel (of all, if inner is 1) in one work item
  // Backward: partial sums, (num_chunks, entries, channel_stride), zero at the start.
  double* sums;
  int64_t channel_stride;

  // Neighbours in memory belong to different channels: a lane is a channel, not an element of one.
  bool lane_is_channel() const { return inner == 1 && channels > 1; }
  static constexpr int64_t kLaneChannels = 256;  // channels in one work item of that layout
  int64_t num_items() const {
    return num_chunks *
           (lane_is_channel() ? (channels + kLaneChannels - 1) / kLaneChannels : channels);
  }
};

}  // namespace mmact
