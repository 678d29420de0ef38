// A PNG by libpng.
#pragma once

#include <png.h>

#include "image_parts.h"

inline bool is_png(const Bytes& bytes) { return bytes.size() > 8 && png_sig_cmp(bytes.data(), 0, 8) == 0; }

// h w c. Throws Error(kImage).
at::Tensor read_png(const Bytes& bytes, const Decoding& how);
