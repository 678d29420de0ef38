// TorchScript and AOTInductor, both served by libtorch.
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/csrc/jit/runtime/graph_executor.h>
#include <torch/csrc/jit/serialization/import.h>

#include "model.h"

namespace {

class TorchScript : public Model {
 public:
  explicit TorchScript(const Artifact& artifact) {
    // Without this the second call of each new input shape compiles, for a second or more.
    torch::jit::FusionStrategy none{{torch::jit::FusionBehavior::STATIC, 0}};
    torch::jit::setFusionStrategy(none);
    module_ = torch::jit::load(artifact.file.string(), at::kCPU);
    module_.eval();
  }
  at::Tensor logits(const at::Tensor& images) override { return module_.forward({images}).toTensor(); }

 private:
  torch::jit::Module module_;
};

class AOTInductor : public Model {
 public:
  explicit AOTInductor(const Artifact& artifact) : loader_(artifact.file.string()) {}
  at::Tensor logits(const at::Tensor& images) override { return loader_.run({images}).at(0); }

 private:
  torch::inductor::AOTIModelPackageLoader loader_;
};

}  // namespace

std::unique_ptr<Model> load_torchscript(const Artifact& artifact) {
  return std::make_unique<TorchScript>(artifact);
}

std::unique_ptr<Model> load_aoti(const Artifact& artifact) { return std::make_unique<AOTInductor>(artifact); }
