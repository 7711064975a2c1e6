"""Run a command and print the peak memory of all its processes together (Linux).

    uv run benchmarks/peak_memory.py python run_office31.py experiment=quick data.root=data/office31

Memory is the proportional set size: pages that processes share count once. It is read twice a second.
"""

import subprocess
import sys
import time
from pathlib import Path


def descendants(pid: int) -> set[int]:
    """The process and everything it started, directly or not."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def megabytes(pid: int) -> float:
    """Proportional set size of one process; 0 when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def main() -> int:
    """Returns the command's exit status."""
    started = time.perf_counter()
    process = subprocess.Popen(sys.argv[1:])
    peak, most = 0.0, 0
    while process.poll() is None:
        pids = descendants(process.pid)
        now = sum(map(megabytes, pids))
        if now > peak:
            peak, most = now, len(pids)
        time.sleep(0.5)
    seconds = time.perf_counter() - started
    print(f"peak memory {peak / 1024:.2f} GiB over {most} processes, {seconds:.0f} s")
    return process.returncode


if __name__ == "__main__":
    sys.exit(main())
