#include "geometry.h"

#include <ATen/ops/_upsample_bicubic2d_aa.h>
#include <ATen/ops/constant_pad_nd.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "error.h"

namespace {

// Python's round: halves to the even neighbour.
int64_t round_half_even(double x) { return static_cast<int64_t>(std::nearbyint(x)); }

// Where a centred crop starts.
int64_t centre(int64_t side, int64_t crop) {
  return side < crop ? -((crop - side) / 2) : round_half_even((side - crop) / 2.0);
}

}  // namespace

Region choose_region(Size source, Size target, const std::string& geometry) {
  int64_t height, width;
  if (geometry == "cover") {
    const double scale = std::min(static_cast<double>(source.height) / target.height,
                                  static_cast<double>(source.width) / target.width);
    height = std::min(source.height, std::max<int64_t>(1, round_half_even(target.height * scale)));
    width = std::min(source.width, std::max<int64_t>(1, round_half_even(target.width * scale)));
  } else if (geometry == "paper") {
    const bool once = source.height <= 1.125 * target.height && source.width <= 1.125 * target.width;
    height = (once ? 1 : 2) * target.height;
    width = (once ? 1 : 2) * target.width;
  } else {
    throw Error(kArtifact, "geometry " + geometry + " is unknown to this program");
  }
  return {centre(source.height, height), centre(source.width, width), height, width};
}

at::Tensor resize_region(const at::Tensor& image, Region region, Size target) {
  const int64_t height = image.size(1), width = image.size(2);
  const int64_t bottom = region.top + region.height, right = region.left + region.width;
  auto inside = image.slice(1, std::max<int64_t>(0, region.top), std::min(height, bottom))
                    .slice(2, std::max<int64_t>(0, region.left), std::min(width, right));
  if (inside.size(1) != region.height || inside.size(2) != region.width) {
    auto past = [](int64_t pixels) { return std::max<int64_t>(0, pixels); };
    inside = at::constant_pad_nd(
        inside, {past(-region.left), past(right - width), past(-region.top), past(bottom - height)});
  }
  if (region.height == target.height && region.width == target.width) return inside;
  const std::array size{target.height, target.width};
  return at::_upsample_bicubic2d_aa(inside.unsqueeze(0), at::IntArrayRef(size), /*align_corners=*/false)
      .squeeze(0);
}

at::Tensor coarsen(const at::Tensor& image, int64_t pixels) {
  const Size size{image.size(1), image.size(2)};
  const at::Tensor small = resize_region(image, {0, 0, size.height, size.width}, {pixels, pixels});
  return resize_region(small, {0, 0, pixels, pixels}, size);
}

int shrink_factor(Size source, Region region, Size target) {
  if (region.top < 0 || region.left < 0) return 1;  // it reaches outside
  for (const int factor : {8, 4, 2}) {
    const bool large = region.height >= factor * target.height && region.width >= factor * target.width;
    const auto sides = {source.height, source.width, region.top, region.left, region.height, region.width};
    const bool whole = std::all_of(sides.begin(), sides.end(), [&](int64_t side) { return side % factor == 0; });
    if (large && whole) return factor;
  }
  return 1;
}
