// A JPEG by libjpeg-turbo, or by the decoder of our own.
#pragma once

#include <functional>

#include "image_parts.h"

inline bool is_jpeg(const Bytes& bytes) {
  return bytes.size() > 3 && bytes[0] == 0xFF && bytes[1] == 0xD8 && bytes[2] == 0xFF;
}

// h w c, reduced by the factor that `reduce` gives for its upright size. Throws Error(kImage).
at::Tensor read_jpeg(const Bytes& bytes, const Decoding& how, const std::function<int(Size)>& reduce, int threads);
