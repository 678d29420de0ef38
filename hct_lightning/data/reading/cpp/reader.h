// The code of a JPEG file, read on from a byte of it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "huffman.h"

namespace jpeg {

constexpr int kMost = 2048;     // bytes that no unit is longer than: 6 blocks of 64 times at most 27 bits
constexpr int kBuffer = 16384;  // bytes of code that a reader holds

// Code without the zeros that are stuffed behind each FF. Places are counted in its bits, from where the reader began.
struct Reader {
  const uint8_t *next, *end;  // of the file: what is to be read, and its end
  const uint8_t* border;      // of the file
  int64_t border_at = -1;     // the border's place, once it is reached
  int64_t read = 0;           // bytes so far
  bool stopped = false;       // at a marker or the end
  int last = 0;               // byte of the buffer
  Bits bits{buffer};
  uint8_t buffer[kBuffer + kMost];

  void begin(const uint8_t* from, const uint8_t* to, const uint8_t* until) {
    next = from, end = to, border = until;
    border_at = -1, read = 0, stopped = false, last = 0, bits = {buffer};
  }

  int left() const { return static_cast<int>(buffer + last - bits.at); }
  int64_t place() const { return (read - left()) * 8 - bits.held; }

  // Goes to a place that the buffer still holds.
  void go_to(int64_t bit) {
    bits = {buffer + last - (read - bit / 8)};
    bits.refill();
    bits.bits <<= bit % 8, bits.held -= bit % 8;
  }

  // The buffer then holds a unit, or all that there is and zeros.
  void fill() {
    if (left() >= kMost || stopped) return;
    const int at = static_cast<int>(bits.at - buffer), keep = std::min(at, 8);  // for `go_to` what `bits` holds counts
    std::memmove(buffer, buffer + at - keep, last - at + keep);
    last -= at - keep, bits.at = buffer + keep;
    while (last < kBuffer && !stopped) {
      if (next == border) border_at = read;
      const uint8_t* to = std::min(end, next < border ? border : end);
      to = next + std::min<int64_t>(to - next, kBuffer - last);
      const auto* found = static_cast<const uint8_t*>(std::memchr(next, 0xFF, to - next));
      const int count = static_cast<int>((found ? found : to) - next);
      std::memcpy(buffer + last, next, count);
      last += count, read += count, next += count;
      if (next == end) stopped = true;
      if (!found) continue;
      stopped = end - next < 2 || next[1];
      if (stopped) break;
      buffer[last++] = 0xFF;
      ++read, next += 2;
    }
    std::memset(buffer + last, 0, kMost);
  }

  bool at_border() const { return border_at >= 0 && place() >= border_at * 8; }

  // No bit of the segment is missing, and none is left but those that fill its last byte.
  bool at_end(int64_t bit) const { return stopped && bit <= read * 8 && read * 8 - bit < 8; }

  // Past a marker, when all before it was read.
  bool restart(int number) {
    if (!at_end(place()) || end - next < 2 || next[1] != 0xD0 + number) return false;
    next += 2;
    stopped = false, bits = {buffer + last};
    fill();
    return true;
  }
};

}  // namespace jpeg
