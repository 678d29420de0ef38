#include "image.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <fstream>
#include <new>
#include <string>

#include "error.h"
#include "read_jpeg.h"
#include "read_png.h"

namespace {

constexpr size_t kStart = 16;  // bytes of a file that say what it is

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
