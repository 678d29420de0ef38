// What of a stranger's TorchScript archive may run: the same as in hct_lightning/deploy/checked, which says why.
#pragma once

#include <filesystem>
#include <map>
#include <stdexcept>
#include <string>
#include <string_view>

namespace checked {

constexpr size_t kMost = size_t{1} << 22;  // bytes of the program, and of the pickle with its constants

struct Refused : std::runtime_error {
  using std::runtime_error::runtime_error;
};

using Parts = std::map<std::string, std::string>;

// The archive as torch may load it: the same program and constants, and nothing else.
std::string known_parts(const std::filesystem::path& file);

struct Code {
  std::string name;    // of the program's class, qualified
  std::string source;  // as it may run
};

// The program; `module` is where it lies, such as `__torch__.m`.
Code check_code(std::string_view source, const std::string& module);

// Refuses constants that are no tensors, or no packed weights, or lie out of their bounds.
void check_constants(std::string_view pickled, const Parts& memories);

}  // namespace checked
