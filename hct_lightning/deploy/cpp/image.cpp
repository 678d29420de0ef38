#include "image.h"

#include <ATen/ops/empty.h>
#include <c10/util/Exception.h>

#include <libexif/exif-data.h>

#include <algorithm>
#include <charconv>
#include <csetjmp>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <memory>
#include <new>
#include <regex>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include <jpeglib.h>

#include <jerror.h>
#include <png.h>

#include "error.h"
#include "jpeg.h"

namespace {

using namespace std::string_view_literals;
using Bytes = std::vector<unsigned char>;

constexpr size_t kStart = 16;  // bytes of a file that say what it is

[[noreturn]] void fail(const std::string& reason) { throw Error(kImage, reason); }

bool is_png(const Bytes& bytes) { return bytes.size() > 8 && png_sig_cmp(bytes.data(), 0, 8) == 0; }

bool is_jpeg(const Bytes& bytes) {
  return bytes.size() > 3 && bytes[0] == 0xFF && bytes[1] == 0xD8 && bytes[2] == 0xFF;
}

// A PNG or a JPEG as a whole, and of anything else no more than its start.
Bytes read_file(const std::filesystem::path& path) {
  using std::filesystem::file_type;
  std::error_code error;
  const file_type type = std::filesystem::status(path, error).type();
  if (type == file_type::not_found) fail("there is no such file");
  if (type == file_type::none) fail("it can't be opened: " + error.message());
  if (type != file_type::regular) {  // a pipe would be waited for, and a device read for ever
    const bool folder = type == file_type::directory, pipe = type == file_type::fifo;
    fail(std::string("it is ") + (folder ? "a folder" : pipe ? "a pipe" : "a device or socket") + ", not a file");
  }
  std::ifstream file(path, std::ios::binary);
  if (!file) fail("it can't be opened");
  Bytes bytes(std::min<uintmax_t>(kStart, std::filesystem::file_size(path)));
  const auto read = [&](size_t from) {
    file.read(reinterpret_cast<char*>(bytes.data()) + from, bytes.size() - from);
    bytes.resize(from + file.gcount());  // it may have become shorter
  };
  read(0);
  if (!is_png(bytes) && !is_jpeg(bytes)) fail("neither a PNG nor a JPEG file");
  bytes.resize(std::filesystem::file_size(path));
  read(std::min(bytes.size(), kStart));
  return bytes;
}

void check_size(int64_t height, int64_t width, const Decoding& how) {
  if (height * width > how.max_pixels)
    fail(std::to_string(width) + "x" + std::to_string(height) + " pixels are more than data.max_pixels=" +
         std::to_string(how.max_pixels));
}

// The network was trained on colours converted from their profile; read without it they would be others.
void check_profile(bool embedded, const Decoding& how) {
  if (embedded && how.srgb) fail("it embeds an ICC profile, which this program can't convert to sRGB; use Python");
}

at::Tensor empty_image(int64_t height, int64_t width, int64_t channels) {
  return at::empty({height, width, channels}, at::kByte);
}

// 1 to 8 where it is valid, and 1 where there is none: that of EXIF, else that of XMP by the pattern Pillow has for it.
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

// h w c, turned upright.
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

// h w 3 -> h w 1, ITU-R 601-2 luma in Pillow's fixed point.
at::Tensor to_grey(const at::Tensor& rgb) {
  at::Tensor grey = empty_image(rgb.size(0), rgb.size(1), 1);
  const auto* from = rgb.data_ptr<uint8_t>();
  auto* to = grey.data_ptr<uint8_t>();
  for (int64_t i = 0; i < grey.numel(); ++i, from += 3)
    to[i] = (from[0] * 19595u + from[1] * 38470u + from[2] * 7471u + 0x8000u) >> 16;
  return grey;
}

// Runs C code that reports errors by longjmp; false when it did. Whatever has a destructor lives outside `body`, so
// that no jump passes over it.
template <typename Body>
bool completes(std::jmp_buf& jump, const Body& body) {
  if (setjmp(jump)) return false;
  body();
  return true;
}

// ---- JPEG --------------------------------------------------------------------------------------

struct JpegErrors {
  jpeg_error_mgr base;
  std::jmp_buf jump;
  char message[JMSG_LENGTH_MAX];
};

void on_jpeg_error(j_common_ptr info) {
  auto* errors = reinterpret_cast<JpegErrors*>(info->err);
  errors->base.format_message(info, errors->message);
  std::longjmp(errors->jump, 1);
}

// Of libjpeg's warnings only the one that the file ends too early is an error, as it is in Python: padding and altered
// bytes are read there, too.
void on_jpeg_message(j_common_ptr info, int level) {
  if (level < 0 && info->err->msg_code == JWRN_JPEG_EOF) on_jpeg_error(info);
}

struct JpegReader {
  jpeg_decompress_struct info;
  ~JpegReader() { jpeg_destroy_decompress(&info); }
};

// h w c, reduced by the factor that `reduce` gives for its upright size.
template <typename Reduce>
at::Tensor read_jpeg(const Bytes& bytes, const Decoding& how, const Reduce& reduce, int threads) {
  JpegErrors errors;
  JpegReader reader;
  at::Tensor image;
  int turned = 1;
  auto& info = reader.info;
  info.err = jpeg_std_error(&errors.base);
  errors.base.error_exit = on_jpeg_error;
  errors.base.emit_message = on_jpeg_message;
  jpeg_create_decompress(&info);
  const bool read = completes(errors.jump, [&] {
    jpeg_mem_src(&info, bytes.data(), bytes.size());
    jpeg_save_markers(&info, JPEG_APP0 + 1, 0xFFFF);  // EXIF, XMP
    jpeg_save_markers(&info, JPEG_APP0 + 2, 0xFFFF);  // ICC
    jpeg_read_header(&info, TRUE);
    check_size(info.image_height, info.image_width, how);
    if (info.num_components != 1 && info.num_components != 3) fail("a JPEG that is neither grey nor RGB");
    std::string_view exif, xmp;
    for (auto* marker = info.marker_list; marker; marker = marker->next) {
      const std::string_view data(reinterpret_cast<const char*>(marker->data), marker->data_length);
      if (data.starts_with("Exif\0\0"sv) && exif.empty()) exif = data;  // a second one continues the first
      if (data.starts_with("http://ns.adobe.com/xap/1.0/\0"sv)) xmp = data;
      check_profile(data.starts_with("ICC_PROFILE\0"sv), how);
    }
    turned = orientation(exif, xmp);
    info.scale_num = 1;
    // Python takes whole what it then converts to grey, or to RGB.
    const bool reducible = turned == 1 && info.num_components == how.channels;
    info.scale_denom = reducible ? reduce({info.image_height, info.image_width}) : 1;
    info.out_color_space = info.num_components == 1 && how.channels == 1 ? JCS_GRAYSCALE : JCS_RGB;
    jpeg_calc_output_dimensions(&info);
    image = empty_image(info.output_height, info.output_width, info.output_components);
    // hct_lightning/data/reading/jpeg.py: by the decoder of our own, if it is one for it.
    if (hct_jpeg(bytes.data(), bytes.size(), info.scale_denom, info.output_height, info.output_width,
                 info.output_components, image.data_ptr<uint8_t>(), threads, 0))
      return;
    jpeg_start_decompress(&info);
    const size_t row = info.output_width * info.output_components;
    while (info.output_scanline < info.output_height) {
      JSAMPROW place = image.data_ptr<uint8_t>() + row * info.output_scanline;
      jpeg_read_scanlines(&info, &place, 1);
    }
    jpeg_finish_decompress(&info);
  });
  if (!read) fail(errors.message);
  if (image.size(2) == 3 && how.channels == 1) image = to_grey(image);
  return upright(image, turned);
}

// ---- PNG ---------------------------------------------------------------------------------------

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

}  // namespace

at::Tensor read_image(const std::filesystem::path& path, const Decoding& how, int threads) {
  try {
    const Bytes bytes = read_file(path);
    int reduced = 1;
    at::Tensor image;
    if (is_png(bytes)) {
      image = read_png(bytes, how);
    } else {
      image = read_jpeg(bytes, how, [&](Size source) {
        return reduced = shrink_factor(source, choose_region(source, how.size, how.geometry), how.size);
      }, threads);
    }
    if (image.size(2) != how.channels)
      fail("it has " + std::to_string(image.size(2)) + " channels where the network takes " +
           std::to_string(how.channels));
    const Size source{image.size(0) * reduced, image.size(1) * reduced};
    Region region = choose_region(source, how.size, how.geometry);
    for (int64_t* side : {&region.top, &region.left, &region.height, &region.width}) *side /= reduced;
    image = resize_region(image.permute({2, 0, 1}), region, how.size);
    return how.reduce_to ? coarsen(image, *how.reduce_to) : image;
  } catch (const Error& error) {
    throw Error(error.code, path.string() + ": " + error.what());
  } catch (const std::bad_alloc&) {
    throw Error(kImage, path.string() + ": there is not enough memory to read it");
  } catch (const c10::Error& error) {  // as of memory for its pixels
    throw Error(kImage, path.string() + ": " + error.what_without_backtrace());
  }
}
