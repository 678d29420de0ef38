// How the outputs of HCT's stem are computed and pooled, a tile of them at a time: here by plain C++, in stem_avx2.h and
// stem_avx512.h by vectors. Each way gives the same sums. See stem.cpp.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"  // in that header, of GCC 12
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
#endif

namespace ways {

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

// Rows of the image are taken two by two: pair p is rows 2 p - 3 and 2 p - 2, and outputs of row r see pairs r to r + 3.
constexpr int kPairs = 4;  // that an output sees; of the last one it sees the first row only. As many are kept

// Pixels of a row that may be read for a tile of so many outputs.
constexpr int seen_by(int tile) { return 2 * tile + 16; }

struct Portable {
  static constexpr int kTile = 64;  // outputs of a row that are computed together
  static constexpr bool kTwoRows = false;

  // What the outputs of a tile see of the image.
  template <int C>
  class Window {
   public:
    explicit Window(const Stem& stem) { std::copy_n(stem.weights, sizeof(weights_), weights_); }

    // Rows of a pair, from the first pixel that the tile sees on. They stay where they are.
    void take(int pair, const uint8_t* a, const uint8_t* b) {
      rows_[2 * (pair % kPairs)] = a;
      rows_[2 * (pair % kPairs) + 1] = b;
    }

    // The tile's outputs of row r, each counted from zero.
    void convolve(int r, Sums* out) const {
      for (int x = 0; x < kTile; ++x) {
        Sums sums{};
        for (int y = 0; y < kKernel; ++y)
          for (int b = 0; b < 8 * C; ++b)
            for (int o = 0; o < kOut; ++o)
              sums.of[o] += weights_[y * 8 * C * kOut + (b / 4 * kOut + o) * 4 + b % 4] * row(r, y)[x * 2 * C + b];
        out[x] = sums;
      }
    }

   protected:
    const uint8_t* row(int r, int y) const { return rows_[(2 * r + y) % (2 * kPairs)]; }

    alignas(64) int8_t weights_[kKernel * 8 * C * kOut];

   private:
    const uint8_t* rows_[2 * kPairs];
  };

  // Maxima of three outputs side by side.
  static Sums widest(const Sums* in) {
    Sums most;
    for (int o = 0; o < kOut; ++o) most.of[o] = std::max({in[0].of[o], in[1].of[o], in[2].of[o]});
    return most;
  }

  static void pool(const Sums* in, int count, Sums* out) {
    for (int x = 0; x < count; ++x) out[x] = widest(in + 2 * x);
  }

  // A row of the map: maxima of `above`, which is pooled, and of two rows of outputs, scaled, shifted and rounded. The
  // second of these is pooled into `above`, for the next row.
  static void finish(Sums* above, const Sums* a, const Sums* b, int count, const Stem& stem, const Sums& start,
                     uint8_t* out) {
    for (int x = 0; x < count; ++x) {
      const Sums first = widest(a + 2 * x), second = widest(b + 2 * x);
      for (int o = 0; o < kOut; ++o) {
        const int most = std::max({above[x].of[o], first.of[o], second.of[o]});
        const float value = std::fma(static_cast<float>(most + start.of[o]), stem.scale[o], stem.shift[o]);
        out[x * kOut + o] = value > 0 ? static_cast<uint8_t>(std::nearbyint(std::min(value, 255.0f))) : 0;
      }
      above[x] = second;
    }
  }
};

}  // namespace ways
