// HCT's stem in int8: 7x7 convolution with stride 2 on pixels, 3x3 max-pool with stride 2, scale, shift and ReLU.
//
// A general library pads three channels to four, and writes the convolution's map to memory, 64 MB at 4000 px, before it
// pools it. Here a row of the kernel, seven pixels of three channels, is 21 bytes that lie side by side, padded to 24, and
// the map exists in tiles that stay in the cache. Sixteen output channels are the sixteen lanes of a vector.
//
// A stem in memory, little endian: the magic word, channels (4 bytes), scale and shift of each output channel (float),
// zero points of the channels (bytes, up to a multiple of four), weights [kernel's row][four bytes][output][byte].
#include "stem.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <system_error>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // in that header, of GCC 12
#define WITH_VNNI __attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni")))
#if defined(__linux__) && __has_include(<amxint8intrin.h>)
#include <sys/syscall.h>
#include <unistd.h>
#define WITH_AMX __attribute__((target("amx-tile,amx-int8")))
// GCC does not know that tiles are loaded from memory: what was written before has to be there.
#define WRITTEN(place) __asm__ volatile("" ::"r"(place) : "memory")
#endif
#endif

namespace {

constexpr char kMagic[] = "HCTSTEM1";
constexpr int kOut = 16;     // output channels
constexpr int kKernel = 7;
constexpr int kPadding = 3;

// Of the output channels. Aligned, so that a vector never lies in two lines of the cache.
struct alignas(64) Sums {
  int32_t of[kOut];
};

struct Stem {
  int channels;
  const float* scale;
  const float* shift;
  const uint8_t* zero;
  const int8_t* weights;
};

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

struct Portable {
  static constexpr int kBlock = 1;   // outputs that are computed at once
  static constexpr int kTile = 192;  // outputs of a row of a tile, a multiple

  template <int C>
  struct Registers {};  // what has to be set up before

  // `count` outputs of a row; rows: of the image, at the first output's window.
  template <int C>
  static void convolve(const uint8_t* const* rows, int count, const int8_t* weights, const Sums& start, Sums* out) {
    for (int x = 0; x < count; ++x) {
      Sums sums = start;
      for (int y = 0; y < kKernel; ++y)
        for (int b = 0; b < 8 * C; ++b)
          for (int o = 0; o < kOut; ++o)
            sums.of[o] += weights[y * 8 * C * kOut + (b / 4 * kOut + o) * 4 + b % 4] * rows[y][x * 2 * C + b];
      out[x] = sums;
    }
  }

  // Maxima of three outputs side by side.
  static void pool(const Sums* in, int count, Sums* out) {
    for (int x = 0; x < count; ++x)
      for (int o = 0; o < kOut; ++o)
        out[x].of[o] = std::max({in[2 * x].of[o], in[2 * x + 1].of[o], in[2 * x + 2].of[o]});
  }

  // Maxima of three rows, scaled, shifted and rounded.
  static void finish(const Sums* a, const Sums* b, const Sums* c, int count, const Stem& stem, uint8_t* out) {
    for (int x = 0; x < count; ++x)
      for (int o = 0; o < kOut; ++o) {
        const float sum = static_cast<float>(std::max({a[x].of[o], b[x].of[o], c[x].of[o]}));
        const float value = std::fma(sum, stem.scale[o], stem.shift[o]);
        out[x * kOut + o] = value > 0 ? static_cast<uint8_t>(std::nearbyint(std::min(value, 255.0f))) : 0;
      }
  }
};

#if defined(__x86_64__)
struct Vnni : Portable {
  static constexpr int kBlock = 12;
  static constexpr int kTile = 16 * kBlock;

  // Output x and x + 2 see pixels that are four further, 4 C bytes: so what is loaded for one serves the other too.
  template <int C>
  WITH_VNNI static void convolve(const uint8_t* const* rows, int count, const int8_t* weights, const Sums& start,
                                 Sums* out) {
    const __m512i begin = _mm512_load_si512(&start);
    for (int x = 0; x < count; x += kBlock) {
      __m512i sums[kBlock];
      for (__m512i& sum : sums) sum = begin;
      for (int y = 0; y < kKernel; ++y) {
        const uint8_t* row = rows[y] + static_cast<size_t>(x) * 2 * C;
        __m512i weight[2 * C];
#pragma GCC unroll 8
        for (int g = 0; g < 2 * C; ++g) weight[g] = _mm512_load_si512(weights + (y * 2 * C + g) * 4 * kOut);
#pragma GCC unroll 8
        for (int k = 0; k < C; ++k)
#pragma GCC unroll 64
          for (int x2 = 0; x2 < kBlock + 2; ++x2) {
            int32_t four;
            std::memcpy(&four, row + x2 * 2 * C + k * 4, 4);
            const __m512i pixels = _mm512_set1_epi32(four);
            if (x2 < kBlock) sums[x2] = _mm512_dpbusd_epi32(sums[x2], pixels, weight[k]);
            if (x2 >= 2) sums[x2 - 2] = _mm512_dpbusd_epi32(sums[x2 - 2], pixels, weight[k + C]);
          }
      }
      for (int i = 0; i < kBlock; ++i) _mm512_store_si512(out + x + i, sums[i]);
    }
  }

  WITH_VNNI static void pool(const Sums* in, int count, Sums* out) {
    for (int x = 0; x < count; ++x) {
      const __m512i two = _mm512_max_epi32(_mm512_load_si512(in + 2 * x), _mm512_load_si512(in + 2 * x + 1));
      _mm512_store_si512(out + x, _mm512_max_epi32(two, _mm512_load_si512(in + 2 * x + 2)));
    }
  }

  WITH_VNNI static void finish(const Sums* a, const Sums* b, const Sums* c, int count, const Stem& stem, uint8_t* out) {
    const __m512 scale = _mm512_loadu_ps(stem.scale), shift = _mm512_loadu_ps(stem.shift);
    for (int x = 0; x < count; ++x) {
      const __m512i two = _mm512_max_epi32(_mm512_load_si512(a + x), _mm512_load_si512(b + x));
      const __m512i most = _mm512_max_epi32(two, _mm512_load_si512(c + x));
      __m512 value = _mm512_fmadd_ps(_mm512_cvtepi32_ps(most), scale, shift);
      value = _mm512_min_ps(_mm512_max_ps(value, _mm512_setzero_ps()), _mm512_set1_ps(255));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(out + x * kOut), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(value)));
    }
  }
};
#endif

#if defined(WITH_AMX)
// Products of matrices in registers: 16 outputs of a row by their 8 pixels, which lie 2 pixels further each, times
// these by 16 channels. Four such products are under way at once.
struct Amx : Vnni {
  static constexpr int kRows = 16;
  static constexpr int kBlock = 4 * kRows;
  static constexpr int kTile = 2 * kBlock;

  // What tile registers hold, for this thread while it convolves. What others had set there they find again.
  template <int C>
  class Registers {
   public:
    WITH_AMX Registers() {
      alignas(64) struct {
        uint8_t palette = 1, start = 0, reserved[14] = {};
        uint16_t bytes[16] = {64, 64, 64, 64, 8 * C, 64};
        uint8_t rows[16] = {kRows, kRows, kRows, kRows, kRows, 2 * C};
      } config;
      WRITTEN(&config);
      _tile_storeconfig(before_);
      _tile_loadconfig(&config);
    }
    WITH_AMX ~Registers() { _tile_loadconfig(before_); }

   private:
    alignas(64) uint8_t before_[64];
  };

  template <int C>
  WITH_AMX static void convolve(const uint8_t* const* rows, int count, const int8_t* weights, const Sums& start,
                                Sums* out) {
    constexpr int kStep = 2 * C, kNext = kRows * kStep;
    WRITTEN(rows);
    for (int x = 0; x < count; x += kBlock) {
      _tile_loadd(0, &start, 0);
      _tile_loadd(1, &start, 0);
      _tile_loadd(2, &start, 0);
      _tile_loadd(3, &start, 0);
      for (int y = 0; y < kKernel; ++y) {
        const uint8_t* row = rows[y] + static_cast<size_t>(x) * kStep;
        _tile_loadd(5, weights + y * 8 * C * kOut, 64);
        _tile_loadd(4, row, kStep);
        _tile_dpbusd(0, 4, 5);
        _tile_loadd(4, row + kNext, kStep);
        _tile_dpbusd(1, 4, 5);
        _tile_loadd(4, row + 2 * kNext, kStep);
        _tile_dpbusd(2, 4, 5);
        _tile_loadd(4, row + 3 * kNext, kStep);
        _tile_dpbusd(3, 4, 5);
      }
      _tile_stored(0, out + x, 64);
      _tile_stored(1, out + x + kRows, 64);
      _tile_stored(2, out + x + 2 * kRows, 64);
      _tile_stored(3, out + x + 3 * kRows, 64);
    }
  }
};
#endif

// Rows `first` to `last` of the map. Each is taken as a whole, for memory is fast where it is read in long lines; but of
// very wide images in parts, so that what is kept of rows stays in the cache. Each row of the map is the greatest of three
// rows of outputs, pooled along the row; the last of them is the first of the next.
template <class Way, int C>
void strip(const Stem& stem, const uint8_t* pixels, int height, int width, uint8_t* map, int first, int last) {
  constexpr int kTile = Way::kTile, kBlock = Way::kBlock;
  constexpr int kPooled = (kTile - 1) / 2;                          // outputs of a tile after pooling
  constexpr int kPart = 1536 / kPooled * kPooled;                   // of a row of a part
  constexpr int kRow = (4 * kPart + 2 * kBlock + kKernel + 1) * C;  // bytes of a row of the image that a part sees
  constexpr int kRing = 9;                                          // rows of the image that two rows of outputs see
  std::vector<uint8_t> ring(kRing * kRow);
  std::vector<Sums> conv(kTile), between(kPooled), outer(2 * kPart);
  alignas(64) int8_t weights[kKernel * 8 * C * kOut];
  std::copy_n(stem.weights, sizeof(weights), weights);
  const Sums start = begin_with(stem);
  const typename Way::template Registers<C> registers;
  const int columns = hct_stem_side(width);
  for (int left = 0; left < columns; left += kPart) {
    const int count = std::min(kPart, columns - left);
    // A row of the image from the part's first pixel on; what is beyond the image is the zero point.
    const auto copy = [&](int y) {
      uint8_t* row = &ring[(y + kRing) % kRing * kRow];
      const int begin = 4 * left - kPadding, end = begin + 4 * count + kKernel + 1;
      const bool outside = y < 0 || y >= height;
      const int from = outside ? end : std::max(0, begin), to = outside ? end : std::min(width, end);
      for (int x = begin; x < from; ++x) std::copy_n(stem.zero, C, row + (x - begin) * C);
      for (int x = to; x < end; ++x) std::copy_n(stem.zero, C, row + (x - begin) * C);
      const uint8_t* line = pixels + static_cast<ptrdiff_t>(y) * width * C;
      if (from < to) std::memcpy(row + (from - begin) * C, line + from * C, static_cast<size_t>(to - from) * C);
      const uint8_t* soon = line + static_cast<ptrdiff_t>(4) * width * C;
      if (from < to && y + 4 < height)
        for (int x = from * C; x < to * C; x += 64) __builtin_prefetch(soon + x, 0, 2);
    };
    // Outputs of row r, from the part's x-th on, pooled along the row.
    const auto convolve = [&](int r, int x, int some, Sums* to) {
      std::array<const uint8_t*, kKernel> rows;
      for (int k = 0; k < kKernel; ++k) rows[k] = &ring[(2 * r - kPadding + k + kRing) % kRing * kRow + 4 * x * C];
      Way::template convolve<C>(rows.data(), (2 * some + kBlock) / kBlock * kBlock, weights, start, conv.data());
      Way::pool(conv.data(), some, to);
    };
    int next = 4 * first - kPadding;  // the first row of the image that is not in the ring
    for (; next < 4 * first - kPadding + kKernel; ++next) copy(next);
    Sums *above = &outer[0], *below = &outer[kPart];
    for (int x = 0; x < count; x += kPooled) convolve(2 * first, x, std::min(kPooled, count - x), above + x);
    for (int y = first; y < last; ++y, std::swap(above, below)) {
      for (; next < 4 * y + 4 - kPadding + kKernel; ++next) copy(next);
      for (int x = 0; x < count; x += kPooled) {
        const int some = std::min(kPooled, count - x);
        convolve(2 * y + 1, x, some, between.data());
        convolve(2 * y + 2, x, some, below + x);
        Way::finish(above + x, between.data(), below + x, some, stem,
                    map + (static_cast<size_t>(y) * columns + left + x) * kOut);
      }
    }
  }
}

template <class Way>
void run(const Stem& stem, const uint8_t* pixels, int height, int width, uint8_t* map, int threads) {
  const auto part = stem.channels == 1 ? strip<Way, 1> : strip<Way, 3>;
  const int rows = hct_stem_side(height);
  const auto from = [&](int t) { return static_cast<int>(static_cast<int64_t>(rows) * t / threads); };
  std::vector<std::thread> others;
  int started = 1;
  try {
    for (; started < threads; ++started)
      others.emplace_back([&, t = started] { part(stem, pixels, height, width, map, from(t), from(t + 1)); });
  } catch (const std::system_error&) {  // as many as the system allows
  }
  part(stem, pixels, height, width, map, 0, from(1));
  if (started < threads) part(stem, pixels, height, width, map, from(started), rows);
  for (std::thread& other : others) other.join();
}

}  // namespace

int hct_stem_way() {
  static const int way = [] {
#if defined(__x86_64__)
    if (!__builtin_cpu_supports("avx512vnni") || !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512vl"))
      return kPortable;
#if defined(WITH_AMX)
    constexpr int kAsk = 0x1023, kTiles = 18;  // Linux gives the registers to those who ask (arch/x86/xstate)
    if (__builtin_cpu_supports("amx-int8") && !syscall(SYS_arch_prctl, kAsk, kTiles)) return kAmx;
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
  const Stem parsed = parse(stem);
#if defined(WITH_AMX)
  if (way == kAmx) return run<Amx>(parsed, pixels, height, width, map, threads);
#endif
#if defined(__x86_64__)
  if (way == kVnni) return run<Vnni>(parsed, pixels, height, width, map, threads);
#endif
  run<Portable>(parsed, pixels, height, width, map, threads);
}
