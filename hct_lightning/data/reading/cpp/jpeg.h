// One baseline JPEG decoded by several threads: see jpeg.cpp.
#pragma once

#include <cstddef>
#include <cstdint>

extern "C" {

// Whether a file that begins with these bytes is one for this decoder, as far as its head says, which they have to hold.
int hct_jpeg_takes(const uint8_t* bytes, size_t size, int reduce, int height, int width, int channels);

// A JPEG reduced by 1, 2, 4 or 8 to height x width x channels pixels, those that libjpeg-turbo gives.
// Returns 0 where it is not a file for this decoder: libjpeg has to read it then, and what `pixels` holds is undefined. Else
// 1 and how many parts were decoded from a guess that proved right. `part`: bytes of one, or 0 for what is fast.
int hct_jpeg(const uint8_t* bytes, size_t size, int reduce, int height, int width, int channels, uint8_t* pixels,
             int threads, int part);
}
