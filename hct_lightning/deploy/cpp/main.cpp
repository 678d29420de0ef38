// hct_predict: the class and the probabilities of images, from an artifact, without Python.
#include <ATen/Parallel.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/zeros.h>
#include <c10/core/InferenceMode.h>
#include <c10/util/Exception.h>
#include <malloc.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <climits>
#include <cstring>
#include <future>
#include <iomanip>
#include <iostream>
#include <nlohmann/json.hpp>
#include <semaphore>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "artifact.h"
#include "error.h"
#include "image.h"
#include "memory.h"
#include "model.h"

namespace {

constexpr const char* kHelp = R"(usage: hct_predict [options] ARTIFACT IMAGE...

Prints a line of JSON for each image (PNG or JPEG): its class, the probabilities, and the seconds it took.

  --streams N  images at a time, each on its share of the threads: for many images; fewer where memory is short
  --profile    then run the model six times more and print the operators with their seconds
  --repeat N   then run the model N times more and print each time
  --wait       then run the model once for every line on standard input and print its time
  --threads N  of torch and of OpenVINO
  --trust      run TorchScript and machine code (AOTInductor's) that you have not exported on this machine
  --help       this text

Exit codes: 0 done; 2 wrong usage; 3 the artifact, 4 an image can't be read; 5 the model can't be loaded or run,
or its answer not be written.)";

struct Options {
  int repeat = 0;
  bool wait = false;
  Loading loading;
  std::vector<std::string> paths;  // the artifact, then the images
};

int positive(const std::string& name, const char* text) {
  int value = 0;
  const char* end = text ? text + std::strlen(text) : nullptr;
  if (!text || std::from_chars(text, end, value).ptr != end || value < 1)
    throw Error(kUsage, name + " takes a positive number; see --help");
  return value;
}

Options parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string arg = argv[i];
    if (arg == "--repeat") options.repeat = positive(arg, argv[++i]);
    else if (arg == "--threads") options.loading.threads = positive(arg, argv[++i]);
    else if (arg == "--streams") options.loading.streams = positive(arg, argv[++i]);
    else if (arg == "--profile") options.loading.profile = true;
    else if (arg == "--wait") options.wait = true;
    else if (arg == "--trust") options.loading.trust = true;
    else if (arg.starts_with("--")) throw Error(kUsage, "unknown option " + arg + "; see --help");
    else options.paths.push_back(arg);
  }
  if (options.loading.profile && options.loading.streams > 1)
    throw Error(kUsage, "--profile is of one image at a time; leave out --streams");
  if (options.paths.size() < 2) throw Error(kUsage, "give an artifact and at least one image; see --help");
  return options;
}

// Freed memory is kept, as hct_lightning/machine/runtime.py does it: page faults would take a third of the time.
void keep_memory() {
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_TRIM_THRESHOLD, INT_MAX);
}

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

template <typename Work>
double seconds(const Work& work) {
  const double start = now();
  work();
  return now() - start;
}

double gib(int64_t bytes) { return static_cast<double>(bytes) / (1 << 30); }

std::unique_ptr<Model> load(const Artifact& artifact, const Loading& loading) {
  if (artifact.runtime == "torchscript") return load_torchscript(artifact, loading);
  if (artifact.runtime == "aoti") return load_aoti(artifact, loading);
  if (artifact.runtime == "openvino") {
#ifdef WITH_OPENVINO
    return load_openvino(artifact, loading);
#else
    throw Error(kRuntime,
                "this program was built without OpenVINO; pip install 'hct-lightning[deploy]' and build it again");
#endif
  }
  throw Error(kArtifact, "runtime " + artifact.runtime +
                             " is unknown to this program; it serves torchscript, aoti and openvino");
}

struct Answer {
  nlohmann::ordered_json line;
  at::Tensor images;  // 1 c h w, that it is of
};

at::Tensor probabilities(Model& model, const at::Tensor& images) { return model.logits(images).to(at::kFloat).softmax(1); }

// One of those that compute at once, for as long as it lives: also where the model fails, for others wait.
struct Turn {
  std::counting_semaphore<>& computing;
  explicit Turn(std::counting_semaphore<>& semaphore) : computing(semaphore) { computing.acquire(); }
  ~Turn() { computing.release(); }
};

void check_answer(const at::Tensor& found, const Artifact& artifact, const std::string& path) {
  const int64_t classes = artifact.classes.size();
  if (found.numel() != classes)
    throw Error(kArtifact, artifact.file.string() + " gives " + std::to_string(found.numel()) +
                               " numbers an image where artifact.json names " + std::to_string(classes) +
                               " classes; export it again");
  if (!at::isfinite(found).all().item<bool>()) throw Error(kRuntime, path + ": the network's answer is not finite");
}

Answer answer(const std::string& path, int threads, const Artifact& artifact, Model& model,
              std::counting_semaphore<>& computing) {
  at::Tensor images, found;
  const double read_s = seconds([&] { images = read_image(path, artifact.decoding, threads).unsqueeze(0); });
  const Turn turn(computing);
  const double first_s = seconds([&] { found = probabilities(model, images); });
  check_answer(found, artifact, path);
  nlohmann::ordered_json line = {{"image", path}};
  line["class"] = artifact.classes.at(found.argmax(1).item<int64_t>());
  for (size_t c = 0; c < artifact.classes.size(); ++c)
    line["probabilities"][artifact.classes[c]] = found[0][c].item<float>();
  line["read_s"] = read_s;
  line["first_s"] = first_s;
  return {line, images};
}

// So many streams, or fewer where memory is short, found as hct_lightning/training/by_artifact.py does: one blank image
// says what memory each takes. `before` is what was resident before the model was loaded.
int streams_that_fit(const Artifact& artifact, Model& model, int streams, int64_t before) {
  const Decoding& how = artifact.decoding;
  const at::Tensor blank = at::zeros({1, how.size.height, how.size.width, how.channels}, at::kByte);
  probabilities(model, blank.permute({0, 3, 1, 2}));
  const int64_t taken = std::max(peak_bytes() - before, blank.numel()), available = available_bytes();
  const int64_t fit = 1 + available / 2 / taken;  // images are read ahead, and allocators leave gaps
  if (fit >= streams) return streams;
  std::cerr << std::fixed << std::setprecision(1) << fit << " images at a time, not " << streams << ": each takes "
            << gib(taken) << " GiB of memory, and " << gib(available) << " are available" << std::endl;
  return static_cast<int>(fit);
}

// Writes a line of standard output, so that a full disk does not end as if all were there.
void say(const std::string& line) {
  errno = 0;
  std::cout << line << std::endl;
  if (std::cout) return;
  const std::string reason = errno ? std::strerror(errno) : "it is closed";
  throw Error(kRuntime, "standard output can't be written: " + reason + "; give it a place that can");
}

// Adds what the options ask for, and prints the line.
void print(Answer found, Model& model, const Options& options) {
  const auto again = [&] { probabilities(model, found.images); };
  if (options.loading.profile) found.line["operators"] = model.operators(found.images);
  if (options.repeat) {
    std::vector<double> times;
    for (int r = 0; r < options.repeat; ++r) times.push_back(seconds(again));
    found.line["seconds"] = times;
    std::sort(times.begin(), times.end());
    found.line["median_s"] = times[times.size() / 2];
  }
  found.line["peak_gib"] = gib(peak_bytes());
  // A file's name need not be UTF-8, which JSON is: what is not becomes U+FFFD.
  say(found.line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
  std::string word;
  while (options.wait && std::getline(std::cin, word))
    say(nlohmann::json{{"seconds", seconds(again)}, {"peak_gib", gib(peak_bytes())}}.dump());
}

void run(int argc, char** argv) {
  Options options = parse(argc, argv);
  keep_memory();
  const int threads = options.loading.threads ? options.loading.threads : at::get_num_threads();
  const size_t count = options.paths.size() - 1;
  const bool measured = options.repeat || options.wait || options.loading.profile;
  int streams = std::min(options.loading.streams, threads);
  c10::InferenceMode guard;
  const Artifact artifact = read_artifact(options.paths[0]);
  if (artifact.runtime == "aoti" && streams > 1) {
    std::cerr << "one image at a time, not " << streams << ": the code of AOTInductor's packages computes no more"
              << std::endl;
    streams = 1;
  }
  at::set_num_threads(threads / streams);  // of each thread that computes
  std::unique_ptr<Model> model;
  const double load_s = seconds([&] {
    const int64_t before = resident_bytes();
    options.loading.streams = measured ? streams : 1;
    model = load(artifact, options.loading);
    if (measured || streams == 1) return;
    options.loading.streams = streams = streams_that_fit(artifact, *model, streams, before);
    at::set_num_threads(threads / streams);
    if (artifact.runtime != "openvino" || streams == 1) return;
    model.reset();
    model = load(artifact, options.loading);  // it divides its threads itself
  });

  std::vector<std::promise<Answer>> answers(count);
  std::atomic<size_t> next = 0;
  std::counting_semaphore<> computing(streams);
  const auto one = [&](size_t i) {
    try {
      Answer found = answer(options.paths[i + 1], count == 1 || measured ? threads : 1, artifact, *model, computing);
      if (!measured) found.images.reset();
      answers[i].set_value(std::move(found));
    } catch (...) {
      answers[i].set_exception(std::current_exception());
      next = count;  // the lines of the images before are still printed
    }
  };
  // Threads read an image each and compute it, as many at once as there are streams; one more reads ahead. There are
  // none where calls are measured.
  std::vector<std::jthread> others;
  for (int t = 0; !measured && t <= streams; ++t)
    others.emplace_back([&] {
      c10::InferenceMode guard;  // it is a thread's own
      for (size_t i = next++; i < count; i = next++) one(i);
    });
  for (size_t i = 0; i < count; ++i) {
    if (measured) one(i);
    Answer found = answers[i].get_future().get();
    found.line["load_s"] = load_s;
    found.line["threads"] = threads / streams;
    try {
      print(std::move(found), *model, options);
    } catch (...) {
      next = count;  // no line would be printed of the images that are left
      throw;
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  const auto fail = [](ExitCode code, const std::string& message) {
    std::cerr << "error: " << printable(reason_in(message)) << std::endl;
    return static_cast<int>(code);
  };
  const bool help = std::any_of(argv, argv + argc, [](const char* arg) { return !std::strcmp(arg, "--help"); });
  try {
    if (help) say(kHelp);
    else run(argc, argv);
    return 0;
  } catch (const Error& error) {
    return fail(error.code, error.what());
  } catch (const c10::Error& error) {
    return fail(kRuntime, error.what_without_backtrace());
  } catch (const std::exception& error) {
    return fail(kRuntime, error.what());
  }
}
