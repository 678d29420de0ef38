// HCT's stem in int8: 7x7 convolution with stride 2 on pixels, 3x3 max-pool with stride 2, scale, shift and ReLU.
//
// A general library pads three channels to four, and writes the convolution's map to memory, 64 MB at 4000 px, before it
// pools it. Here a row of the kernel, seven pixels of three channels, is 21 bytes that lie side by side, padded to 24, and
// the rows that a tile of outputs sees, and the outputs, stay in the cache until they are pooled. Sixteen output channels are
// the sixteen lanes of a vector.
//
// A stem in memory, little endian: the magic word, channels (4 bytes), scale and shift of each output channel (float),
// zero points of the channels (bytes, up to a multiple of four), weights [kernel's row][four bytes][output][byte].
#include "stem.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "parts.h"
#include "stem_avx2.h"
#include "stem_avx512.h"

#if defined(WITH_AMX)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace {

using namespace ways;

constexpr char kMagic[] = "HCTSTEM1";

size_t zero_bytes(int channels) { return (channels + 3) / 4 * 4; }
int groups(int channels) { return 2 * channels; }  // of four bytes: 8 pixels hold the 7 of a row

Stem parse(const uint8_t* bytes) {
  Stem stem;
  bytes += sizeof(kMagic) - 1;
  std::memcpy(&stem.channels, bytes, 4);
  stem.scale = reinterpret_cast<const float*>(bytes + 4);
  stem.shift = stem.scale + kOut;
  stem.zero = reinterpret_cast<const uint8_t*>(stem.shift + kOut);
  stem.weights = reinterpret_cast<const int8_t*>(stem.zero + zero_bytes(stem.channels));
  return stem;
}

// What each sum begins with, so that pixels count from their zero points.
Sums begin_with(const Stem& stem) {
  const int row = 4 * groups(stem.channels);
  Sums start{};
  for (int o = 0; o < kOut; ++o)
    for (int y = 0; y < kKernel; ++y)
      for (int b = 0; b < kKernel * stem.channels; ++b)
        start.of[o] -= stem.weights[y * row * kOut + (b / 4 * kOut + o) * 4 + b % 4] * stem.zero[b % stem.channels];
  return start;
}

// Rows `first` to `last` of the map, tile by tile, in bands of so few rows that the translations of their addresses stay in
// the cache for these. Each row of the map is the greatest of three rows of outputs, pooled along the row; the last of them
// is the first of the next.
template <class Way, int C>
void strip(const Stem& stem, const uint8_t* pixels, int height, int width, uint8_t* map, int first, int last) {
  constexpr int kBand = 8, kTile = Way::kTile;
  constexpr int kPooled = (kTile - 1) / 2;  // of the map, of a tile
  constexpr int kSeen = seen_by(kTile);     // pixels of a row
  const Sums start = begin_with(stem);
  typename Way::template Window<C> window(stem);
  Sums outputs[2][kTile];
  uint8_t edge[2 * kPairs][kSeen * C];
  const int columns = hct_stem_side(width);
  std::vector<Sums> above(columns);
  for (int band = first; band < last; band += kBand)
    for (int x = 0; x < columns; x += kPooled) {
      const int count = std::min(kPooled, columns - x), begin = 4 * x - kPadding, end = begin + kSeen;
      // Row y of the image, as far as the tile sees it; what is beyond the image is the zero point.
      const auto row = [&](int y) -> const uint8_t* {
        const bool outside = y < 0 || y >= height;
        const uint8_t* line = outside ? nullptr : pixels + static_cast<size_t>(y) * width * C;
        if (line && begin >= 0 && end <= width) return line + begin * C;
        uint8_t* copy = edge[(y + kPadding) % (2 * kPairs)];
        const int from = outside ? end : std::max(0, begin), to = outside ? end : std::min(width, end);
        for (int i = begin; i < from; ++i) std::copy_n(stem.zero, C, copy + (i - begin) * C);
        if (from < to) std::memcpy(copy + (from - begin) * C, line + from * C, static_cast<size_t>(to - from) * C);
        for (int i = std::max(from, to); i < end; ++i) std::copy_n(stem.zero, C, copy + (i - begin) * C);
        return copy;
      };
      const auto take = [&](int pair) { window.take(pair, row(2 * pair - kPadding), row(2 * pair - kPadding + 1)); };
      for (int pair = 2 * band + (band == first ? 0 : 1); pair < 2 * band + kPairs; ++pair) take(pair);
      if (band == first) {
        if constexpr (Way::kTwoRows) window.convolve(2 * band, outputs[0], outputs[1]);
        else window.convolve(2 * band, outputs[0]);
        Way::pool(outputs[0], count, &above[x]);
      }
      for (int y = band; y < std::min(last, band + kBand); ++y) {
        for (int soon = 4 * y + 8; soon < std::min(height, 4 * y + 12); ++soon) {
          const uint8_t* line = pixels + (static_cast<size_t>(soon) * width + 4 * x) * C;
          for (int i = 0; i < std::min(kSeen, width - 4 * x) * C; i += 64) __builtin_prefetch(line + i);
        }
        if constexpr (Way::kTwoRows) {
          take(2 * y + kPairs);
          take(2 * y + kPairs + 1);
          window.convolve(2 * y + 1, outputs[0], outputs[1]);
        } else {
          take(2 * y + kPairs);
          window.convolve(2 * y + 1, outputs[0]);
          take(2 * y + kPairs + 1);
          window.convolve(2 * y + 2, outputs[1]);
        }
        Way::finish(&above[x], outputs[0], outputs[1], count, stem, start,
                    map + (static_cast<size_t>(y) * columns + x) * kOut);
      }
    }
}

template <class Way>
void run(const Stem& stem, const uint8_t* pixels, int height, int width, uint8_t* map, int threads) {
  constexpr int kParts = 8;   // for each thread
  constexpr int kLeast = 32;  // rows of a part, for each computes a row of outputs twice; fewer, so that all threads have one
  const auto part = stem.channels == 1 ? strip<Way, 1> : strip<Way, 3>;
  const int rows = hct_stem_side(height), share = (rows - 1) / threads + 1;
  const int each = threads == 1 ? rows : std::max(std::min(kLeast, share), rows / (kParts * threads) + 1);
  parts::in_turn((rows - 1) / each + 1, threads, [&](int index) {
    part(stem, pixels, height, width, map, index * each, std::min(rows, (index + 1) * each));
  });
}

}  // namespace

int hct_stem_way() {
  static const int way = [] {
#if defined(__x86_64__)
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return kPortable;
    if (!__builtin_cpu_supports("avx512vnni") || !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512vl"))
      return kAvx2;
#if defined(WITH_AMX)
    constexpr int kAsk = 0x1023, kTiles = 18;  // Linux gives the registers to those who ask (arch/x86/xstate)
    if (__builtin_cpu_supports("amx-int8") && __builtin_cpu_supports("avx512vbmi") &&
        !syscall(SYS_arch_prctl, kAsk, kTiles))
      return kAmx;
#endif
    return kVnni;
#endif
    return kPortable;
  }();
  return way;
}

int hct_stem_channels(const uint8_t* stem, size_t size) {
  constexpr size_t head = sizeof(kMagic) - 1 + 4;
  if (size < head || std::memcmp(stem, kMagic, sizeof(kMagic) - 1)) return 0;
  int32_t channels;
  std::memcpy(&channels, stem + sizeof(kMagic) - 1, 4);
  if (channels != 1 && channels != 3) return 0;
  const size_t weights = static_cast<size_t>(kKernel) * groups(channels) * 4 * kOut;
  return size == head + 2 * kOut * sizeof(float) + zero_bytes(channels) + weights ? channels : 0;
}

int hct_stem_side(int side) { return ((side - 1) / 2 + 1 - 3) / 2 + 1; }

void hct_stem(const uint8_t* stem, const uint8_t* pixels, int height, int width, uint8_t* map, int threads, int way) {
  constexpr int kSmallest = 5;  // pixels a side; of fewer the map has none
  if (height < kSmallest || width < kSmallest) return;
  const Stem parsed = parse(stem);
#if defined(WITH_AMX)
  if (way == kAmx) return run<Amx>(parsed, pixels, height, width, map, threads);
#endif
#if defined(__x86_64__)
  if (way == kVnni) return run<Vnni>(parsed, pixels, height, width, map, threads);
  if (way == kAvx2) return run<Avx2>(parsed, pixels, height, width, map, threads);
#endif
  run<Portable>(parsed, pixels, height, width, map, threads);
}
