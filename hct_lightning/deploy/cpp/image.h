// Reading PNG and JPEG files as uint8 of the network's size: hct_lightning/data/reading/image.py again.
#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <optional>
#include <string>
#include <utility>

#include "geometry.h"

// c target uint8 whose memory is h w c; the EXIF orientation is applied, transparency dropped. A JPEG that is
// at least twice too large is reduced while it is decoded.
// channels: 1 for grey, 3 for RGB, converted where the file differs.
// window: of 16-bit grey images, the values that become 0 and 255; by default 0..65535.
// Throws Error(kImage), naming the file and the reason.
at::Tensor read_image(const std::filesystem::path& path, int channels,
                      const std::optional<std::pair<double, double>>& window, Size target,
                      const std::string& geometry);
