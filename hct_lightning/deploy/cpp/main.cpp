// hct_predict: the class and the probabilities of images, from an artifact, without Python.
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>
#include <c10/util/Exception.h>
#include <malloc.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <climits>
#include <cstring>
#include <fstream>
#include <future>
#include <iomanip>
#include <iostream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "artifact.h"
#include "error.h"
#include "image.h"
#include "model.h"

namespace {

constexpr const char* kHelp = R"(usage: hct_predict [options] ARTIFACT IMAGE...

Prints a line of JSON for each image (PNG or JPEG): its class, the probabilities, and the seconds it took.

  --repeat N   then run the model N times more and print each time
  --wait       then run the model once for every line on standard input and print its time
  --threads N  of torch and of OpenVINO
  --trust      run machine code (AOTInductor's) also where someone else has compiled it
  --help       this text

Exit codes: 0 done; 2 wrong usage; 3 the artifact, 4 an image can't be read; 5 the model can't be loaded or run.
)";

struct Options {
  int repeat = 0;
  int threads = 0;
  bool wait = false;
  bool trust = false;
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
    else if (arg == "--threads") options.threads = positive(arg, argv[++i]);
    else if (arg == "--wait") options.wait = true;
    else if (arg == "--trust") options.trust = true;
    else if (arg.starts_with("--")) throw Error(kUsage, "unknown option " + arg + "; see --help");
    else options.paths.push_back(arg);
  }
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

// This process's high-water mark of resident memory (ru_maxrss would be inherited from whoever started it).
double peak_gib() {
  std::ifstream status("/proc/self/status");
  std::string word;
  while (status >> word)
    if (word == "VmHWM:") break;
  double kib = 0;
  status >> kib;
  return kib / 1048576;
}

std::unique_ptr<Model> load(const Artifact& artifact, int threads, bool trust) {
  if (artifact.runtime == "torchscript") return load_torchscript(artifact);
  if (artifact.runtime == "aoti") return load_aoti(artifact, trust);
  if (artifact.runtime == "openvino") {
#ifdef WITH_OPENVINO
    return load_openvino(artifact, threads);
#else
    throw Error(kRuntime,
                "this program was built without OpenVINO; pip install 'hct-lightning[deploy]' and build it again");
#endif
  }
  throw Error(kArtifact, "runtime " + artifact.runtime +
                             " is unknown to this program; it serves torchscript, aoti and openvino");
}

struct Read {
  at::Tensor pixels;  // 1 c h w
  double seconds;
};

void run(int argc, char** argv) {
  const Options options = parse(argc, argv);
  keep_memory();
  if (options.threads) at::set_num_threads(options.threads);
  c10::InferenceMode guard;
  const Artifact artifact = read_artifact(options.paths[0]);
  std::unique_ptr<Model> model;
  const double load_s = seconds([&] { model = load(artifact, options.threads, options.trust); });

  const auto read = [&](size_t i) {
    c10::InferenceMode guard;  // it is a thread's own
    Read image;
    image.seconds = seconds([&] { image.pixels = read_image(options.paths[i], artifact.decoding).unsqueeze(0); });
    return image;
  };
  // An image is read while the one before is computed, but where that is measured.
  const auto ahead = options.repeat || options.wait ? std::launch::deferred : std::launch::async;
  std::future<Read> next = std::async(ahead, read, 1);
  for (size_t i = 1; i < options.paths.size(); ++i) {
    const auto [images, read_s] = next.get();
    if (i + 1 < options.paths.size()) next = std::async(ahead, read, i + 1);
    at::Tensor probabilities;
    const auto answer = [&] { probabilities = model->logits(images).to(at::kFloat).softmax(1); };
    const double first_s = seconds(answer);
    nlohmann::ordered_json line = {{"image", options.paths[i]}};
    line["class"] = artifact.classes.at(probabilities.argmax(1).item<int64_t>());
    for (size_t c = 0; c < artifact.classes.size(); ++c)
      line["probabilities"][artifact.classes[c]] = probabilities[0][c].item<float>();
    line["load_s"] = load_s;
    line["read_s"] = read_s;
    line["first_s"] = first_s;
    if (options.repeat) {
      std::vector<double> times;
      for (int r = 0; r < options.repeat; ++r) times.push_back(seconds(answer));
      line["seconds"] = times;
      std::sort(times.begin(), times.end());
      line["median_s"] = times[times.size() / 2];
    }
    line["threads"] = at::get_num_threads();
    line["peak_gib"] = peak_gib();
    std::cout << line.dump() << std::endl;
    std::string word;
    while (options.wait && std::getline(std::cin, word))
      std::cout << nlohmann::json{{"seconds", seconds(answer)}, {"peak_gib", peak_gib()}}.dump() << std::endl;
  }
}

// With control characters escaped, which a terminal would obey: an artifact may be a stranger's.
std::string printable(const std::string& text) {
  std::ostringstream shown;
  for (const unsigned char c : text) {
    if (c < 0x20 || c == 0x7f) shown << "\\x" << std::hex << std::setw(2) << std::setfill('0') << int{c};
    else shown << c;
  }
  return shown.str();
}

}  // namespace

int main(int argc, char** argv) {
  const auto fail = [](ExitCode code, std::string message) {
    // torch's messages go on with a backtrace; the first line says it.
    std::cerr << "error: " << printable(message.substr(0, message.find('\n'))) << std::endl;
    return static_cast<int>(code);
  };
  if (std::any_of(argv, argv + argc, [](const char* arg) { return !std::strcmp(arg, "--help"); })) {
    std::cout << kHelp;
    return 0;
  }
  try {
    run(argc, argv);
    return 0;
  } catch (const Error& error) {
    return fail(error.code, error.what());
  } catch (const c10::Error& error) {
    return fail(kRuntime, error.what_without_backtrace());
  } catch (const std::exception& error) {
    return fail(kRuntime, error.what());
  }
}
