// Memory of this machine and of this process: hct_lightning/machine/high_water.py and training/memory_plan.py again.
#pragma once

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <limits>
#include <string>

// The number that follows a word in a file of the kernel's, or begins it; -1 where there is none, as `max` is none.
inline int64_t number_in(const char* file, const std::string& name = "") {
  std::ifstream text(file);
  for (std::string word; !name.empty() && text >> word;)
    if (word == name) break;
  int64_t number = -1;
  return text >> number ? number : -1;
}

// Resident now, and the most so far. (ru_maxrss would be inherited from whoever started this process.)
inline int64_t resident_bytes() { return 1024 * number_in("/proc/self/status", "VmRSS:"); }
inline int64_t peak_bytes() { return 1024 * number_in("/proc/self/status", "VmHWM:"); }

// That this process may still take, of the machine or of its container.
inline int64_t available_bytes() {
  int64_t free = 1024 * number_in("/proc/meminfo", "MemAvailable:");
  if (free < 0) free = std::numeric_limits<int64_t>::max();
  const int64_t limit = number_in("/sys/fs/cgroup/memory.max"), taken = number_in("/sys/fs/cgroup/memory.current");
  return limit < 0 || taken < 0 ? free : std::clamp<int64_t>(limit - taken, 0, free);
}
