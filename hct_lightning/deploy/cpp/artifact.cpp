#include "artifact.h"

#include <openssl/evp.h>

#include <array>
#include <cstdio>
#include <fstream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>

#include "error.h"

namespace {

constexpr int kFormat = 2;            // format 1, which said less of the decoding, is read too
constexpr int kDecoding = 1;          // the version of the decoding in format 2
constexpr int64_t kMaxPixels = 1 << 30;  // of format 1, which did not say it

// The file's SHA-256, in hexadecimal.
std::string digest(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw Error(kArtifact, path.string() + " is missing; export the artifact again");
  std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context(EVP_MD_CTX_new(), EVP_MD_CTX_free);
  EVP_DigestInit_ex(context.get(), EVP_sha256(), nullptr);
  std::vector<char> buffer(1 << 20);
  while (file.read(buffer.data(), buffer.size()), file.gcount() > 0)
    EVP_DigestUpdate(context.get(), buffer.data(), file.gcount());
  std::array<unsigned char, EVP_MAX_MD_SIZE> bytes;
  unsigned size = 0;
  EVP_DigestFinal_ex(context.get(), bytes.data(), &size);
  std::string hex;
  for (unsigned i = 0; i < size; ++i) {
    char two[3];
    std::snprintf(two, sizeof two, "%02x", bytes[i]);
    hex += two;
  }
  return hex;
}

std::vector<std::pair<double, double>> window_of(const nlohmann::json& json) {
  if (json.is_null()) return {};
  if (!json.at(0).is_array()) return {{json.at(0), json.at(1)}};
  std::vector<std::pair<double, double>> pairs;
  for (const auto& pair : json) pairs.emplace_back(pair.at(0), pair.at(1));
  return pairs;
}

Decoding decoding_of(const nlohmann::json& json) {
  if (json.at("format") == 1)
    return {.channels = json.at("input").at("channels"),
            .size = {json.at("resolution").at(0), json.at("resolution").at(1)},
            .geometry = json.at("geometry"),
            .max_pixels = kMaxPixels,
            .window = window_of(json.at("window")),
            .srgb = false,
            .reduce_to = {}};
  const auto& saved = json.at("decoding");
  if (saved.at("version") != kDecoding)
    throw Error(kArtifact, "its decoding has version " + saved.at("version").dump() + ", this program reads " +
                               std::to_string(kDecoding) + "; build this program again");
  if (saved.at("size").is_null())
    throw Error(kArtifact, "its network takes images at their own sizes (data.resolution=native); serve it from Python");
  Decoding decoding{.channels = saved.at("channels"),
                    .size = {saved.at("size").at(0), saved.at("size").at(1)},
                    .geometry = saved.at("geometry"),
                    .max_pixels = saved.at("max_pixels"),
                    .window = window_of(saved.at("window")),
                    .srgb = saved.at("srgb"),
                    .reduce_to = {}};
  if (decoding.size.height < 1 || decoding.size.width < 1 || decoding.channels < 1)
    throw Error(kArtifact, "its decoding is of images without pixels; export it again");
  if (const auto& pixels = saved.at("reduce_to"); !pixels.is_null()) decoding.reduce_to = pixels.get<int64_t>();
  return decoding;
}

}  // namespace

Artifact read_artifact(const std::filesystem::path& folder) {
  const auto description_path = folder / "artifact.json";
  std::ifstream stream(description_path);
  if (!stream) throw Error(kArtifact, folder.string() + " is no artifact: it holds no artifact.json");
  Artifact artifact;
  std::map<std::string, std::string> digests;
  try {
    const auto json = nlohmann::json::parse(stream);
    if (json.at("format") != 1 && json.at("format") != kFormat)
      throw Error(kArtifact, folder.string() + " has format " + json.at("format").dump() +
                                 ", this program reads " + std::to_string(kFormat) +
                                 "; export it again, or build this program again");
    artifact.file = folder / json.at("file").get<std::string>();
    artifact.runtime = json.at("runtime");
    artifact.precision = json.at("precision");
    artifact.instruction_set = json.at("instruction_set");
    artifact.torch_version = json.at("versions").at("torch");
    artifact.classes = json.at("classes");
    artifact.decoding = decoding_of(json);
    digests = json.at("sha256");
    if (!digests.contains(json.at("file")))
      throw Error(kArtifact, folder.string() + ": artifact.json gives no digest of the model file");
  } catch (const nlohmann::json::exception& error) {
    throw Error(kArtifact, description_path.string() + " is damaged: " + error.what());
  }
  if (digests.contains("stem.bin")) artifact.stem = folder / "stem.bin";
  for (const auto& [name, expected] : digests) {
    if (std::filesystem::path(name).filename() != name)
      throw Error(kArtifact, folder.string() + ": artifact.json names a file outside its folder");
    if (digest(folder / name) != expected)
      throw Error(kArtifact, (folder / name).string() + " has changed since it was exported; export it again");
  }
  artifact.digest = digests.at(artifact.file.filename());  // now known to be the name that it gives
  return artifact;
}
