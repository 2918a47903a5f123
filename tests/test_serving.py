"""A node as a process: what it asks of the C library. Servers and signals are in the tests of the command line."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

# A quarter of a megabyte, taken and freed a hundred times: how many pages the kernel had to hand out.
_PROGRAM = """
import resource
from hub.serving import keep_freed_memory
if {keep}:
    assert keep_freed_memory()
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
[bytearray(262144) for _ in range(4)]
before = faults()
for _ in range(100):
    [bytearray(262144) for _ in range(4)]
print(faults() - before)
"""


def _faults(*, keep: bool) -> int:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM.format(keep=keep)], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a matter of glibc")
def test_freed_memory_is_not_given_back_and_taken_again() -> None:
    assert _faults(keep=True) < 1000 < _faults(keep=False)
