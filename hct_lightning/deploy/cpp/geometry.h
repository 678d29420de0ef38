// From an image of any size to the size that the network sees: hct_lightning/data/geometry.py again.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>

struct Size {
  int64_t height, width;
};

// A rectangle in the source, in pixels. What lies outside the source is zeros.
struct Region {
  int64_t top, left, height, width;
};

// The part of an image of size `source` that becomes the input of size `target`. `geometry` is cover or paper.
Region choose_region(Size source, Size target, const std::string& geometry);

// c h w uint8 -> c target uint8: the region, resized bicubically with antialiasing.
at::Tensor apply_geometry(const at::Tensor& image, Size target, const std::string& geometry);
