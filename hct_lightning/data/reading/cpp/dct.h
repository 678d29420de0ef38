// The inverse DCT of a block at 8, 4, 2 or 1 pixels a side: libjpeg's, jidctint.c and jidctred.c, but for the block's mean.
//
// It is linear but for its last rounding, and the mean is a multiple of that rounding's step. So a block is transformed
// without its mean, which is not known yet, and three bits are kept behind the point: an addition then gives the pixel.
//
// libjpeg-turbo computes in 16 bits where libjpeg has 32. With coefficients and pixels within the limits here nothing is
// lost in either; a block beyond them, which no image has, becomes kBad and is left to the library.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "fast.h"
#include "frame.h"

namespace jpeg {

constexpr int16_t kBad = 16383;  // a pixel that no mean brings within the limits

typedef int32_t V8 __attribute__((vector_size(32)));
typedef int16_t H8 __attribute__((vector_size(16)));

#ifdef __clang__
#define SHUFFLED(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else  // GCC has that from version 12 on only
#define SHUFFLED(a, b, ...) __builtin_shuffle(a, b, V{__VA_ARGS__})
#endif

template <typename V>
INLINE void transpose(V* m) {
  V a[8], b[8];
  for (int i = 0; i < 4; ++i) {
    a[2 * i] = SHUFFLED(m[i], m[i + 4], 0, 8, 1, 9, 2, 10, 3, 11);
    a[2 * i + 1] = SHUFFLED(m[i], m[i + 4], 4, 12, 5, 13, 6, 14, 7, 15);
  }
  for (int i = 0; i < 4; ++i) {
    b[2 * i] = SHUFFLED(a[i], a[i + 4], 0, 8, 1, 9, 2, 10, 3, 11);
    b[2 * i + 1] = SHUFFLED(a[i], a[i + 4], 4, 12, 5, 13, 6, 14, 7, 15);
  }
  for (int i = 0; i < 4; ++i) {
    m[2 * i] = SHUFFLED(b[i], b[i + 4], 0, 8, 1, 9, 2, 10, 3, 11);
    m[2 * i + 1] = SHUFFLED(b[i], b[i + 4], 4, 12, 5, 13, 6, 14, 7, 15);
  }
}
#undef SHUFFLED

// Eight columns at once, of eight coefficients to kScale values, divided by 2^shift; the first times 2^13, 2^14, 2^15.
template <int kScale>
INLINE void inverse(V8* c, int shift) {
  const V8 half = V8{} + (shift < 15 ? 1 << (shift - 1) : 0);  // rounded, but for the last time
  if constexpr (kScale == 8) {
    V8 z1 = (c[2] + c[6]) * 4433, t2 = z1 - c[6] * 15137, t3 = z1 + c[2] * 6270;
    V8 t0 = (c[0] + c[4]) * 8192, t1 = (c[0] - c[4]) * 8192;
    const V8 e0 = t0 + t3 + half, e3 = t0 - t3 + half, e1 = t1 + t2 + half, e2 = t1 - t2 + half;
    V8 z2 = c[5] + c[3], z3 = c[7] + c[3], z4 = c[5] + c[1];
    const V8 z5 = (z3 + z4) * 9633;
    z1 = (c[7] + c[1]) * 7373, z2 = z2 * 20995, z3 = z5 - z3 * 16069, z4 = z5 - z4 * 3196;
    t0 = c[7] * 2446 - z1 + z3, t1 = c[5] * 16819 - z2 + z4, t2 = c[3] * 25172 - z2 + z3, t3 = c[1] * 12299 - z1 + z4;
    c[0] = (e0 + t3) >> shift, c[7] = (e0 - t3) >> shift, c[1] = (e1 + t2) >> shift, c[6] = (e1 - t2) >> shift;
    c[2] = (e2 + t1) >> shift, c[5] = (e2 - t1) >> shift, c[3] = (e3 + t0) >> shift, c[4] = (e3 - t0) >> shift;
  } else if constexpr (kScale == 4) {
    const V8 t0 = c[0] * 16384 + half, t2 = c[2] * 15137 - c[6] * 6270;
    const V8 low = c[5] * 11893 - c[7] * 1730 - c[3] * 17799 + c[1] * 8697;
    const V8 high = c[3] * 7373 - c[7] * 4176 - c[5] * 4926 + c[1] * 20995;
    c[0] = (t0 + t2 + high) >> shift, c[3] = (t0 + t2 - high) >> shift;
    c[1] = (t0 - t2 + low) >> shift, c[2] = (t0 - t2 - low) >> shift;
  } else {
    const V8 t0 = c[0] * 32768 + half, odd = c[5] * 6967 - c[7] * 5906 - c[3] * 10426 + c[1] * 29692;
    c[0] = (t0 + odd) >> shift, c[1] = (t0 - odd) >> shift;
  }
}

template <typename V>
INLINE bool any(const V& value) {
  uint64_t parts[sizeof value / 8], found = 0;
  std::memcpy(parts, &value, sizeof value);
  for (uint64_t part : parts) found |= part;
  return found != 0;
}

// Coefficients, the first zero, to kScale x kScale pixels in eighths; kBad where they are no image's.
template <int kScale>
INLINE void transform(const int16_t* block, const Quanta& quanta, int16_t* pixels) {
  constexpr int kMore = kScale == 8 ? 0 : kScale == 4 ? 1 : 2;
  V8 c[8], wide{};
  H8 large{};
  for (int i = 0; i < 8; ++i) {
    H8 value, factor, most;
    std::memcpy(&value, block + 8 * i, 16);
    std::memcpy(&factor, quanta.of + 8 * i, 16);
    std::memcpy(&most, quanta.most + 8 * i, 16);
    const H8 outside = (value > most) | (value < -most);
    large |= outside;
    c[i] = __builtin_convertvector((value & ~outside) * factor, V8);
  }
  inverse<kScale>(c, 11 + kMore);
  for (int i = 0; i < kScale; ++i) wide |= (c[i] > 4 * kLargest) | (c[i] < -4 * kLargest);
  if (any(large) || any(wide)) {
    std::fill(pixels, pixels + kScale * kScale, kBad);
    return;
  }
  for (int i = kScale; i < 8; ++i) c[i] = V8{};
  transpose(c);
  inverse<kScale>(c, 15 + kMore);
  H8 rows[8]{};
  for (int i = 0; i < kScale; ++i) {
    c[i] = c[i] > kBad ? V8{} + kBad : c[i];
    c[i] = c[i] < -kBad ? V8{} - kBad : c[i];
    rows[i] = __builtin_convertvector(c[i], H8);
  }
  transpose(rows);
  for (int i = 0; i < kScale; ++i) std::memcpy(pixels + kScale * i, &rows[i], 2 * kScale);
}

INLINE void transform(int count, const int16_t* block, const Component& part, int16_t* pixels) {
  if (count <= 1) std::memset(pixels, 0, 2 * part.scale * part.scale);
  else if (part.scale == 8) transform<8>(block, *part.quanta, pixels);
  else if (part.scale == 4) transform<4>(block, *part.quanta, pixels);
  else if (part.scale == 2) transform<2>(block, *part.quanta, pixels);
  else *pixels = 0;
}

}  // namespace jpeg
