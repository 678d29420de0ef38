// How a file becomes pixels: hct_lightning/data/reading/decoding.py again. (`breast` is of DICOM, which is not read.)
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "geometry.h"

struct Decoding {
  int channels;          // 1 for grey, 3 for RGB, converted where the file differs
  Size size;             // that the image is brought to
  std::string geometry;  // by what rule, cover or paper
  int64_t max_pixels;    // larger files are refused before they are decoded
  std::vector<std::pair<double, double>> window;  // of 16-bit grey: what becomes 0 and 255; a pair a band; empty: all
  bool srgb;                                      // embedded ICC profiles count; this program refuses such images
  std::optional<int64_t> reduce_to;               // reduced to so many pixels a side, and enlarged again
};
