#include "read_jpeg.h"

#include <csetjmp>
#include <cstdio>
#include <string_view>

#include <jpeglib.h>

#include <jerror.h>

#include "jpeg.h"

namespace {

using namespace std::string_view_literals;

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

}  // namespace

at::Tensor read_jpeg(const Bytes& bytes, const Decoding& how, const std::function<int(Size)>& reduce, int threads) {
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
