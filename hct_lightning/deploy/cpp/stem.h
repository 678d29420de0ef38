// HCT's stem in int8, from pixels to the rounded map behind its max-pool, in one pass: see stem.cpp.
#pragma once

#include <cstddef>
#include <cstdint>

extern "C" {

// By plain C++, by AVX2, by AVX-512 VNNI, by products of matrices in registers (AMX): the same bytes, each faster than the
// last.
enum { kPortable = 0, kAvx2 = 1, kVnni = 2, kAmx = 3 };

// The fastest way that this CPU and its system have.
int hct_stem_way();

// Channels of the images that a stem of `size` bytes is for; 0 if it is none.
int hct_stem_channels(const uint8_t* stem, size_t size);

// Height or width of the map for an image of `side` pixels.
int hct_stem_side(int side);

// height x width x channels pixels to a map of 16 channels, interleaved alike. way: at most hct_stem_way().
void hct_stem(const uint8_t* stem, const uint8_t* pixels, int height, int width, uint8_t* map, int threads, int way);
}
