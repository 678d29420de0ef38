#include <ATen/ops/from_blob.h>

#include <openvino/openvino.hpp>

#include "model.h"

namespace {

class OpenVINO : public Model {
 public:
  OpenVINO(const Artifact& artifact, int threads) {
    ov::AnyMap options{ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY)};
    if (artifact.precision == "fp32") options.insert(ov::hint::inference_precision(ov::element::f32));
    if (threads) options.insert(ov::inference_num_threads(threads));
    request_ = ov::Core().compile_model(artifact.file.string(), "CPU", options).create_infer_request();
  }

  at::Tensor logits(const at::Tensor& images) override {
    const at::Tensor rows = images.contiguous();
    const ov::Shape shape(rows.sizes().begin(), rows.sizes().end());
    request_.set_input_tensor(ov::Tensor(ov::element::u8, shape, rows.data_ptr()));
    request_.infer();
    ov::Tensor out = request_.get_output_tensor();
    const std::vector<int64_t> sizes(out.get_shape().begin(), out.get_shape().end());
    return at::from_blob(out.data<float>(), sizes, at::kFloat).clone();
  }

 private:
  ov::InferRequest request_;
};

}  // namespace

std::unique_ptr<Model> load_openvino(const Artifact& artifact, int threads) {
  return std::make_unique<OpenVINO>(artifact, threads);
}
