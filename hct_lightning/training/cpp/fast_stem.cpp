// HCT's stem in fp32 from uint8 pixels, and the gradient of its weights: normalising, 7x7 convolution with stride 2 and
// 3x3 max-pool with stride 2 in one pass, with AVX2.
//
// Of four outputs of the convolution the max-pool lets about one pass, so only this one has a gradient. The forward pass
// notes where it lies, in a byte; the backward pass reads the pixels that it saw, and does a quarter of the products that a
// convolution's would. What is kept between the two is that byte and the pixels, no floats.
//
// Images and maps are interleaved, b h w c. Rows of the map are done in bands, each by one thread, and sums of bands are
// added in their order: the same bits for any number of threads.
#include <cstdint>

#if defined(__x86_64__)
#include <immintrin.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <vector>

#include "parts.h"

#define AVX2 __attribute__((target("avx2,fma")))

namespace {

constexpr int kOut = 16, kKernel = 7, kPadding = 3, kTaps = kKernel * kKernel;
constexpr int kPool = 3, kPlaces = kPool * kPool;
constexpr int kLanes = 8;  // floats of a vector
constexpr int kBand = 32;  // rows of the map, for each band computes a row of outputs twice

int conv_side(int side) { return (side - 1) / 2 + 1; }
int map_side(int side) { return (conv_side(side) - kPool) / 2 + 1; }

struct Images {
  const uint8_t* pixels;
  int count, height, width;
  const float *scale, *offset;  // of each channel

  int bands() const { return (map_side(height) - 1) / kBand + 1; }
};

// A band of rows of an image's map: what a thread does at a time.
struct Band {
  int image, first, last;
};

Band band_of(const Images& images, int part) {
  const int first = part % images.bands() * kBand;
  return {part / images.bands(), first, std::min(map_side(images.height), first + kBand)};
}

// Floats of a row of pixels with its padding, with as much to spare as a vector reads too far.
template <int C>
ptrdiff_t padded(int width) {
  return (width + 2 * kPadding) * C + kLanes;
}

// Row y of an image, normalised; zeros before and behind it, and where the image has no such row.
template <int C>
AVX2 void normalise(const Images& images, int image, int y, float* row) {
  std::fill_n(row, padded<C>(images.width), 0.0f);
  if (y < 0 || y >= images.height) return;
  const int values = images.width * C;
  const uint8_t* from = images.pixels + (static_cast<size_t>(image) * images.height + y) * values;
  float* to = row + kPadding * C;
  __m256 scale[C], offset[C];  // of 8 C values side by side
  for (int v = 0; v < C; ++v) {
    float scales[kLanes], offsets[kLanes];
    for (int i = 0; i < kLanes; ++i) {
      scales[i] = images.scale[(v * kLanes + i) % C];
      offsets[i] = images.offset[(v * kLanes + i) % C];
    }
    scale[v] = _mm256_loadu_ps(scales);
    offset[v] = _mm256_loadu_ps(offsets);
  }
  int i = 0;
  for (; i + C * kLanes <= values; i += C * kLanes)
    for (int v = 0; v < C; ++v) {
      const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from + i + v * kLanes));
      const __m256 pixels = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes));
      _mm256_storeu_ps(to + i + v * kLanes, _mm256_fmadd_ps(pixels, scale[v], offset[v]));
    }
  for (; i < values; ++i) to[i] = __builtin_fmaf(from[i], images.scale[i % C], images.offset[i % C]);
}

// A row of outputs of the convolution, from the seven rows that it sees.
template <int C>
AVX2 void convolve(const float* const* rows, const float* weight, int outputs, float* out) {
  constexpr int kAtOnce = 6;  // outputs, of two vectors each: with their weights they fill the registers
  for (int next = 0; next < outputs; next += kAtOnce) {
    const int x = std::min(next, outputs - kAtOnce);
    __m256 sums[kAtOnce][2];
    for (auto& sum : sums) sum[0] = sum[1] = _mm256_setzero_ps();
    const float* taps = weight;
    for (int ky = 0; ky < kKernel; ++ky) {
      const float* seen = rows[ky] + 2 * C * x;
      for (int tap = 0; tap < kKernel * C; ++tap, taps += kOut) {
        const __m256 low = _mm256_loadu_ps(taps), high = _mm256_loadu_ps(taps + kLanes);
#pragma GCC unroll 6
        for (int i = 0; i < kAtOnce; ++i) {
          const __m256 value = _mm256_broadcast_ss(seen + 2 * C * i + tap);
          sums[i][0] = _mm256_fmadd_ps(value, low, sums[i][0]);
          sums[i][1] = _mm256_fmadd_ps(value, high, sums[i][1]);
        }
      }
    }
#pragma GCC unroll 6
    for (int i = 0; i < kAtOnce; ++i) {
      _mm256_storeu_ps(out + static_cast<size_t>(x + i) * kOut, sums[i][0]);
      _mm256_storeu_ps(out + static_cast<size_t>(x + i) * kOut + kLanes, sums[i][1]);
    }
  }
}

// A row of the map, the greatest of 3x3 outputs, and which of them it is, the first of equal ones.
AVX2 void pool(const float* const* rows, int columns, float* map, uint8_t* places) {
  for (size_t x = 0; x < static_cast<size_t>(columns); ++x)
    for (int half = 0; half < kOut; half += kLanes) {
      const size_t from = 2 * x * kOut + half;
      __m256 best = _mm256_loadu_ps(rows[0] + from), place = _mm256_setzero_ps();
      for (int k = 1; k < kPlaces; ++k) {
        const __m256 value = _mm256_loadu_ps(rows[k / kPool] + from + k % kPool * kOut);
        const __m256 greater = _mm256_or_ps(_mm256_cmp_ps(value, best, _CMP_GT_OQ),
                                            _mm256_cmp_ps(value, value, _CMP_UNORD_Q));  // what is no number stays
        best = _mm256_blendv_ps(best, value, greater);
        place = _mm256_blendv_ps(place, _mm256_castsi256_ps(_mm256_set1_epi32(k)), greater);
      }
      _mm256_storeu_ps(map + x * kOut + half, best);
      const __m256i numbers = _mm256_castps_si256(place);
      const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(numbers), _mm256_extracti128_si256(numbers, 1));
      _mm_storel_epi64(reinterpret_cast<__m128i*>(places + x * kOut + half), _mm_packus_epi16(words, words));
    }
}

template <int C>
void map_of(const Images& images, const float* weight, Band band, float* map, uint8_t* places) {
  constexpr int kKept = 8;  // rows of pixels, of which an output sees seven
  const int outputs = conv_side(images.width), rows = map_side(images.height), columns = map_side(images.width);
  const ptrdiff_t length = padded<C>(images.width), line = static_cast<ptrdiff_t>(outputs) * kOut;
  std::vector<float> pixels(kKept * length), convolved(kPool * line);
  int next = 4 * band.first - kPadding;  // row of pixels
  const auto convolve_row = [&](int y) {
    for (; next <= 2 * y + kPadding; ++next) normalise<C>(images, band.image, next, &pixels[(next & (kKept - 1)) * length]);
    const float* seen[kKernel];
    for (int k = 0; k < kKernel; ++k) seen[k] = &pixels[((2 * y - kPadding + k) & (kKept - 1)) * length];
    convolve<C>(seen, weight, outputs, &convolved[y % kPool * line]);
  };
  convolve_row(2 * band.first);
  for (int y = band.first; y < band.last; ++y) {
    convolve_row(2 * y + 1);
    convolve_row(2 * y + 2);
    const float* seen[kPool];
    for (int k = 0; k < kPool; ++k) seen[k] = &convolved[(2 * y + k) % kPool * line];
    const size_t to = (static_cast<size_t>(band.image) * rows + y) * columns * kOut;
    pool(seen, columns, map + to, places + to);
  }
}

// Adds what `count` positions of a row of the map, of one channel, give to some rows of that channel's kernel.
//   rows: of pixels, from the first that the first position sees; offsets: from there to what each place of the pool sees
template <int C, int kFirst, int kLast>
AVX2 void add(const float* rows, ptrdiff_t length, const ptrdiff_t* offsets, const float* gradient,
              const uint8_t* places, int count, float* sums) {
  constexpr int kVectors = (kKernel * C + kLanes - 1) / kLanes, kRows = kLast - kFirst;
  __m256 sum[kRows][kVectors];
#pragma GCC unroll 8
  for (int y = 0; y < kRows; ++y)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) sum[y][v] = _mm256_loadu_ps(sums + ((kFirst + y) * kVectors + v) * kLanes);
  rows += kFirst * length;
  for (int i = 0; i < count; ++i, rows += 4 * C) {
    const __m256 factor = _mm256_broadcast_ss(gradient + i * kOut);
    const float* seen = rows + offsets[places[i * kOut]];
#pragma GCC unroll 8
    for (int y = 0; y < kRows; ++y)
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v)
        sum[y][v] = _mm256_fmadd_ps(factor, _mm256_loadu_ps(seen + y * length + v * kLanes), sum[y][v]);
  }
#pragma GCC unroll 8
  for (int y = 0; y < kRows; ++y)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) _mm256_storeu_ps(sums + ((kFirst + y) * kVectors + v) * kLanes, sum[y][v]);
}

// Floats of a channel's kernel, whose rows are padded to whole vectors.
template <int C>
constexpr int kernel_floats() {
  return kKernel * ((kKernel * C + kLanes - 1) / kLanes) * kLanes;
}

template <int C>
void gradient_of(const Images& images, Band band, const float* gradient, const uint8_t* places, float* sums) {
  constexpr int kSeen = 11, kKept = 12;  // rows of pixels that a row of the map sees, and that are kept
  constexpr int kColumns = 32;           // of the map at a time: what they see stays in the first cache
  const int rows = map_side(images.height), columns = map_side(images.width);
  const ptrdiff_t length = padded<C>(images.width) / 16 * 16 + 24;  // so that not all rows fall on the same lines of it
  std::vector<float> pixels(2 * kKept * length);                    // each row twice: any eleven of them lie in order
  ptrdiff_t offsets[kPlaces];
  for (int k = 0; k < kPlaces; ++k) offsets[k] = k / kPool * 2 * length + k % kPool * 2 * C;
  const int begin = 4 * band.first - kPadding;
  int next = begin;
  for (int y = band.first; y < band.last; ++y) {
    const int top = 4 * y - kPadding;
    for (; next < top + kSeen; ++next) {
      float* row = &pixels[(next - begin) % kKept * length];
      normalise<C>(images, band.image, next, row);
      std::memcpy(row + kKept * length, row, padded<C>(images.width) * sizeof(float));
    }
    const float* seen = &pixels[(top - begin) % kKept * length];
    const size_t at = (static_cast<size_t>(band.image) * rows + y) * columns * kOut;
    for (int x = 0; x < columns; x += kColumns)
      for (int c = 0; c < kOut; ++c) {
        const size_t from = at + static_cast<size_t>(x) * kOut + c;
        const int count = std::min(kColumns, columns - x);
        const float* corner = seen + static_cast<ptrdiff_t>(x) * 4 * C;
        float* of_channel = sums + c * kernel_floats<C>();
        if constexpr (C == 1) {
          add<C, 0, kKernel>(corner, length, offsets, gradient + from, places + from, count, of_channel);
        } else {  // a whole kernel of three channels does not fit the registers
          add<C, 0, 4>(corner, length, offsets, gradient + from, places + from, count, of_channel);
          add<C, 4, kKernel>(corner, length, offsets, gradient + from, places + from, count, of_channel);
        }
      }
  }
}

template <int C>
void stem(const Images& images, const float* weight, float* map, uint8_t* places, int threads) {
  std::vector<float> taps(kTaps * C * kOut);  // [kernel's row][column][channel][output]
  for (int o = 0; o < kOut; ++o)
    for (int c = 0; c < C; ++c)
      for (int k = 0; k < kTaps; ++k) taps[(k * C + c) * kOut + o] = weight[(o * C + c) * kTaps + k];
  parts::in_turn(images.count * images.bands(), threads, [&](int part) {
    map_of<C>(images, taps.data(), band_of(images, part), map, places);
  });
}

template <int C>
void stem_gradient(const Images& images, const float* gradient, const uint8_t* places, float* found, int threads) {
  constexpr int kFloats = kOut * kernel_floats<C>(), kRow = kernel_floats<C>() / kKernel;
  const int bands = images.count * images.bands();
  std::vector<float> sums(static_cast<size_t>(bands) * kFloats);
  parts::in_turn(bands, threads, [&](int part) {
    gradient_of<C>(images, band_of(images, part), gradient, places, &sums[static_cast<size_t>(part) * kFloats]);
  });
  for (int o = 0; o < kOut; ++o)
    for (int c = 0; c < C; ++c)
      for (int k = 0; k < kTaps; ++k) {
        double total = 0;
        for (int part = 0; part < bands; ++part)
          total += sums[static_cast<size_t>(part) * kFloats + (o * kKernel + k / kKernel) * kRow + k % kKernel * C + c];
        found[(o * C + c) * kTaps + k] = static_cast<float>(total);
      }
}

}  // namespace
#endif

extern "C" {

// Whether this CPU has what it takes.
int hct_fast_stem_runs() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
  return 0;
#endif
}

#if defined(__x86_64__)
// pixels: b height width channels, of 1 or 3 channels; weight: 16 channels 7 7; map and places: b h w 16
void hct_fast_stem(const uint8_t* pixels, int count, int height, int width, int channels, const float* scale,
                   const float* offset, const float* weight, float* map, uint8_t* places, int threads) {
  const Images images{pixels, count, height, width, scale, offset};
  (channels == 1 ? stem<1> : stem<3>)(images, weight, map, places, threads);
}

// gradient: of the map; found: of the weights
void hct_fast_stem_gradient(const uint8_t* pixels, int count, int height, int width, int channels, const float* scale,
                            const float* offset, const float* gradient, const uint8_t* places, float* found,
                            int threads) {
  const Images images{pixels, count, height, width, scale, offset};
  (channels == 1 ? stem_gradient<1> : stem_gradient<3>)(images, gradient, places, found, threads);
}
#endif
}
