#include <ATen/ops/from_blob.h>

#include <algorithm>

#include <openvino/core/preprocess/pre_post_process.hpp>
#include <openvino/openvino.hpp>

#include "error.h"
#include "model.h"

namespace {

class OpenVINO : public Model {
 public:
  OpenVINO(const Artifact& artifact, int threads) {
    ov::Core core;
    // Compiled for interleaved pixels, as images lie in memory after decoding: nothing is copied.
    ov::preprocess::PrePostProcessor steps(core.read_model(artifact.file.string()));
    steps.input().tensor().set_layout("NHWC");
    steps.input().model().set_layout("NCHW");
    // Where the CPU does not compute in bf16, fp32 takes its place, which is faster there.
    const auto can = core.get_property("CPU", ov::device::capabilities);
    const bool bf16 = artifact.precision != "fp32" && std::find(can.begin(), can.end(), "BF16") != can.end();
    ov::AnyMap options{ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY),
                       ov::hint::inference_precision(bf16 ? ov::element::bf16 : ov::element::f32)};
    if (threads) options.insert(ov::inference_num_threads(threads));
    request_ = core.compile_model(steps.build(), "CPU", options).create_infer_request();
  }

  at::Tensor logits(const at::Tensor& images) override {
    const at::Tensor pixels = images.permute({0, 2, 3, 1}).contiguous();
    const ov::Shape shape(pixels.sizes().begin(), pixels.sizes().end());
    request_.set_input_tensor(ov::Tensor(ov::element::u8, shape, pixels.data_ptr()));
    request_.infer();
    ov::Tensor out = request_.get_output_tensor();
    const ov::Shape answered = out.get_shape();  // by value: its begin and end must be of one object
    const std::vector<int64_t> sizes(answered.begin(), answered.end());
    return at::from_blob(out.data<float>(), sizes, at::kFloat).clone();
  }

 private:
  ov::InferRequest request_;
};

}  // namespace

std::unique_ptr<Model> load_openvino(const Artifact& artifact, int threads) {
  try {
    return std::make_unique<OpenVINO>(artifact, threads);
  } catch (const ov::Exception& error) {
    // It begins with where in OpenVINO's source it was thrown; the last line says why.
    std::string words = error.what();
    while (!words.empty() && words.back() == '\n') words.pop_back();
    throw Error(kRuntime, artifact.file.string() + ": " + words.substr(words.rfind('\n') + 1));
  }
}
