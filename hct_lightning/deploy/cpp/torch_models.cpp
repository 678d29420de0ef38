// TorchScript and AOTInductor, both served by libtorch.
#include <ATen/Version.h>
#include <ATen/cpu/Utils.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/csrc/jit/runtime/graph_executor.h>
#include <torch/csrc/jit/serialization/import.h>

#include <torch/version.h>

#include "error.h"
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

// What compiled code may use here, in the words of hct_lightning/deploy/artifact.py.
std::string instruction_set() {
  std::string found = at::get_cpu_capability();
  const auto has = at::cpu::get_cpu_capabilities();
  for (const char* name : {"amx_tile", "avx512_bf16", "avx512_vnni"})
    if (const auto it = has.find(name); it != has.end() && it->second.toBool()) found += " " + it->first;
  return found;
}

class AOTInductor : public Model {
 public:
  explicit AOTInductor(const Artifact& artifact) {
    // The package is native code: for one instruction set and one version.
    if (artifact.instruction_set != instruction_set())
      throw Error(kArtifact, artifact.file.string() + " was compiled for '" + artifact.instruction_set +
                                 "', this machine has '" + instruction_set() + "'; export it again here");
    const std::string version = artifact.torch_version.substr(0, artifact.torch_version.find('+'));
    if (version != TORCH_VERSION)
      throw Error(kArtifact, artifact.file.string() + " was compiled with torch " + version + ", this is " +
                                 TORCH_VERSION + "; export it again with this version");
    loader_.emplace(artifact.file.string());
  }
  // The code was compiled for this order of memory and reads any other wrongly.
  at::Tensor logits(const at::Tensor& images) override {
    return loader_->run({images.contiguous(at::MemoryFormat::ChannelsLast)}).at(0);
  }

 private:
  std::optional<torch::inductor::AOTIModelPackageLoader> loader_;
};

}  // namespace

std::unique_ptr<Model> load_torchscript(const Artifact& artifact) {
  return std::make_unique<TorchScript>(artifact);
}

std::unique_ptr<Model> load_aoti(const Artifact& artifact) { return std::make_unique<AOTInductor>(artifact); }
