#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <fstream>
#include <iterator>
#include <limits>
#include <mutex>
#include <utility>
#include <vector>

#include <openvino/core/preprocess/pre_post_process.hpp>
#include <openvino/openvino.hpp>
#include <openvino/opsets/opset13.hpp>

#include "error.h"
#include "model.h"
#include "stem.h"

namespace {

// The bytes of the artifact's stem; none where it has none, or where OpenVINO's own operators are as fast.
std::vector<uint8_t> read_stem(const Artifact& artifact) {
  if (artifact.stem.empty() || hct_stem_way() == kPortable) return {};
  std::ifstream file(artifact.stem, std::ios::binary);
  std::vector<uint8_t> stem{std::istreambuf_iterator<char>(file), {}};
  if (!hct_stem_channels(stem.data(), stem.size()))
    throw Error(kArtifact, "stem.bin is no stem of this version; export it again");
  return stem;
}

// The part behind the stem, which takes its map, as hct_lightning/deploy/runtimes/openvino.py makes it.
std::shared_ptr<ov::Model> behind_stem(const std::shared_ptr<ov::Model>& model) {
  using namespace ov::opset13;
  for (const auto& operation : model->get_ordered_ops())
    for (auto& output : operation->outputs()) {
      if (!output.get_names().count("stem")) continue;
      const auto users = output.get_target_inputs();
      const auto given = std::make_shared<Parameter>(ov::element::u8, output.get_partial_shape());
      const auto least = Constant::create(ov::element::f32, {}, {0}), steps = Constant::create(ov::element::f32, {}, {255});
      const auto most = operation->get_input_node_ptr(0)->input_value(4);  // of the rounding
      const auto values = std::make_shared<Convert>(given, ov::element::f32);
      const auto scaled = std::make_shared<FakeQuantize>(values, least, steps, least, most, 256);
      for (auto user : users) user.replace_source_output(scaled->output(0));
      return std::make_shared<ov::Model>(model->outputs(), ov::ParameterVector{given});
    }
  throw Error(kArtifact, "the model names no stem, of which stem.bin lies beside it; export it again");
}

class OpenVINO : public Model {
 public:
  OpenVINO(const Artifact& artifact, const Loading& loading) : stem_(read_stem(artifact)) {
    ov::Core core;
    auto model = core.read_model(artifact.file.string());
    if (!stem_.empty()) model = behind_stem(model);
    // Compiled for interleaved pixels, as images lie in memory after decoding: nothing is copied.
    ov::preprocess::PrePostProcessor steps(model);
    steps.input().tensor().set_layout("NHWC");
    steps.input().model().set_layout("NCHW");
    // Where the CPU does not compute in bf16, fp32 takes its place, which is faster there.
    const auto can = core.get_property("CPU", ov::device::capabilities);
    const bool bf16 = artifact.precision != "fp32" && std::find(can.begin(), can.end(), "BF16") != can.end();
    ov::AnyMap options{ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY),
                       ov::hint::inference_precision(bf16 ? ov::element::bf16 : ov::element::f32)};
    if (loading.threads) options.insert(ov::inference_num_threads(loading.threads));
    if (loading.streams > 1) options.insert(ov::num_streams(loading.streams));
    if (loading.profile) options.insert(ov::enable_profiling(true));
    compiled_ = core.compile_model(steps.build(), "CPU", options);
    threads_ = std::max(1, compiled_.get_property(ov::inference_num_threads) / loading.streams);
    idle_.push_back(compiled_.create_infer_request());
  }

  at::Tensor logits(const at::Tensor& images) override {
    ov::InferRequest request = take();
    infer(request, brought(images));
    ov::Tensor out = request.get_output_tensor();
    const ov::Shape answered = out.get_shape();  // by value: its begin and end must be of one object
    const std::vector<int64_t> sizes(answered.begin(), answered.end());
    at::Tensor found = at::from_blob(out.data<float>(), sizes, at::kFloat).clone();
    give_back(std::move(request));
    return found;
  }

  std::map<std::string, double> operators(const at::Tensor& images) override {
    using Clock = std::chrono::steady_clock;
    using Seconds = std::chrono::duration<double>;
    std::map<std::string, double> found;
    double& stem = found["pixels brought into form, with the stem where it is ours"];
    stem = std::numeric_limits<double>::infinity();
    ov::InferRequest request = take();
    // OpenVINO's times are means over all calls that the model has had. Memory is new in the first ones: they are
    // taken away, and what is left is the mean of the others.
    const auto add = [&](double share) {
      for (const ov::ProfilingInfo& node : request.get_profiling_info())
        found[node.node_type + " " + node.exec_type] += share * Seconds(node.real_time).count();
    };
    const auto call = [&] {
      const auto start = Clock::now();
      const at::Tensor given = brought(images);
      stem = std::min(stem, Seconds(Clock::now() - start).count());
      infer(request, given);
    };
    call();  // so that there has been a call
    add(-1.0 * calls_ / kProfiled);
    for (int i = 0; i < kProfiled; ++i) call();
    add(1.0 * calls_ / kProfiled);
    give_back(std::move(request));
    for (auto& [kind, seconds] : found) seconds = std::max(0.0, seconds);
    return found;
  }

 private:
  // A request that nobody uses. There are never more than callers at once.
  ov::InferRequest take() {
    const std::lock_guard lock(mutex_);
    if (idle_.empty()) return compiled_.create_infer_request();
    ov::InferRequest request = std::move(idle_.back());
    idle_.pop_back();
    return request;
  }

  void give_back(ov::InferRequest request) {
    const std::lock_guard lock(mutex_);
    idle_.push_back(std::move(request));
  }

  // Images to what the compiled model takes: their rows, or the map of the stem.
  at::Tensor brought(const at::Tensor& images) {
    const at::Tensor rows = images.permute({0, 2, 3, 1}).contiguous();
    return stem_.empty() ? rows : through_stem(rows);
  }

  void infer(ov::InferRequest& request, const at::Tensor& given) {
    const ov::Shape shape(given.sizes().begin(), given.sizes().end());
    request.set_input_tensor(ov::Tensor(ov::element::u8, shape, given.data_ptr()));
    request.infer();
    ++calls_;
  }

  // 1 h w c pixels to the stem's map, 1 h' w' 16.
  at::Tensor through_stem(const at::Tensor& pixels) {
    const int height = pixels.size(1), width = pixels.size(2);
    if (hct_stem_channels(stem_.data(), stem_.size()) != pixels.size(3))
      throw Error(kArtifact, "stem.bin is for other images; export it again");
    const at::Tensor map = at::empty({1, hct_stem_side(height), hct_stem_side(width), 16}, at::kByte);
    hct_stem(stem_.data(), pixels.data_ptr<uint8_t>(), height, width, map.data_ptr<uint8_t>(), threads_,
             hct_stem_way());
    return map;
  }

  std::vector<uint8_t> stem_;
  int threads_;  // of a caller
  ov::CompiledModel compiled_;
  std::atomic<int> calls_ = 0;
  std::mutex mutex_;
  std::vector<ov::InferRequest> idle_;
};

}  // namespace

std::unique_ptr<Model> load_openvino(const Artifact& artifact, const Loading& loading) {
  try {
    return std::make_unique<OpenVINO>(artifact, loading);
  } catch (const ov::Exception& error) {
    throw Error(kRuntime, artifact.file.string() + ": " + reason_in(error.what()));
  }
}
