// One baseline JPEG decoded by several threads, to the bytes that libjpeg-turbo gives.
//
// Where a block begins in Huffman code is known only to who has decoded what lies before. But such codes synchronise
// themselves: who begins anywhere, with a guess, soon decodes what is right, except for the place in the image and the
// blocks' means (DC), which are told as differences. So each thread begins at a byte of its own and notes where its
// units (MCUs) begin; the thread before it goes on past its end until one of its units begins where one of those does.
// From there on the other's blocks are right, and place and means are known. Klein and Wiseman: "Parallel Huffman
// Decoding with Applications to JPEG Files", The Computer Journal 46 (2003).
//
// The inverse DCT is linear but for its last rounding, and the mean is a multiple of that rounding's step: a thread
// transforms blocks as it decodes them, without their means, and keeps three bits behind the point. When place and means
// are known, pixels follow by an addition. That is done in rounds of some thousand units, which stay in the cache.
//
// Only what goes by the book is decoded (T.81: baseline, one scan, 8 bits; grey or YCbCr; chroma that needs no
// interpolation at the reduction asked for); all else is left to libjpeg, with its messages: every check ends in `false`.
#include "jpeg.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

#include "dct.h"
#include "frame.h"
#include "pixels.h"
#include "reader.h"

namespace jpeg {
namespace {

constexpr int kUnits = 3072;     // of a part, about
constexpr int kCapacity = 16384;  // of a part, at most
constexpr int kReach = 1024;     // units that a part goes on for, to meet the next
constexpr int kGuesses = 64;     // of where a part begins

struct Part {
  const Frame* frame;
  Reader reader;
  bool guessed = false;  // where it begins
  bool failed = false;
  int64_t left = 0;      // units that it may decode
  int until_restart = 0, restarts = 0;
  int count = 0, decoded = 0;  // units, and those before its border
  int means[3] = {};           // the last ones, counted from 0 where the part began
  int met = -1;                // the unit of the next part from which on that one is right

  std::unique_ptr<int64_t[]> places;       // where each unit begins, and the last one ends
  std::unique_ptr<int16_t[]> pixels;       // see dct.h; a unit after the other
  std::unique_ptr<int32_t[]> block_means;  // likewise

  // What is right in it: units from `first` on are those of the image from `index` on, and means are `shift` more.
  int first = 0, right = 0;
  int64_t index = 0;
  int shift[3] = {};

  explicit Part(const Frame& of)
      : frame(&of),
        places(new int64_t[kCapacity + 1]),
        pixels(new int16_t[static_cast<size_t>(kCapacity) * of.values]),
        block_means(new int32_t[static_cast<size_t>(kCapacity) * of.blocks]) {}

  void begin(bool guess, int64_t units) {
    guessed = guess, left = units;
    failed = false, met = -1;
    count = first = 0;
    places[0] = reader.place();
    std::fill(shift, shift + 3, 0);
  }

  bool full() const { return count >= std::min<int64_t>(left, kCapacity); }

  // To where the next unit begins.
  bool begin_unit() {
    reader.fill();
    if (frame->interval && !until_restart) {
      failed = !reader.restart(restarts++ & 7);
      if (failed) return false;
      until_restart = frame->interval;
      std::fill(means, means + 3, 0);
    }
    return true;
  }

  FAST bool read_unit();
  bool decode_unit() {
    places[count] = reader.place();
    if (!read_unit() || reader.place() > reader.read * 8) return false;
    places[++count] = reader.place();
    --until_restart;
    return true;
  }

  // From its beginning to its border, or to the end of the code.
  void decode() {
    int guesses = 1;
    for (decoded = 0; !full() && begin_unit() && !reader.at_border(); decoded = count) {
      if (decode_unit()) continue;
      if (guessed && reader.at_end(places[count])) return;
      failed = !guessed || ++guesses > kGuesses;
      if (failed) return;
      reader.go_to((places[count] / 8 + 1) * 8);
      count = 0;
      std::fill(means, means + 3, 0);
    }
  }

  // On to where the next part is right.
  void meet(const Part& other) {
    met = -1;
    if (failed || reader.border_at < 0) return;
    for (int steps = 0, j = 0; steps < kReach && !full() && begin_unit(); ++steps) {
      const int64_t place = reader.place() - reader.border_at * 8;
      while (j < other.decoded && other.places[j] < place) ++j;
      if (j < other.decoded && other.places[j] == place) {
        met = j;
        return;
      }
      failed = !decode_unit();
      if (failed) return;
    }
  }
};

bool Part::read_unit() {
  alignas(32) int16_t block[kBlock + 1];
  Bits bits = reader.bits;
  for (int c = 0; c < frame->count; ++c) {
    const Component& part = frame->components[c];
    const int size = part.scale * part.scale;
    int16_t* to = pixels.get() + static_cast<size_t>(count) * frame->values + part.first;
    int32_t* mean = block_means.get() + static_cast<size_t>(count) * frame->blocks + part.block;
    for (int b = part.blocks * part.blocks; b--; to += size) {
      int difference;
      std::memset(block, 0, sizeof block);
      const int used = read_block(bits, *part.dc, *part.ac, block, difference);
      if (used < 0) return false;
      *mean++ = means[c] += difference;
      transform(used, block, part, to);
    }
  }
  reader.bits = bits;
  return true;
}

// Where threads wait for each other; the last one to come does what is then to be done.
class Meeting {
 public:
  explicit Meeting(int count) : size_(count), missing_(count) {}

  template <typename Work>
  void wait(const Work& work) {
    std::unique_lock<std::mutex> lock(mutex_);
    const int before = turn_;
    if (--missing_ == 0) {
      work();
      missing_ = size_;
      ++turn_;
      changed_.notify_all();
    } else {
      changed_.wait(lock, [&] { return turn_ != before; });
    }
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  const int size_;
  int missing_, turn_ = 0;
};

class Decoder {
 public:
  Decoder(const Frame& frame, uint8_t* image, int height, int width, int threads, int64_t step)
      : frame_(frame), image_(image), height_(height), width_(width), step_(step), parts_(threads), meeting_(threads) {
    for (auto& part : parts_) part = std::make_unique<Part>(frame);
    parts_[0]->reader.begin(frame.code, frame.end, frame.end);
    parts_[0]->until_restart = frame.interval;
    begin_round(*parts_[0]);
  }

  // 0, or 1 and how many guesses were right.
  int run() {
    std::vector<std::thread> others;
    std::mutex all_there;
    bool together = true;
    {
      std::lock_guard<std::mutex> lock(all_there);
      try {
        for (size_t i = 1; i < parts_.size(); ++i)
          others.emplace_back([&, i] {
            { std::lock_guard<std::mutex> wait(all_there); }
            if (together) work(i);
          });
      } catch (const std::system_error&) {  // the system gives no more threads
        together = false;
      }
    }
    if (together) work(0);
    for (std::thread& other : others) other.join();
    return together && !refused_ ? 1 + met_ : 0;
  }

 private:
  void work(size_t i) {
    while (!refused_ && done_ < frame_.units) {
      Part& part = *parts_[i];
      part.decode();
      meeting_.wait([] {});
      if (i + 1 < parts_.size()) part.meet(*parts_[i + 1]);
      meeting_.wait([&] { join(); });
      const Units units{part.pixels.get() + static_cast<size_t>(part.first) * frame_.values,
                        part.block_means.get() + static_cast<size_t>(part.first) * frame_.blocks, part.shift};
      if (!put(frame_, units, part.index, part.right, image_, height_, width_)) refused_ = true;
      meeting_.wait([&] { next_round(); });
    }
  }

  // Finds what of the parts is right, and where it belongs.
  void join() {
    for (auto& part : parts_) part->right = 0;
    last_ = 0;
    for (size_t i = 0;; ++i) {
      Part& part = *parts_[i];
      last_ = i;
      part.index = done_;
      part.right = static_cast<int>(std::min<int64_t>(part.count - part.first, frame_.units - done_));
      done_ += part.right;
      if (done_ == frame_.units) {
        part.reader.fill();
        const bool ends = part.reader.at_end(part.places[part.first + part.right]);
        if (!ends || part.reader.end - part.reader.next < 2 || part.reader.next[1] != 0xD9) refused_ = true;
        return;
      }
      if (part.failed) refused_ = true;
      if (part.failed || part.met < 0) return;
      Part& next = *parts_[i + 1];
      next.first = part.met;
      for (int c = 0, block = -1; c < frame_.count; ++c) {
        block += frame_.components[c].blocks * frame_.components[c].blocks;
        const int before =
            part.met ? next.block_means[static_cast<size_t>(part.met - 1) * frame_.blocks + block] : 0;
        next.shift[c] = part.means[c] + part.shift[c] - before;
      }
      ++met_;
    }
  }

  void next_round() {
    if (refused_ || done_ == frame_.units) return;
    if (!last_ && !parts_[0]->right) refused_ = true;  // it can't go on
    std::swap(parts_[0], parts_[last_]);
    begin_round(*parts_[0]);
  }

  // Of the first part it is known where it begins: where the last one has ended.
  void begin_round(Part& known) {
    for (int c = 0; c < 3; ++c) known.means[c] += known.shift[c];
    known.begin(false, frame_.units - done_);
    known.reader.border_at = -1;
    const uint8_t* from = known.reader.border = border(known.reader.next);
    for (size_t i = 1; i < parts_.size(); ++i) {
      Part& part = *parts_[i];
      const uint8_t* to = border(from);
      part.reader.begin(from, frame_.end, to);
      part.begin(!frame_.interval, kCapacity);
      part.failed = from == frame_.end;
      std::fill(part.means, part.means + 3, 0);
      part.until_restart = frame_.interval;
      if (frame_.interval && from < frame_.end) part.restarts = (from[-1] & 7) + 1;
      from = to;
    }
  }

  // Where a part may end that begins at `from`: behind a restart, where there are such; not within a stuffed FF.
  const uint8_t* border(const uint8_t* from) const {
    if (frame_.end - from <= step_) return frame_.end;
    for (const uint8_t* at = from + step_; at < frame_.end; ++at)
      if (frame_.interval ? at[-2] == 0xFF && (at[-1] & 0xF8) == 0xD0 : at[-1] != 0xFF) return at;
    return frame_.end;
  }

  const Frame& frame_;
  uint8_t* image_;
  const int height_, width_;
  const int64_t step_;  // bytes of a part
  std::vector<std::unique_ptr<Part>> parts_;  // not moved: readers point into themselves
  Meeting meeting_;
  int64_t done_ = 0;
  size_t last_ = 0;  // part that is right
  int met_ = 0;
  std::atomic<bool> refused_{false};
};

}  // namespace
}  // namespace jpeg

extern "C" {

int hct_jpeg_takes(const uint8_t* bytes, size_t size, int reduce, int height, int width, int channels) {
  const auto frame = std::make_unique<jpeg::Frame>();
  return jpeg::read_head(*frame, bytes, size, reduce) && frame->gives(reduce, height, width, channels);
}

int hct_jpeg(const uint8_t* bytes, size_t size, int reduce, int height, int width, int channels, uint8_t* pixels,
             int threads, int part) {
  try {
    const auto frame = std::make_unique<jpeg::Frame>();
    if (threads < 1 || part < 0 || !jpeg::read_head(*frame, bytes, size, reduce)) return 0;
    if (!frame->gives(reduce, height, width, channels)) return 0;
    const int64_t code = frame->end - frame->code;
    const int64_t step = part ? part : std::max<int64_t>(4 * jpeg::kBuffer, code * jpeg::kUnits / frame->units);
    threads = static_cast<int>(std::min<int64_t>(threads, 1 + code / step));
    return jpeg::Decoder(*frame, pixels, height, width, threads, step).run();
  } catch (const std::bad_alloc&) {
    return 0;
  }
}
}
