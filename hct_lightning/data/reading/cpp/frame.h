// What a JPEG file says before its code: sizes, components, tables.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "huffman.h"

namespace jpeg {

constexpr int kLargest = 4095;  // coefficient; those of images are 1024 at most, and rounding

// Of 64 coefficients, row by row: what they are multiplied by, and the most that they may be before.
struct Quanta {
  bool there = false;
  int16_t of[kBlock], most[kBlock];
};

struct Component {
  int blocks;  // a side, of a unit
  int scale;   // pixels a side, of a block
  int first;   // value of it in a unit, and block
  int block;
  const Table *dc, *ac;
  const Quanta* quanta;
};

struct Frame {
  int height = 0, width = 0, count = 0;
  Component components[3];
  int values = 0, blocks = 0;  // of a unit
  int side = 0;                // of a unit, in pixels of the result
  int interval = 0;            // units between restarts; 0: there are none
  int64_t across = 0, units = 0;
  const uint8_t *code = nullptr, *end = nullptr;
  Table tables[2][4];
  Quanta quanta[4];

  // Whether so many pixels are what is left of it.
  bool gives(int reduce, int rows, int columns, int channels) const {
    return count == channels && (height - 1) / reduce + 1 == rows && (width - 1) / reduce + 1 == columns;
  }
};

inline int word(const uint8_t* at) { return at[0] << 8 | at[1]; }

inline bool read_quanta(Frame& frame, const uint8_t* at, const uint8_t* end) {
  for (; at < end; at += 1 + kBlock) {
    if (*at > 3 || end - at < 1 + kBlock) return false;  // of 8 bits, one of four
    for (int k = 0; k < kBlock; ++k) {
      const int place = kZigzag[k], value = at[1 + k];
      if (!value) return false;
      frame.quanta[*at].of[place] = static_cast<int16_t>(value);
      frame.quanta[*at].most[place] = static_cast<int16_t>(kLargest / value);
    }
    frame.quanta[*at].there = true;
  }
  return true;
}

inline bool read_tables(Frame& frame, const uint8_t* at, const uint8_t* end) {
  while (at < end) {
    if (end - at < 17 || (*at & 0xEC)) return false;  // one of four, DC or AC
    int count = 0;
    for (int i = 1; i <= 16; ++i) count += at[i];
    if (count > 256 || end - at < 17 + count) return false;
    if (!build(frame.tables[*at >> 4][*at & 3], at + 1, at + 17, *at >> 4 == 0)) return false;
    at += 17 + count;
  }
  return true;
}

// The scan's head, of frame head `sof` (its data).
inline bool read_scan(Frame& frame, const uint8_t* sof, const uint8_t* at, int size, int reduce) {
  const int count = frame.count;
  if (size != 4 + 2 * count || at[0] != count || std::memcmp(at + size - 3, "\0\77\0", 3)) return false;
  const int most = sof[7] >> 4;  // blocks a side, of the first
  if (most < 1 || most > (count == 1 ? 1 : 2)) return false;
  if (count == 3 && (sof[6] == sof[9] || sof[9] == sof[12] || sof[6] == sof[12])) return false;
  if (count == 3 && !std::memcmp(at + 1, "R", 1) && at[3] == 'G' && at[5] == 'B') return false;
  for (int c = 0; c < count; ++c) {
    const uint8_t *about = sof + 6 + 3 * c, *tables = at + 1 + 2 * c;
    Component& part = frame.components[c];
    part.blocks = c ? 1 : most;
    part.scale = 8 / reduce * (c ? most : 1);
    if (tables[0] != about[0] || about[1] != part.blocks * 17 || about[2] > 3 || (tables[1] & 0xCC)) return false;
    if (part.scale > 8 || !frame.quanta[about[2]].there) return false;
    part.dc = &frame.tables[0][tables[1] >> 4], part.ac = &frame.tables[1][tables[1] & 3];
    if (!part.dc->there || !part.ac->there) return false;
    part.quanta = &frame.quanta[about[2]];
    part.first = frame.values, part.block = frame.blocks;
    frame.blocks += part.blocks * part.blocks;
    frame.values += part.blocks * part.blocks * part.scale * part.scale;
  }
  frame.side = 8 / reduce * most;
  const auto in_units = [&](int pixels) { return (pixels + 8 * most - 1) / (8 * most); };
  frame.across = in_units(frame.width);
  frame.units = frame.across * in_units(frame.height);
  return true;
}

inline bool read_head(Frame& frame, const uint8_t* bytes, size_t size, int reduce) {
  const uint8_t *at = bytes + 2, *end = frame.end = bytes + size, *sof = nullptr;
  if (reduce != 1 && reduce != 2 && reduce != 4 && reduce != 8) return false;
  if (size < 4 || bytes[0] != 0xFF || bytes[1] != 0xD8) return false;
  while (end - at >= 4 && at[0] == 0xFF) {
    const int marker = at[1], length = word(at + 2);
    if (length < 2 || end - at - 2 < length) return false;
    const uint8_t *data = at + 4, *next = at + 2 + length;
    const int count = length - 2;
    at = next;
    if (marker == 0xDB) {
      if (!read_quanta(frame, data, next)) return false;
    } else if (marker == 0xC4) {
      if (!read_tables(frame, data, next)) return false;
    } else if (marker == 0xC0 || marker == 0xC1) {
      if (sof || count < 6 || data[0] != 8 || (data[5] != 1 && data[5] != 3) || count != 6 + 3 * data[5]) return false;
      sof = data;
      frame.height = word(data + 1), frame.width = word(data + 3), frame.count = data[5];
      if (!frame.height || !frame.width) return false;
    } else if (marker == 0xDD) {
      if (count != 2) return false;
      frame.interval = word(data);
    } else if (marker == 0xEE) {  // Adobe's: only what is YCbCr
      if (count < 12 || std::memcmp(data, "Adobe", 5) || data[11] != 1) return false;
    } else if (marker == 0xDA) {
      frame.code = next;
      return sof && read_scan(frame, sof, data, count, reduce);
    } else if ((marker & 0xF0) != 0xE0 && marker != 0xFE) {
      return false;
    }
  }
  return false;
}

}  // namespace jpeg
