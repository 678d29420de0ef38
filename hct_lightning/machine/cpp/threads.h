// Threads that help one that works, too.
#pragma once

#include <thread>

#if defined(__linux__)
#include <pthread.h>
#include <sched.h>
#endif

// Sends a thread that was just begun to other CPUs than that of the caller, who is about to work as well. On a virtual
// machine Linux takes a CPU that has no work for one that its host has taken away (KVM's vcpu_is_preempted), so the thread
// would wait for its turn here, often four milliseconds. Where there is no other CPU it stays.
inline void work_elsewhere(std::thread& thread) {
#if defined(__linux__)
  cpu_set_t cpus;
  const int here = sched_getcpu();
  if (here < 0 || sched_getaffinity(0, sizeof cpus, &cpus)) return;
  CPU_CLR(here, &cpus);
  if (CPU_COUNT(&cpus)) pthread_setaffinity_np(thread.native_handle(), sizeof cpus, &cpus);
#else
  (void)thread;
#endif
}
