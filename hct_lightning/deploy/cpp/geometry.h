// From an image of any size to the size that the network sees: hct_lightning/data/reading/geometry.py again.
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

// c h w uint8 -> c target uint8: `region` of the image, resized bicubically with antialiasing.
at::Tensor resize_region(const at::Tensor& image, Region region, Size target);

// c h w uint8, reduced to `pixels` a side and enlarged again.
at::Tensor coarsen(const at::Tensor& image, int64_t pixels);

// How many times a JPEG can be reduced while it is decoded: the largest of 8, 4, 2 and 1 that leaves no less than
// the target and divides everything, so that nothing begins or ends between two pixels.
int shrink_factor(Size source, Region region, Size target);
