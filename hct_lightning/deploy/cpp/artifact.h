// The artifact: a folder with a model file and artifact.json, as hct_lightning/deploy/artifact.py writes it.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "decoding.h"

struct Artifact {
  std::filesystem::path file;   // the model
  std::filesystem::path stem;   // for stem.h; empty where it has none
  std::string digest;           // the SHA-256 of the model
  std::string runtime;          // torchscript, aoti or openvino
  std::string precision;        // fp32, bf16 or int8
  std::string instruction_set;  // of the machine that made it
  std::string torch_version;    // that made it
  std::vector<std::string> classes;
  Decoding decoding;
};

// Reads the description and checks the digest of every file. Throws Error(kArtifact).
Artifact read_artifact(const std::filesystem::path& folder);
