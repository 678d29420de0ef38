// From blocks without their means to pixels: grey, or YCbCr as RGB (libjpeg's jdcolor.c).
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "fast.h"
#include "frame.h"

namespace jpeg {

constexpr int kWidest = 352;  // pixel before it is cut to -128..127. Within it 16 bits hold all that led to it

constexpr int kRun = 64;  // units of a row that become pixels at once

// A block's pixels in rows of `stride`; false where one is none that libjpeg could give.
template <int kScale>
INLINE bool put_block(const int16_t* values, int mean, uint8_t* to, int stride) {
  uint8_t bytes[kScale * kScale];
  int16_t most = 0, least = 0;
  for (int i = 0; i < kScale * kScale; ++i) {
    int16_t value = static_cast<int16_t>(values[i] + mean) >> 3;
    most = std::max(most, value), least = std::min(least, value);
    value = std::max<int16_t>(-128, std::min<int16_t>(127, value));
    bytes[i] = static_cast<uint8_t>(value + 128);
  }
  for (int r = 0; r < kScale; ++r) std::memcpy(to + r * stride, bytes + r * kScale, kScale);
  return most < kWidest && least > -kWidest;
}

INLINE bool put_block(int scale, const int16_t* values, int mean, uint8_t* to, int stride) {
  if (scale == 8) return put_block<8>(values, mean, to, stride);
  if (scale == 4) return put_block<4>(values, mean, to, stride);
  if (scale == 2) return put_block<2>(values, mean, to, stride);
  return put_block<1>(values, mean, to, stride);
}

INLINE uint8_t to_byte(int value) { return static_cast<uint8_t>(std::max(0, std::min(255, value))); }

// As jdcolor.c.
INLINE void to_rgb(const uint8_t* y, const uint8_t* cb, const uint8_t* cr, uint8_t* rgb, int count) {
  for (int i = 0; i < count; ++i) {
    const int b = cb[i] - 128, r = cr[i] - 128;
    rgb[3 * i] = to_byte(y[i] + ((91881 * r + 32768) >> 16));
    rgb[3 * i + 1] = to_byte(y[i] + ((-22554 * b - 46802 * r + 32768) >> 16));
    rgb[3 * i + 2] = to_byte(y[i] + ((116130 * b + 32768) >> 16));
  }
}

// Blocks of consecutive units, each with its mean, which is `shift` more for each component.
struct Units {
  const int16_t* pixels;  // see dct.h
  const int32_t* means;
  const int* shift;
};

// `count` of them, which lie beside each other, at row `top` and column `left` of the image.
FAST inline bool put_run(const Frame& frame, Units units, int count, uint8_t* image, int height, int width, int64_t top,
                         int64_t left) {
  constexpr int kStride = 8 * kRun;
  uint8_t rows[3][8 * kStride];
  for (int u = 0; u < count; ++u)
    for (int c = 0; c < frame.count; ++c) {
      const Component& about = frame.components[c];
      for (int y = 0; y < about.blocks; ++y)
        for (int x = 0; x < about.blocks; ++x, units.pixels += about.scale * about.scale) {
          const int64_t mean = (static_cast<int64_t>(*units.means++) + units.shift[c]) * about.quanta->of[0];
          if (std::abs(mean) > kLargest) return false;
          uint8_t* to = rows[c] + y * about.scale * kStride + u * frame.side + x * about.scale;
          if (!put_block(about.scale, units.pixels, static_cast<int>(mean) + 4, to, kStride)) return false;
        }
    }
  const int down = static_cast<int>(std::min<int64_t>(frame.side, height - top));
  const int across = static_cast<int>(std::min<int64_t>(count * frame.side, width - left));
  for (int r = 0; r < down; ++r) {
    uint8_t* to = image + ((top + r) * width + left) * frame.count;
    if (frame.count == 3) to_rgb(rows[0] + r * kStride, rows[1] + r * kStride, rows[2] + r * kStride, to, across);
    else std::memcpy(to, rows[0] + r * kStride, across);
  }
  return true;
}

// `count` units, those of the image from `index` on; false where one is none that libjpeg could give.
inline bool put(const Frame& frame, Units units, int64_t index, int count, uint8_t* image, int height, int width) {
  while (count) {
    const int64_t row = index / frame.across, column = index % frame.across;
    const int run = static_cast<int>(std::min<int64_t>({kRun, count, frame.across - column}));
    if (!put_run(frame, units, run, image, height, width, row * frame.side, column * frame.side)) return false;
    units.pixels += static_cast<size_t>(run) * frame.values;
    units.means += static_cast<size_t>(run) * frame.blocks;
    index += run, count -= run;
  }
  return true;
}

}  // namespace jpeg
