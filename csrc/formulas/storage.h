// Copyright (c) mmact contributors.
// SPDX-License-Identifier: Apache-2.0
//
// The types that numbers have in memory, and numbers of a type that is known only at run time.
#pragma once

#include <cstdint>
#include <cstring>

#include "macros.h"

namespace mmact {

enum class Storage { kHalf, kBFloat16, kFloat, kDouble };

// float16 and bfloat16 to float and back. To nearest, ties to even; NaN stays NaN.

MMACT_HD inline float bits_to_float(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof(value));
  return value;
}

MMACT_HD inline uint32_t float_to_bits(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof(bits));
  return bits;
}

MMACT_HD inline float bfloat16_to_float(uint16_t bits) {
  return bits_to_float(static_cast<uint32_t>(bits) << 16);
}

MMACT_HD inline uint16_t float_to_bfloat16(float value) {
  const uint32_t bits = float_to_bits(value);
  if (value != value) return 0x7fc0;
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

MMACT_HD inline float half_to_float(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000) << 16;
  const uint32_t magnitude = bits & 0x7fff;
  if (magnitude >= 0x7c00)  // infinity and NaN
    return bits_to_float(sign | 0x7f800000 | ((magnitude & 0x3ff) << 13));
  if (magnitude >= 0x400) return bits_to_float(sign | ((magnitude << 13) + (112u << 23)));
  const float subnormal = static_cast<float>(magnitude) * 0x1p-24f;
  return sign ? -subnormal : subnormal;
}

MMACT_HD inline uint16_t float_to_half(float value) {
  const uint32_t bits = float_to_bits(value);
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000);
  const uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00;
  // 65520 lies midway between the largest float16 and what would be the next: it rounds away.
  if (magnitude >= 0x477ff000) return sign | 0x7c00;
  if (magnitude >= 0x38800000) {  // at least 2^-14: a normal float16
    const uint32_t rounded = magnitude + 0xfff + ((magnitude >> 13) & 1);
    return sign | static_cast<uint16_t>((rounded - (112u << 23)) >> 13);
  }
  // Adding 0.5 leaves the multiple of 2^-24 in the low bits, rounded by the addition itself.
  const uint32_t rounded = float_to_bits(bits_to_float(magnitude) + 0.5f);
  return sign | static_cast<uint16_t>(rounded - 0x3f000000);
}

// A parameter of an op.
struct Values {
  const void* data;
  Storage storage;

  MMACT_HD double at(int64_t i) const {
    switch (storage) {
      case Storage::kHalf:
        return static_cast<double>(half_to_float(static_cast<const uint16_t*>(data)[i]));
      case Storage::kBFloat16:
        return static_cast<double>(bfloat16_to_float(static_cast<const uint16_t*>(data)[i]));
      case Storage::kFloat:
        return static_cast<double>(static_cast<const float*>(data)[i]);
      case Storage::kDouble:
        break;
    }
    return static_cast<const double*>(data)[i];
  }
};

// The gradient of a parameter.
struct Slots {
  void* data;
  Storage storage;

  MMACT_HD void put(int64_t i, double value) const {
    switch (storage) {
      case Storage::kHalf:
        static_cast<uint16_t*>(data)[i] = float_to_half(static_cast<float>(value));
        return;
      case Storage::kBFloat16:
        static_cast<uint16_t*>(data)[i] = float_to_bfloat16(static_cast<float>(value));
        return;
      case Storage::kFloat:
        static_cast<float*>(data)[i] = static_cast<float>(value);
        return;
      case Storage::kDouble:
        static_cast<double*>(data)[i] = value;
    }
  }
};

}  // namespace mmact
