// TorchScript and AOTInductor, both served by libtorch.
#include <ATen/Version.h>
#include <ATen/record_function.h>
#include <ATen/cpu/Utils.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/csrc/jit/ir/ir.h>
#include <torch/csrc/jit/runtime/graph_executor.h>
#include <torch/csrc/jit/serialization/import.h>

#include <torch/version.h>

#include <chrono>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "error.h"
#include "model.h"

namespace {

// Whether this user has exported the file with this digest: hct_lightning/deploy/trust.py writes the list.
bool is_own(const std::string& digest) {
  const char *state = std::getenv("XDG_STATE_HOME"), *home = std::getenv("HOME");
  if (!(state && *state) && !home) return false;
  const auto folder = state && *state ? std::filesystem::path(state) : std::filesystem::path(home) / ".local" / "state";
  std::ifstream list(folder / "hct_lightning" / "compiled.txt");
  for (std::string line; list >> line;)
    if (line == digest) return true;
  return false;
}

// TorchScript, too, is a program. Python looks into a stranger's before it runs it; this program does not.
void check_own(const Artifact& artifact, bool trust) {
  if (!trust && !is_own(artifact.digest))
    throw Error(kArtifact, artifact.file.string() +
                               " is a program that you have not exported on this machine: it could do anything; if you "
                               "trust who did, add --trust");
}

// What compiled code may use here, in the words of hct_lightning/deploy/artifact.py.
std::string instruction_set() {
  std::string found = at::get_cpu_capability();
  std::set<std::string> extras;
  const auto capabilities = at::cpu::get_cpu_capabilities();
  const bool x86 = capabilities.contains("avx2");
  for (const auto& [name, has] : capabilities)
    if (has.isBool() && has.toBool() &&
        (!x86 || name.starts_with("amx_") || name.starts_with("avx512_") || name.starts_with("avx_")))
      extras.insert(name);
  for (const std::string& name : extras) found += " " + name;
  return found;
}

// Made with it, int8 layers have 8 bits of their inputs; where it is missing their sums saturate, as
// hct_lightning/deploy/runtimes/torchscript.py says.
constexpr const char* kVnni = "avx512_vnni";

bool has_vnni(const std::string& instructions) {
  return (instructions + " ").find(std::string(" ") + kVnni + " ") != std::string::npos;
}

// The operators that torch runs in a thread: seconds of each by name, without those that it calls in turn.
class Profile {
 public:
  Profile() {
    seconds_.clear();
    handle_ = at::addThreadLocalCallback(at::RecordFunctionCallback(begin, end).scopes({at::RecordScope::FUNCTION}));
  }
  ~Profile() { at::removeCallback(handle_); }
  std::map<std::string, double> per_call(int calls) const {
    std::map<std::string, double> found = seconds_;
    for (auto& [name, seconds] : found) seconds /= calls;
    return found;
  }

 private:
  using Clock = std::chrono::steady_clock;
  struct Call {
    Clock::time_point start;
    double inside = 0;  // seconds of the operators that it calls
  };

  static std::unique_ptr<at::ObserverContext> begin(const at::RecordFunction&) {
    calls_.push_back({Clock::now()});
    return nullptr;
  }
  static void end(const at::RecordFunction& function, at::ObserverContext*) {
    const double took = std::chrono::duration<double>(Clock::now() - calls_.back().start).count();
    seconds_[function.name()] += took - calls_.back().inside;
    calls_.pop_back();
    if (!calls_.empty()) calls_.back().inside += took;
  }

  at::CallbackHandle handle_;
  static inline thread_local std::vector<Call> calls_;
  static inline thread_local std::map<std::string, double> seconds_;
};

class TorchModel : public Model {
 public:
  std::map<std::string, double> operators(const at::Tensor& images) override {
    const Profile profile;
    for (int i = 0; i < kProfiled; ++i) logits(images);
    return profile.per_call(kProfiled);
  }
};

class TorchScript : public TorchModel {
 public:
  TorchScript(const Artifact& artifact, bool trust) {
    // Without this the second call of each new input shape compiles, for a second or more.
    torch::jit::FusionStrategy none{{torch::jit::FusionBehavior::STATIC, 0}};
    torch::jit::setFusionStrategy(none);
    check_own(artifact, trust);
    module_ = torch::jit::load(artifact.file.string(), at::kCPU);
    module_.eval();
    if (has_vnni(artifact.instruction_set) && !has_vnni(instruction_set()) && is_static_int8())
      std::cerr << "warning: " << printable(artifact.file.string()) << " was made on a CPU with " << kVnni
                << ", which this one has not: sums of its int8 layers may saturate, and answers be wrong; export it "
                   "again on this machine" << std::endl;
  }
  at::Tensor logits(const at::Tensor& images) override { return module_.forward({images}).toTensor(); }

 private:
  // Dynamic layers choose the bits of their inputs as they come.
  bool is_static_int8() const {
    for (const auto* node : module_.get_method("forward").graph()->nodes()) {
      const std::string_view kind = node->kind().toQualString();
      if (kind.starts_with("quantized::") && !kind.ends_with("_dynamic")) return true;
    }
    return false;
  }

  torch::jit::Module module_;
};

class AOTInductor : public TorchModel {
 public:
  AOTInductor(const Artifact& artifact, bool trust) {
    check_own(artifact, trust);
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

std::unique_ptr<Model> load_torchscript(const Artifact& artifact, const Loading& loading) {
  return std::make_unique<TorchScript>(artifact, loading.trust);
}

std::unique_ptr<Model> load_aoti(const Artifact& artifact, const Loading& loading) {
  return std::make_unique<AOTInductor>(artifact, loading.trust);
}
