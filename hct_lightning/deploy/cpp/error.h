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

// The line that says why, as hct_lightning/deploy/artifact.py finds it: OpenVINO's begin with where they were thrown, and
// torch's go on with a backtrace.
inline std::string reason_in(const std::string& message) {
  std::istringstream lines(message);
  std::string last;
  for (std::string line; std::getline(lines, line);) {
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    last = line;
    if (!line.starts_with("Exception from ") && !line.starts_with("Check '")) break;
  }
  return last;
}

// With control characters escaped, which a terminal would obey: an artifact may be a stranger's.
inline std::string printable(const std::string& text) {
  std::ostringstream shown;
  for (const unsigned char c : text) {
    if (c < 0x20 || c == 0x7f) shown << "\\x" << std::hex << std::setw(2) << std::setfill('0') << int{c};
    else shown << c;
  }
  return shown.str();
}
