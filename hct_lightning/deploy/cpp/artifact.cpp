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

constexpr int kFormat = 1;

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

}  // namespace

Artifact read_artifact(const std::filesystem::path& folder) {
  const auto description_path = folder / "artifact.json";
  std::ifstream stream(description_path);
  if (!stream) throw Error(kArtifact, folder.string() + " is no artifact: it holds no artifact.json");
  Artifact artifact;
  std::map<std::string, std::string> digests;
  try {
    const auto json = nlohmann::json::parse(stream);
    if (json.at("format") != kFormat)
      throw Error(kArtifact, folder.string() + " has format " + json.at("format").dump() +
                                 ", this program reads " + std::to_string(kFormat) +
                                 "; export it again, or build this program again");
    artifact.file = folder / json.at("file").get<std::string>();
    artifact.runtime = json.at("runtime");
    artifact.precision = json.at("precision");
    artifact.instruction_set = json.at("instruction_set");
    artifact.torch_version = json.at("versions").at("torch");
    artifact.classes = json.at("classes");
    artifact.channels = json.at("input").at("channels");
    artifact.resolution = {json.at("resolution").at(0), json.at("resolution").at(1)};
    artifact.geometry = json.at("geometry");
    if (const auto& window = json.at("window"); !window.is_null())
      artifact.window = {window.at(0), window.at(1)};
    digests = json.at("sha256");
    if (!digests.contains(json.at("file")))
      throw Error(kArtifact, folder.string() + ": artifact.json gives no digest of the model file");
  } catch (const nlohmann::json::exception& error) {
    throw Error(kArtifact, description_path.string() + " is damaged: " + error.what());
  }
  for (const auto& [name, expected] : digests) {
    if (std::filesystem::path(name).filename() != name)
      throw Error(kArtifact, folder.string() + ": artifact.json names a file outside its folder");
    if (digest(folder / name) != expected)
      throw Error(kArtifact, (folder / name).string() + " has changed since it was exported; export it again");
  }
  return artifact;
}
