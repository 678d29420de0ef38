// HCT's stem in int8, from pixels to the rounded map behind its max-pool, in one pass: see stem.cpp.
#pragma once

#include <cstddef>
#include <cstdint>

extern "C" {

// Whether this CPU has the instructions that make it fast (AVX-512 VNNI).
bool hct_stem_is_fast();

// Channels of the images that a stem of `size` bytes is for; 0 if it is none.
int hct_stem_channels(const uint8_t* stem, size_t size);

// Height or width of the map for an image of `side` pixels.
int hct_stem_side(int side);

// height x width x channels pixels to a map of 16 channels, interleaved alike. Both ways give the same bytes.
// portable: plain C++, for CPUs that are not fast.
void hct_stem(const uint8_t* stem, const uint8_t* pixels, int height, int width, uint8_t* map, int threads,
              bool portable);
}
