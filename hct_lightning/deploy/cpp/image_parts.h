// What reading a PNG and reading a JPEG have in common.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <csetjmp>
#include <string>
#include <string_view>
#include <vector>

#include "decoding.h"
#include "error.h"

using Bytes = std::vector<unsigned char>;

[[noreturn]] inline void fail(const std::string& reason) { throw Error(kImage, reason); }

inline void check_size(int64_t height, int64_t width, const Decoding& how) {
  if (height * width > how.max_pixels)
    fail(std::to_string(width) + "x" + std::to_string(height) + " pixels are more than data.max_pixels=" +
         std::to_string(how.max_pixels));
}

// The network was trained on colours converted from their profile; read without it they would be others.
inline void check_profile(bool embedded, const Decoding& how) {
  if (embedded && how.srgb) fail("it embeds an ICC profile, which this program can't convert to sRGB; use Python");
}

inline at::Tensor empty_image(int64_t height, int64_t width, int64_t channels) {
  return at::empty({height, width, channels}, at::kByte);
}

// 1 to 8 where it is valid, and 1 where there is none: that of EXIF, else that of XMP by the pattern Pillow has for it.
int orientation(std::string_view exif, std::string_view xmp);

// h w c, turned upright.
at::Tensor upright(at::Tensor image, int orientation);

// h w 3 -> h w 1, ITU-R 601-2 luma in Pillow's fixed point.
at::Tensor to_grey(const at::Tensor& rgb);

// Runs C code that reports errors by longjmp; false when it did. Whatever has a destructor lives outside `body`, so
// that no jump passes over it.
template <typename Body>
bool completes(std::jmp_buf& jump, const Body& body) {
  if (setjmp(jump)) return false;
  body();
  return true;
}
