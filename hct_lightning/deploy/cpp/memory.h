// Memory of this machine and of this process: hct_lightning/machine/high_water.py and cgroups.py again.
#pragma once

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <limits>
#include <string>

// The number that follows a word in a file of the kernel's, or begins it; -1 where there is none, as `max` is none.
inline int64_t number_in(const std::string& file, const std::string& name = "") {
  std::ifstream text(file);
  for (std::string word; !name.empty() && text >> word;)
    if (word == name) break;
  int64_t number = -1;
  return text >> number ? number : -1;
}

// Resident now, and the most so far. (ru_maxrss would be inherited from whoever started this process.)
inline int64_t resident_bytes() { return 1024 * number_in("/proc/self/status", "VmRSS:"); }
inline int64_t peak_bytes() { return 1024 * number_in("/proc/self/status", "VmHWM:"); }

// That this process's control groups leave it: the limits of containers, of Slurm's jobs and of systemd's scopes.
inline int64_t left_by_groups() {
  int64_t least = std::numeric_limits<int64_t>::max();
  std::ifstream groups("/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    const auto first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const bool newer = controllers.empty();
    if (!newer && ("," + controllers + ",").find(",memory,") == std::string::npos) continue;
    for (std::string path = line.substr(second + 1);; path.erase(path.rfind('/'))) {  // of the group, then of those above
      if (path == "/") path.clear();
      const std::string group = (newer ? "/sys/fs/cgroup" : "/sys/fs/cgroup/memory") + path;
      const int64_t limit = number_in(group + (newer ? "/memory.max" : "/memory.limit_in_bytes"));
      const int64_t taken = number_in(group + (newer ? "/memory.current" : "/memory.usage_in_bytes"));
      const int64_t cached = number_in(group + "/memory.stat", newer ? "inactive_file" : "total_inactive_file");
      if (limit >= 0 && taken >= 0) least = std::min(least, std::max<int64_t>(0, limit - taken + std::max<int64_t>(0, cached)));
      if (path.find('/') == std::string::npos) break;
    }
  }
  return least;
}

// That this process may still take, of the machine or of its container or job.
inline int64_t available_bytes() {
  int64_t free = 1024 * number_in("/proc/meminfo", "MemAvailable:");
  if (free < 0) free = std::numeric_limits<int64_t>::max();
  return std::min(free, left_by_groups());
}
