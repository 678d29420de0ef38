// Reading PNG and JPEG files as uint8 of the network's size: hct_lightning/data/reading/image.py again.
#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>

#include "decoding.h"

// c h w uint8 of the decoding's size, whose memory is h w c; the EXIF orientation is applied, transparency dropped.
// A JPEG that is at least twice too large is reduced while it is decoded.
// threads: that decode a large JPEG; one where other images are read at the same time.
// Throws Error(kImage), naming the file and the reason.
at::Tensor read_image(const std::filesystem::path& path, const Decoding& decoding, int threads);
