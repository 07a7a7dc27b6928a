"""What the kernel knows of a process tree (CPU time, memory, write calls), and the cores to share out."""

import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PPID, _UTIME, _CSTIME = 1, 11, 14  # positions in /proc/PID/stat, counted after the command's name


@dataclass(frozen=True)
class Cores:
    """The cores of the proxy, and those of load and upstream. On a one-core machine both are the same."""

    proxy: frozenset[int]
    load: frozenset[int]

    @property
    def apart(self) -> bool:
        """Whether load and proxy stay out of each other's way."""
        return not self.proxy & self.load

    def __str__(self) -> str:
        if not self.apart:
            return "proxy and load share one core: expect noise"
        return f"proxy on core {_list(self.proxy)}, load and upstream on {_list(self.load)}"


def share_cores() -> Cores:
    """Give the proxy one core (the last: interrupts mostly go to the first), load and upstream the others."""
    cores = sorted(os.sched_getaffinity(0))
    return Cores(frozenset(cores[-1:]), frozenset(cores[:-1] or cores))


def process_tree(pid: int) -> list[int]:
    """`pid` and all its living descendants."""
    children: dict[int, list[int]] = {}
    for child, fields in _all_stats():
        children.setdefault(int(fields[_PPID]), []).append(child)
    tree = [pid]
    for parent in tree:
        tree.extend(children.get(parent, ()))
    return tree


def cpu_time_s(pid: int) -> float:
    """User and system time of the tree, all threads and ended children included, in steps of a clock tick."""
    members = set(process_tree(pid))
    stats = [fields for member, fields in _all_stats() if member in members]
    return sum(int(tick) for fields in stats for tick in fields[_UTIME : _CSTIME + 1]) / _TICKS_PER_S


def resident_bytes(pids: Iterable[int]) -> int:
    """Resident memory of these processes; shared pages count in each. Quick enough to call under load."""
    pages = (Path(f"/proc/{pid}/statm").read_text().split()[1] for pid in pids)
    return sum(map(int, pages)) * os.sysconf("SC_PAGE_SIZE")


def write_calls(pid: int) -> int:
    """How often the tree has called write() or writev(). The kernel does not count send() and sendmsg()."""
    texts = (Path(f"/proc/{member}/io").read_text() for member in process_tree(pid))
    return sum(int(line.split()[1]) for text in texts for line in text.splitlines() if line.startswith("syscw"))


def busy_s(cores: frozenset[int]) -> float:
    """CPU time that everything on the machine together has spent on these cores."""
    names = {f"cpu{core}" for core in cores}
    lines = (line.split() for line in Path("/proc/stat").read_text().splitlines())
    # user, nice, system, (idle, iowait,) irq, softirq, steal
    return sum(sum(map(int, f[1:4] + f[6:9])) for f in lines if f and f[0] in names) / _TICKS_PER_S


class Neighbours:
    """Watches what other programs take of the cores that a process tree is meant to have for itself."""

    def __init__(self, pid: int, cores: frozenset[int]) -> None:
        self._pid, self._cores = pid, cores
        self._cpu_s, self._busy_s, self._since_s = cpu_time_s(pid), busy_s(cores), time.perf_counter()

    def share(self) -> float:
        """Return the part of one core that others took since this was made."""
        own_s = cpu_time_s(self._pid) - self._cpu_s
        others_s = busy_s(self._cores) - self._busy_s - own_s
        return max(0.0, others_s / (time.perf_counter() - self._since_s))


def _all_stats() -> Iterator[tuple[int, list[str]]]:
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = path.read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended while we looked
        yield int(path.parent.name), text.rpartition(")")[2].split()


def _list(cores: frozenset[int]) -> str:
    return ", ".join(map(str, sorted(cores)))
