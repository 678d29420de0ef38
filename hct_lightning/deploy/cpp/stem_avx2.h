// HCT's stem by AVX2, for CPUs that have no products of bytes: pixels become 16 bits wide, and a pair of them, times a pair
// of weights, goes into one sum at once (vpmaddwd). Nothing saturates, as products of bytes would there (vpmaddubsw).
#pragma once

#include "stem_ways.h"

#if defined(__x86_64__)
#define WITH_AVX2 __attribute__((target("avx2,fma")))

namespace ways {

struct Avx2 {
  static constexpr int kBlock = 5;  // outputs whose sums are in registers, two vectors each
  static constexpr int kTile = 13 * kBlock;
  static constexpr bool kTwoRows = true;

  // Two rows of outputs are computed at once, by ten products of rows where one after the other takes fourteen (Winograd's
  // F(2, 3)): sums and differences of rows of the image, times sums and differences of rows of the kernel. All are integers,
  // so the outputs are the same.
  template <int C>
  class Window {
   public:
    explicit Window(const Stem& stem) {
      for (int m = 0; m < kMixed; ++m)
        for (int b = 0; b < 2 * kTwos; ++b)
          for (int o = 0; o < kOut; ++o) {
            int sum = 0;
            for (int y = 0; y < kKernel; ++y)
              sum += kMix[m].kernel[y] * stem.weights[y * 8 * C * kOut + (b / 4 * kOut + o) * 4 + b % 4];
            weights_[((m * kTwos + b / 2) * kOut + o) * 2 + b % 2] = static_cast<int16_t>(sum);
          }
    }

    WITH_AVX2 void take(int pair, const uint8_t* a, const uint8_t* b) {
      widen(a, row(2 * pair));
      widen(b, row(2 * pair + 1));
    }

    // The tile's outputs of row r, and of the next one, which are right if one more pair has been taken.
    WITH_AVX2 void convolve(int r, Sums* out, Sums* next) {
      for (int m = 0; m < kMixed; ++m) mix(row(2 * r + kMix[m].a), row(2 * r + kMix[m].b), kMix[m].sign, mixed_[m]);
      for (int x = 0; x < kTile; x += kBlock) {
        Block first = {}, second = {};
        multiply(x, 0, 2, first);   // the sum of both rows of outputs, doubled, as far as they share products
        multiply(x, 2, 4, second);  // their difference, doubled
        for (int i = 0; i < 2 * kBlock; ++i) {
          const __m256i sum = first.of[i], difference = second.of[i];
          first.of[i] = _mm256_srai_epi32(_mm256_add_epi32(sum, difference), 1);
          second.of[i] = _mm256_srai_epi32(_mm256_sub_epi32(sum, difference), 1);
        }
        multiply(x, 4, 7, first);
        multiply(x, 7, kMixed, second);
        for (int i = 0; i < kBlock; ++i) {
          store(out + x + i, first.of[2 * i], first.of[2 * i + 1]);
          store(next + x + i, second.of[2 * i], second.of[2 * i + 1]);
        }
      }
    }

   private:
    // Sums of a block of outputs, each in two vectors.
    struct Block {
      __m256i of[2 * kBlock];
    };

    // What is multiplied: row a + sign * row b of the image, counted from the first that row r sees, and the rows of the kernel
    // with these factors.
    struct Mix {
      int a, b, sign;
      int kernel[kKernel];
    };
    static constexpr int kMixed = 10;
    static constexpr Mix kMix[kMixed] = {
        {6, 4, 1, {0, 0, 1, 0, 1, 0, 1}},    // of the sum
        {5, 3, 1, {0, 1, 0, 1, 0, 1}},
        {6, 4, -1, {0, 0, 1, 0, -1, 0, 1}},  // of the difference
        {5, 3, -1, {0, 1, 0, -1, 0, 1}},
        {0, 0, 0, {1}},                      // of the first row alone
        {2, 6, -1, {0, 0, 1}},
        {1, 5, -1, {0, 1}},
        {2, 2, 0, {1}},                      // of the second row alone
        {8, 4, -1, {0, 0, 0, 0, 0, 0, 1}},
        {7, 3, -1, {0, 0, 0, 0, 0, 1}},
    };
    static constexpr int kTwos = (kKernel * C + 1) / 2;  // of values of a row, that an output sees
    static constexpr int kRows = 10;                     // five pairs, that two rows of outputs see
    static constexpr int kValues = (2 * C * (kTile - 1) + 2 * kTwos + 15) / 16 * 16;  // of a row, in whole vectors
    static_assert(kValues <= seen_by(kTile) * C);

    int16_t* row(int y) { return rows_[y % kRows]; }

    WITH_AVX2 static void widen(const uint8_t* from, int16_t* to) {
      for (int i = 0; i < kValues; i += 16)
        _mm256_store_si256(reinterpret_cast<__m256i*>(to + i),
                           _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i))));
    }

    WITH_AVX2 static void mix(const int16_t* a, const int16_t* b, int sign, int16_t* to) {
      for (int i = 0; i < kValues; ++i) to[i] = static_cast<int16_t>(a[i] + sign * b[i]);
    }

    // Adds products of `kMix`, from the first to the one before the last, of the outputs from x on.
    WITH_AVX2 void multiply(int x, int first, int last, Block& sums) const {
      for (int m = first; m < last; ++m) {
        const int16_t *seen = mixed_[m] + x * 2 * C, *weights = weights_ + m * kTwos * 2 * kOut;
#pragma GCC unroll 16
        for (int k = 0; k < kTwos; ++k, seen += 2, weights += 2 * kOut) {
          const __m256i low = load(weights), high = load(weights + kOut);
#pragma GCC unroll 16
          for (int i = 0; i < kBlock; ++i) {
            const __m256i pixels = two(seen + i * 2 * C);
            add(sums.of[2 * i], pixels, low);
            add(sums.of[2 * i + 1], pixels, high);
          }
        }
      }
    }

    alignas(64) int16_t rows_[kRows][kValues] = {};
    alignas(64) int16_t mixed_[kMixed][kValues];
    alignas(64) int16_t weights_[kMixed * kTwos * 2 * kOut];
  };

  WITH_AVX2 static void pool(const Sums* in, int count, Sums* out) {
    for (int x = 0; x < count; ++x) store(out + x, widest(in + 2 * x, 0), widest(in + 2 * x, 8));
  }

  WITH_AVX2 static void finish(Sums* above, const Sums* a, const Sums* b, int count, const Stem& stem,
                               const Sums& start, uint8_t* out) {
    for (int x = 0; x < count; ++x) {
      __m256i whole[2];
      for (int h = 0; h < 2; ++h) {
        const int o = h * 8;
        const __m256i second = widest(b + 2 * x, o);
        const __m256i most = _mm256_max_epi32(_mm256_max_epi32(load(above[x].of + o), widest(a + 2 * x, o)), second);
        _mm256_store_si256(reinterpret_cast<__m256i*>(above[x].of + o), second);
        const __m256 sum = _mm256_cvtepi32_ps(_mm256_add_epi32(most, load(start.of + o)));
        const __m256 value = _mm256_fmadd_ps(sum, _mm256_loadu_ps(stem.scale + o), _mm256_loadu_ps(stem.shift + o));
        whole[h] = _mm256_cvtps_epi32(
            _mm256_min_ps(_mm256_max_ps(value, _mm256_setzero_ps()), _mm256_set1_ps(255)));
      }
      // Packing takes the halves of both in turn: 0 to 3, 8 to 11, 4 to 7, 12 to 15.
      const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(whole[0], whole[1]), 0xd8);
      const __m128i bytes = _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(out + x * kOut), bytes);
    }
  }

 private:
  // In assembler, for GCC 12 shares these loads and reorders these sums, and then has not the registers for them.
  WITH_AVX2 static __m256i two(const int16_t* values) {
    __m256i pair;
    __asm__("vpbroadcastd %1, %0" : "=x"(pair) : "m"(*reinterpret_cast<const int16_t(*)[2]>(values)));
    return pair;
  }

  WITH_AVX2 static void add(__m256i& sum, __m256i pixels, __m256i weights) {
    __m256i products;
    __asm__("vpmaddwd %3, %2, %1\n\tvpaddd %1, %0, %0" : "+x"(sum), "=&x"(products) : "x"(pixels), "x"(weights));
  }

  WITH_AVX2 static __m256i load(const void* from) { return _mm256_load_si256(static_cast<const __m256i*>(from)); }

  WITH_AVX2 static void store(Sums* to, __m256i low, __m256i high) {
    _mm256_store_si256(reinterpret_cast<__m256i*>(to->of), low);
    _mm256_store_si256(reinterpret_cast<__m256i*>(to->of + 8), high);
  }

  // Maxima of three outputs side by side, of eight channels from o on.
  WITH_AVX2 static __m256i widest(const Sums* in, int o) {
    return _mm256_max_epi32(_mm256_max_epi32(load(in[0].of + o), load(in[1].of + o)), load(in[2].of + o));
  }
};

}  // namespace ways
#endif
