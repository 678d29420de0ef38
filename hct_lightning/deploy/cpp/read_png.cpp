#include "read_png.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <csetjmp>
#include <cstdio>
#include <cstring>
#include <sstream>
#include <string>
#include <string_view>

namespace {

struct PngErrors {
  std::jmp_buf jump;
  char message[256];
  bool profile = false;  // it has one that libpng does not take
};

void on_png_error(png_structp png, png_const_charp message) {
  auto* errors = static_cast<PngErrors*>(png_get_error_ptr(png));
  std::snprintf(errors->message, sizeof errors->message, "%s", message);
  std::longjmp(errors->jump, 1);
}

void on_png_warning(png_structp png, png_const_charp message) {
  if (std::string_view(message).starts_with("iCCP")) static_cast<PngErrors*>(png_get_error_ptr(png))->profile = true;
}

struct PngSource {
  const Bytes& bytes;
  size_t at = 0;
};

void read_png_bytes(png_structp png, png_bytep to, png_size_t count) {
  auto* source = static_cast<PngSource*>(png_get_io_ptr(png));
  if (source->bytes.size() - source->at < count) png_error(png, "the file ends too early");
  std::memcpy(to, source->bytes.data() + source->at, count);
  source->at += count;
}

// 16-bit grey, big-endian as PNG stores it -> uint8 by the window.
void from_16_bit(const Bytes& values, at::Tensor& image, const Decoding& how) {
  if (how.window.size() > 1) fail("data.window is for " + std::to_string(how.window.size()) + " bands, the image has 1");
  const auto [low, high] = how.window.empty() ? std::pair(0.0, 65535.0) : how.window[0];
  const float scale = static_cast<float>(255 / std::max(high - low, 1e-12));
  const float bottom = static_cast<float>(low), top = static_cast<float>(high);
  auto* to = image.data_ptr<uint8_t>();
  for (int64_t i = 0; i < image.numel(); ++i) {
    const float value = static_cast<float>(values[2 * i] << 8 | values[2 * i + 1]);
    to[i] = static_cast<uint8_t>(std::nearbyint((std::min(std::max(value, bottom), top) - bottom) * scale));
  }
}

struct PngReader {
  png_structp png = nullptr;
  png_infop info = nullptr;
  ~PngReader() { png_destroy_read_struct(&png, &info, nullptr); }
};

// The text of a chunk before the pixels; empty where there is none of that name.
std::string_view png_text(png_structp png, png_infop info, std::string_view name) {
  png_textp texts = nullptr;
  int count = 0;
  png_get_text(png, info, &texts, &count);
  while (count--)
    if (texts[count].key == name) return texts[count].text;
  return {};
}

// A profile as ImageMagick writes it into text: three lines of a head, then hexadecimal digits.
std::string profile_from_text(std::string_view text) {
  std::istringstream lines{std::string(text)};
  std::string profile;
  for (int i = 0; i < 3; ++i) std::getline(lines, profile);
  profile.clear();
  for (char digits[2]; lines >> digits[0] >> digits[1];) {
    unsigned char byte = 0;
    if (std::from_chars(digits, digits + 2, byte, 16).ptr != digits + 2) fail("its EXIF is damaged");
    profile += static_cast<char>(byte);
  }
  return profile;
}

// Only what stands before the pixels counts, and XMP only beside EXIF, as in hct_lightning/data/reading/image.py.
int png_orientation(png_structp png, png_infop info) {
  png_bytep chunk = nullptr;
  png_uint_32 size = 0;
  std::string exif;
  if (png_get_eXIf_1(png, info, &size, &chunk)) exif.assign(reinterpret_cast<const char*>(chunk), size);
  else exif = profile_from_text(png_text(png, info, "Raw profile type exif"));
  return exif.empty() ? 1 : orientation(exif, png_text(png, info, "XML:com.adobe.xmp"));
}

}  // namespace

at::Tensor read_png(const Bytes& bytes, const Decoding& how) {
  PngErrors errors;
  PngSource source{bytes};
  PngReader reader;
  at::Tensor image;
  Bytes wide;  // 16-bit grey
  int turned = 1;
  const bool read = completes(errors.jump, [&] {
    reader.png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &errors, on_png_error, on_png_warning);
    reader.info = png_create_info_struct(reader.png);
    png_structp png = reader.png;
    png_infop info = reader.info;
    png_set_user_limits(png, PNG_UINT_31_MAX, PNG_UINT_31_MAX);
    png_set_read_fn(png, &source, read_png_bytes);
    png_read_info(png, info);
    const int64_t height = png_get_image_height(png, info), width = png_get_image_width(png, info);
    check_size(height, width, how);
    check_profile(errors.profile || png_get_valid(png, info, PNG_INFO_iCCP), how);
    turned = png_orientation(png, info);
    const int kind = png_get_color_type(png, info);
    const bool windowed = kind == PNG_COLOR_TYPE_GRAY && png_get_bit_depth(png, info) == 16;
    if (!windowed) png_set_strip_16(png);
    if (kind == PNG_COLOR_TYPE_PALETTE) png_set_palette_to_rgb(png);
    if (kind == PNG_COLOR_TYPE_GRAY) png_set_expand_gray_1_2_4_to_8(png);
    png_set_strip_alpha(png);
    int passes = png_set_interlace_handling(png);  // each adds its pixels to those of the passes before
    png_read_update_info(png, info);
    const size_t row = png_get_rowbytes(png, info);
    if (windowed) wide.resize(row * height);
    image = empty_image(height, width, png_get_channels(png, info));
    unsigned char* to = windowed ? wide.data() : image.data_ptr<uint8_t>();
    // Row by row, for a list of all rows can be larger than the image.
    for (; passes; --passes)
      for (int64_t y = 0; y < height; ++y) png_read_row(png, to + y * row, nullptr);
    png_read_end(png, info);
  });
  if (!read) fail(errors.message);
  if (!wide.empty()) from_16_bit(wide, image, how);
  if (image.size(2) == 1 && how.channels == 3) image = image.expand({-1, -1, 3}).contiguous();
  if (image.size(2) == 3 && how.channels == 1) image = to_grey(image);
  return upright(image, turned);
}
