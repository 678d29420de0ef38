// What ends the program with a message: a line on standard error and an exit code of its own.
#pragma once

#include <iomanip>
#include <sstream>
#include <stdexcept>
#include <string>

enum ExitCode { kUsage = 2, kArtifact = 3, kImage = 4, kRuntime = 5 };

struct Error : std::runtime_error {
  Error(ExitCode code, const std::string& message) : std::runtime_error(message), code(code) {}
  ExitCode code;
};

// With control characters escaped, which a terminal would obey: an artifact may be a stranger's.
inline std::string printable(const std::string& text) {
  std::ostringstream shown;
  for (const unsigned char c : text) {
    if (c < 0x20 || c == 0x7f) shown << "\\x" << std::hex << std::setw(2) << std::setfill('0') << int{c};
    else shown << c;
  }
  return shown.str();
}
