// A model ready to serve, whatever its runtime.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>

#include "artifact.h"

class Model {
 public:
  virtual ~Model() = default;
  // n c h w uint8 -> n classes fp32 logits
  virtual at::Tensor logits(const at::Tensor& images) = 0;
};

std::unique_ptr<Model> load_torchscript(const Artifact& artifact);
// trust: also what this user has not compiled.
std::unique_ptr<Model> load_aoti(const Artifact& artifact, bool trust);
// threads: 0 leaves the choice to OpenVINO.
std::unique_ptr<Model> load_openvino(const Artifact& artifact, int threads);
