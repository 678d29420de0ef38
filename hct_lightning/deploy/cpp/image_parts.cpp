#include "image_parts.h"

#include <libexif/exif-data.h>

#include <memory>
#include <regex>

using namespace std::string_view_literals;

int orientation(std::string_view exif, std::string_view xmp) {
  constexpr auto head = "Exif\0\0"sv;
  while (exif.starts_with(head)) exif.remove_prefix(head.size());  // PNG has none, and some write it twice
  const std::string block = std::string(head).append(exif);
  std::unique_ptr<ExifData, decltype(&exif_data_unref)> data(
      exif_data_new_from_data(reinterpret_cast<const unsigned char*>(block.data()), static_cast<unsigned>(block.size())),
      exif_data_unref);
  ExifEntry* entry = data ? exif_content_get_entry(data->ifd[EXIF_IFD_0], EXIF_TAG_ORIENTATION) : nullptr;
  if (entry && entry->format == EXIF_FORMAT_SHORT && entry->components == 1)
    return exif_get_short(entry->data, exif_data_get_byte_order(data.get()));
  static const std::regex pattern(R"(tiff:Orientation(="|>)([0-9]))");
  std::cmatch found;
  return std::regex_search(xmp.data(), xmp.data() + xmp.size(), found, pattern) ? *found[2].first - '0' : 1;
}

at::Tensor upright(at::Tensor image, int orientation) {
  switch (orientation) {
    case 2: return image.flip(1);
    case 3: return image.flip({0, 1});
    case 4: return image.flip(0);
    case 5: return image.transpose(0, 1).contiguous();
    case 6: return image.transpose(0, 1).flip(1).contiguous();
    case 7: return image.transpose(0, 1).flip({0, 1}).contiguous();
    case 8: return image.transpose(0, 1).flip(0).contiguous();
    default: return image;
  }
}

at::Tensor to_grey(const at::Tensor& rgb) {
  at::Tensor grey = empty_image(rgb.size(0), rgb.size(1), 1);
  const auto* from = rgb.data_ptr<uint8_t>();
  auto* to = grey.data_ptr<uint8_t>();
  for (int64_t i = 0; i < grey.numel(); ++i, from += 3)
    to[i] = (from[0] * 19595u + from[1] * 38470u + from[2] * 7471u + 0x8000u) >> 16;
  return grey;
}
