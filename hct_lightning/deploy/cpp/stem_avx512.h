// HCT's stem by AVX-512: by products of bytes (VNNI), and by products of matrices in registers (AMX).
#pragma once

#include "stem_ways.h"

#if defined(__x86_64__)
#define WITH_VNNI __attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni")))
#if defined(__linux__) && !defined(__clang__) && __has_include(<amxint8intrin.h>)
#define WITH_AMX __attribute__((target("amx-tile,amx-int8,avx512f,avx512bw,avx512vl,avx512vbmi")))
// GCC does not know that tiles are loaded from memory: what was written before has to be there.
#define WRITTEN(place) __asm__ volatile("" ::"r"(place) : "memory")
#endif

namespace ways {

struct Vnni {
  static constexpr int kBlock = 12;  // outputs whose sums are in registers
  static constexpr int kTile = 6 * kBlock;
  static constexpr bool kTwoRows = false;

  template <int C>
  class Window : public Portable::Window<C> {
   public:
    using Portable::Window<C>::Window;

    static_assert(2 * (kTile + 1) + 4 <= seen_by(kTile));

    // Output x and x + 2 see pixels that are four further, 4 C bytes: so what is loaded for one serves the other too.
    WITH_VNNI void convolve(int r, Sums* out) const {
      for (int x = 0; x < kTile; x += kBlock) {
        __m512i sums[kBlock];
        for (__m512i& sum : sums) sum = _mm512_setzero_si512();
        for (int y = 0; y < kKernel; ++y) {
          const uint8_t* row = this->row(r, y) + static_cast<size_t>(x) * 2 * C;
          __m512i weight[2 * C];
#pragma GCC unroll 8
          for (int g = 0; g < 2 * C; ++g) weight[g] = _mm512_load_si512(this->weights_ + (y * 2 * C + g) * 4 * kOut);
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
  };

  WITH_VNNI static __m512i widest(const Sums* in) {
    const __m512i two = _mm512_max_epi32(_mm512_load_si512(in), _mm512_load_si512(in + 1));
    return _mm512_max_epi32(two, _mm512_load_si512(in + 2));
  }

  WITH_VNNI static void pool(const Sums* in, int count, Sums* out) {
    for (int x = 0; x < count; ++x) _mm512_store_si512(out + x, widest(in + 2 * x));
  }

  WITH_VNNI static void finish(Sums* above, const Sums* a, const Sums* b, int count, const Stem& stem,
                               const Sums& start, uint8_t* out) {
    const __m512 scale = _mm512_loadu_ps(stem.scale), shift = _mm512_loadu_ps(stem.shift);
    const __m512i begin = _mm512_load_si512(&start);
    for (int x = 0; x < count; ++x) {
      const __m512i first = _mm512_max_epi32(_mm512_load_si512(above + x), widest(a + 2 * x));
      const __m512i second = widest(b + 2 * x);
      _mm512_store_si512(above + x, second);
      const __m512i most = _mm512_add_epi32(_mm512_max_epi32(first, second), begin);
      __m512 value = _mm512_fmadd_ps(_mm512_cvtepi32_ps(most), scale, shift);
      value = _mm512_min_ps(_mm512_max_ps(value, _mm512_setzero_ps()), _mm512_set1_ps(255));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(out + x * kOut), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(value)));
    }
  }
};

#if defined(WITH_AMX)
// Products of matrices in registers: what 16 outputs of a row see of a pair of rows, times the weights of 16 channels.
struct Amx : Vnni {
  static constexpr int kTile = 64;

  // Of a pair an output sees 16 C bytes: they lie side by side once 2 C bytes of each row take turns. Registers fill
  // slowly from bytes that lie in two lines of the cache. So a piece of 32 or 64 bytes holds all that `kOutputs` outputs
  // see, each `kStep` bytes after the one before, and what outputs of two pieces see is there twice.
  template <int C>
  class Window {
   public:
    WITH_AMX explicit Window(const Stem& stem) {
      constexpr int kRow = 8 * C * kOut;
      for (int i = 0; i < kPairs * kSeen * kOut; ++i) {
        const int pair = i / (kSeen * kOut), byte = i / (4 * kOut) % (kSeen / 4) * 4 + i % 4, output = i / 4 % kOut;
        const int row = 2 * pair + byte % kStep / (2 * C), b = byte / kStep * 2 * C + byte % (2 * C);
        weights_[i] = row < kKernel ? stem.weights[row * kRow + (b / 4 * kOut + output) * 4 + b % 4] : 0;
      }
      for (int i = 0; i < 64; ++i) {
        const int at = i % kPiece, b = i / kPiece * kOutputs * 2 * C + at / kStep * 2 * C + at % (2 * C);
        order_[i] = static_cast<uint8_t>(at % kStep < 2 * C ? b : 32 + b);
      }
      alignas(64) struct {
        uint8_t palette = 1, start = 0, reserved[14] = {};
        uint16_t bytes[16] = {64, 64, 64, 64, kSeen, 64, kSeen, 64};
        uint8_t rows[16] = {kRows, kRows, kRows, kRows, kRows, kSeen / 4, kRows, kSeen / 4};
      } config;
      WRITTEN(&config);
      _tile_storeconfig(before_);
      _tile_loadconfig(&config);
    }
    WITH_AMX ~Window() { _tile_loadconfig(before_); }
    Window(const Window&) = delete;
    Window& operator=(const Window&) = delete;

    WITH_AMX void take(int pair, const uint8_t* a, const uint8_t* b) {
      const __m512i order = _mm512_load_si512(order_);
      uint8_t* to = pair_at(pair);
      for (int i = 0; i < kPair; i += 64, a += kFurther, b += kFurther) {
        const __m256i first = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(a));
        const __m256i second = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(b));
        const __m512i both = _mm512_inserti64x4(_mm512_castsi256_si512(first), second, 1);
        _mm512_store_si512(to + i, _mm512_permutexvar_epi8(order, both));
      }
    }

    // Four products are under way at once, each of 16 outputs: of every `kOutputs`th one, for these lie alike in their pieces.
    WITH_AMX void convolve(int r, Sums* out) {
      const auto seen = [&](int p, int t) { return pair_at(r + p) + t / kOutputs * kRows * kPiece + t % kOutputs * kStep; };
      const auto to = [&](int t) { return out + t / kOutputs * kRows * kOutputs + t % kOutputs; };
      WRITTEN(pairs_);
      _tile_zero(0);
      _tile_zero(1);
      _tile_zero(2);
      _tile_zero(3);
      for (int p = 0; p < kPairs; p += 2) {
        _tile_loadd(5, weights_ + p * kSeen * kOut, 64);
        _tile_loadd(4, seen(p, 0), kPiece);
        _tile_dpbusd(0, 4, 5);
        _tile_loadd(4, seen(p, 1), kPiece);
        _tile_dpbusd(1, 4, 5);
        _tile_loadd(4, seen(p, 2), kPiece);
        _tile_dpbusd(2, 4, 5);
        _tile_loadd(4, seen(p, 3), kPiece);
        _tile_dpbusd(3, 4, 5);
        _tile_loadd(7, weights_ + (p + 1) * kSeen * kOut, 64);
        _tile_loadd(6, seen(p + 1, 0), kPiece);
        _tile_dpbusd(0, 6, 7);
        _tile_loadd(6, seen(p + 1, 1), kPiece);
        _tile_dpbusd(1, 6, 7);
        _tile_loadd(6, seen(p + 1, 2), kPiece);
        _tile_dpbusd(2, 6, 7);
        _tile_loadd(6, seen(p + 1, 3), kPiece);
        _tile_dpbusd(3, 6, 7);
      }
      _tile_stored(0, to(0), kOutputs * 64);
      _tile_stored(1, to(1), kOutputs * 64);
      _tile_stored(2, to(2), kOutputs * 64);
      _tile_stored(3, to(3), kOutputs * 64);
    }

   private:
    static constexpr int kRows = 16;                        // of a register
    static constexpr int kStep = 4 * C;                     // bytes of a pair from one output to the next
    static constexpr int kSeen = 4 * kStep;                 // that an output sees
    static constexpr int kPiece = C == 1 ? 32 : 64;         // bytes of a piece
    static constexpr int kOutputs = C == 1 ? 4 : 2;         // that find in it what they see
    static constexpr int kPair = kTile / kOutputs * kPiece;  // bytes of a pair, as the tile sees it
    static constexpr int kFurther = 64 / kPiece * kOutputs * 2 * C;  // bytes of a row from 64 bytes of a pair to the next
    static_assert((kOutputs - 1) * kStep + kSeen <= kPiece && kTile == 4 * kRows);
    static_assert((kPair / 64 - 1) * kFurther + 32 <= seen_by(kTile) * C);

    uint8_t* pair_at(int pair) { return pairs_ + pair % kPairs * kPair; }

    alignas(64) uint8_t pairs_[kPairs * kPair];
    alignas(64) int8_t weights_[kPairs * kSeen * kOut];
    alignas(64) uint8_t order_[64];
    alignas(64) uint8_t before_[64];  // how others had set up these registers, and find them set up again
  };
};
#endif

}  // namespace ways
#endif
