// Work in parts, by several threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <functional>
#include <memory>
#include <system_error>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <pthread.h>
#include <sched.h>
#endif

namespace parts {

// A thread that works on other CPUs than the one that the caller is on now. In a virtual machine Linux counts an idle CPU
// as taken away by the host (vcpu_is_preempted), and puts a new thread on its creator's CPU, where it waits, often 4 ms.
// Where there is no other CPU, where that is refused, and with more than 1024 CPUs it works anywhere.
inline std::thread begin_elsewhere(const std::function<void()>& work) {
  const auto sent = std::make_shared<std::atomic<bool>>(false);
  std::thread thread([work, sent] {
    while (!*sent) std::this_thread::yield();  // one that has ended has the number 0, and that means the caller
    work();
  });
#if defined(__linux__)
  cpu_set_t cpus;
  const int here = sched_getcpu();
  if (here >= 0 && !sched_getaffinity(0, sizeof cpus, &cpus)) {
    CPU_CLR(here, &cpus);
    if (CPU_COUNT(&cpus)) pthread_setaffinity_np(thread.native_handle(), sizeof cpus, &cpus);
  }
#endif
  *sent = true;
  return thread;
}

// Does the parts 0 to count - 1. Who is done takes the next one: a thread may begin late, and its CPU have other work.
inline void in_turn(int count, int threads, const std::function<void(int)>& part) {
  std::atomic<int> next{0};
  const auto work = [&] {
    for (int mine; (mine = next++) < count;) part(mine);
  };
  std::vector<std::thread> others;
  others.reserve(threads - 1);
  try {
    while (static_cast<int>(others.size()) + 1 < std::min(threads, count)) others.push_back(begin_elsewhere(work));
  } catch (const std::system_error&) {  // as many as the system allows
  }
  work();
  for (std::thread& other : others) other.join();
}

}  // namespace parts
