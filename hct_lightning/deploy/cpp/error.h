// What ends the program with a message: a line on standard error and an exit code of its own.
#pragma once

#include <stdexcept>
#include <string>

enum ExitCode { kUsage = 2, kArtifact = 3, kImage = 4, kRuntime = 5 };

struct Error : std::runtime_error {
  Error(ExitCode code, const std::string& message) : std::runtime_error(message), code(code) {}
  ExitCode code;
};
