// A model ready to serve, whatever its runtime.
#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <memory>
#include <string>

#include "artifact.h"

// How a model is loaded.
struct Loading {
  int threads = 0;       // in all; 0 leaves the choice to the runtime
  int streams = 1;       // callers at once, each on its share of the threads
  bool trust = false;    // also programs that this user has not made, whatever they do
  bool profile = false;  // ready for `operators`
};

constexpr int kProfiled = 5;  // calls

class Model {
 public:
  virtual ~Model() = default;
  // n c h w uint8 -> n classes fp32 logits; for as many callers at once as it has streams
  virtual at::Tensor logits(const at::Tensor& images) = 0;
  // Seconds of each kind of operator in a call of `logits`, as hct_lightning/benchmarks/inference/profile.py measures it.
  virtual std::map<std::string, double> operators(const at::Tensor& images) = 0;
};

std::unique_ptr<Model> load_torchscript(const Artifact& artifact, const Loading& loading);
std::unique_ptr<Model> load_aoti(const Artifact& artifact, const Loading& loading);
std::unique_ptr<Model> load_openvino(const Artifact& artifact, const Loading& loading);
