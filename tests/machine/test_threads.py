"""cpp/threads.h: threads that help one that works, too."""

import sys

import pytest

from hct_lightning.machine.compiled import compiled_library
from hct_lightning.machine.runtime import cpu_count

PROGRAM = """
#include <atomic>

#include "threads.h"

// CPUs that a thread may use which was sent away.
extern "C" int left_to_a_thread() {
  std::atomic<bool> sent(false);
  int count = 0;
  std::thread thread([&] {
    while (!sent) std::this_thread::yield();
    cpu_set_t cpus;
    if (!sched_getaffinity(0, sizeof cpus, &cpus)) count = CPU_COUNT(&cpus);
  });
  work_elsewhere(thread);
  sent = true;
  thread.join();
  return count;
}
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere threads stay where they are")
def test_a_thread_may_use_all_cpus_but_the_callers(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "program.cpp").write_text(PROGRAM)
    library = compiled_library(tmp_path, "program.cpp", (), "nothing")
    if library is None:
        pytest.skip("no C++ compiler")
    assert library.left_to_a_thread() == max(1, cpu_count() - 1)
    assert cpu_count() == library.left_to_a_thread() + (cpu_count() > 1), "the caller keeps its own"
