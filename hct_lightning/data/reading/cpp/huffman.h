// Huffman code of a JPEG: its tables, and the bits that they are for (T.81, annexes C and F).
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "fast.h"

namespace jpeg {

constexpr int kBlock = 64;   // coefficients
constexpr int kLookup = 10;  // bits of code that a table knows at once

constexpr uint8_t kZigzag[kBlock] = {0,  1,  8,  16, 9,  2,  3,  10, 17, 24, 32, 25, 18, 11, 4,  5,  12, 19, 26, 33, 40, 48,
                                     41, 34, 27, 20, 13, 6,  7,  14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23,
                                     30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63};

// What code stands for, from the lowest bit: 6 bits, its length with the value's bits behind it; 2, its kind; 8, how many
// coefficients on it leads, zeros and this one, or kEnd where there are no more; 4, the bits of the value.
using Entry = uint32_t;
enum Kind { kShort, kLong, kInvalid };
constexpr int kEnd = 128;

constexpr Entry entry(Kind kind, int bits = 0, int step = 1, int size = 0) {
  return size << 16 | step << 8 | kind << 6 | bits;
}
INLINE int kind_of(Entry entry) { return entry >> 6 & 3; }

struct Table {
  bool there = false;
  Entry entries[1 << kLookup];
  int first[17], count[17], offset[17];  // codes of each length, and where their symbols begin
  uint8_t symbols[256];
};

// Of a symbol whose code has `length` bits.
inline Entry entry_of(int symbol, bool dc, int length) {
  const int run = dc ? 0 : symbol >> 4, size = dc ? symbol : symbol & 15;
  if (size > (dc ? 11 : 10) || (!size && run && run != 15)) return entry(kInvalid);
  return entry(kShort, length + size, symbol || dc ? run + 1 : kEnd, size);
}

// counts: codes of 1 to 16 bits; symbols behind them.
inline bool build(Table& table, const uint8_t* counts, const uint8_t* symbols, bool dc) {
  std::fill_n(table.entries, 1 << kLookup, entry(kLong));
  int code = 0, at = 0;
  for (int length = 1; length <= 16; ++length, code <<= 1) {
    const int count = counts[length - 1];
    if (code + count > (1 << length)) return false;
    table.first[length] = code, table.count[length] = count, table.offset[length] = at;
    for (int i = 0; i < count; ++i, ++at, ++code) {
      table.symbols[at] = symbols[at];
      const Entry known = entry_of(symbols[at], dc, length);
      if (kind_of(known) == kInvalid) return false;
      if (length > kLookup) continue;
      const int rest = kLookup - length;
      std::fill_n(table.entries + (code << rest), 1 << rest, known);
    }
  }
  return table.there = true;
}

// The entry of a code of more than kLookup bits, at the top of `bits`.
inline Entry long_entry(const Table& table, uint64_t bits, bool dc) {
  for (int length = kLookup + 1; length <= 16; ++length) {
    const int i = static_cast<int>(bits >> (64 - length)) - table.first[length];
    if (i >= 0 && i < table.count[length]) return entry_of(table.symbols[table.offset[length] + i], dc, length);
  }
  return entry(kInvalid);
}

// The bits to come, of bytes `at` and on: `held` of them, from the top.
struct Bits {
  const uint8_t* at;
  uint64_t bits = 0;
  int held = 0;

  // 56 at least.
  INLINE void refill() {
    uint64_t more;
    std::memcpy(&more, at, 8);
    bits |= __builtin_bswap64(more) >> held;
    at += (63 - held) >> 3;
    held |= 56;
  }

  // The next value and its entry; kInvalid where there is none. 27 bits at most of DC, 26 of AC.
  INLINE Entry next(const Table& table, bool dc, int& value) {
    Entry found = table.entries[bits >> (64 - kLookup)];
    if (__builtin_expect(kind_of(found) != kShort, 0)) {
      if (kind_of(found) == kLong) found = long_entry(table, bits, dc);
      if (kind_of(found) == kInvalid) return found;
    }
    const int all = found & 63, size = found >> 16;
    const uint64_t behind = bits << (all - size);
    bits <<= all, held -= all;
    const int64_t negative = static_cast<int64_t>(~behind) >> 63;  // all ones, where the value's first bit is 0
    value = static_cast<int>((behind >> 1 >> (63 - size)) - (negative & ((int64_t{1} << size) - 1)));
    return found;
  }
};

// A block's coefficients, row by row, its mean as a difference; how many may be other than zero, in zigzag, or -1.
INLINE int read_block(Bits& bits, const Table& dc, const Table& ac, int16_t* block, int& difference) {
  static constexpr struct Places {
    uint8_t of[256];
    constexpr Places() : of() {
      for (int k = 0; k < 256; ++k) of[k] = k < kBlock ? kZigzag[k] : kBlock;  // one more, for what is none
    }
  } places;
  const auto next = [&](int& k) {
    int value;
    const Entry found = bits.next(ac, false, value);
    if (__builtin_expect(kind_of(found) == kInvalid, 0)) return false;
    k += found >> 8 & 255;
    block[places.of[k - 1]] = static_cast<int16_t>(value);
    return k < kBlock;
  };
  bits.refill();
  if (kind_of(bits.next(dc, true, difference)) == kInvalid) return -1;
  int k = 1;
  for (bool more = next(k); more; more = next(k) && next(k)) bits.refill();  // two are 52 bits at most
  if (k >= kEnd) return k - kEnd;
  return k == kBlock && block[kBlock - 1] ? k : -1;  // else zeros led out of it, or it was no code
}

}  // namespace jpeg
