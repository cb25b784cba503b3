"""What this process may use: of the machine, and of the container around it where there is one.

Linux states a container's limits in control groups, each of which lies in others whose limits hold, too. The usual
counts of cores and of free memory are those of the whole machine.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

GROUPS: Final = Path("/sys/fs/cgroup")
OWN: Final = Path("/proc/self/cgroup")


def available_memory(groups: Path = GROUPS, own: Path = OWN) -> int:
    """Bytes of memory that can be taken: what is free on the machine, at most what the container has left."""
    import psutil

    left = [psutil.virtual_memory().available]
    for folder in _folders("memory", groups, own):
        for limit, usage, reclaimed in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            most, used = _number(folder / limit), _number(folder / usage)
            if most is not None and used is not None:
                # Copies of files in memory count as used until the memory is asked for.
                left.append(max(0, most - used + _stated(folder / "memory.stat", reclaimed)))
    return int(min(left))


def cores(groups: Path = GROUPS, own: Path = OWN) -> int:
    """The number of cores that this process may use: those that it may run on, at most its container's share."""
    # Linux says which; elsewhere a process may use every core.
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for folder in _folders("cpu", groups, own):
        words = _text(folder / "cpu.max").split()
        if len(words) != 2:
            words = [_text(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")]
        if all(word.isdecimal() for word in words) and int(words[1]):
            found = min(found, math.ceil(int(words[0]) / int(words[1])))
    return max(1, found)


def _folders(controller: str, groups: Path, own: Path) -> Iterator[Path]:
    """The folders of this process's control groups, the innermost first, of either version of them."""
    for line in _text(own).splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0":
            base = groups
        elif controller in controllers.split(","):
            base = groups / controllers if (groups / controllers).is_dir() else groups / controller
        else:
            continue
        inner = base / path.lstrip("/")
        yield from (folder for folder in (inner, *inner.parents) if folder.is_relative_to(base))


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError):  # there is no such limit here
        return ""


def _number(file: Path) -> int | None:
    text = _text(file).strip()
    return int(text) if text.isdecimal() else None


def _stated(file: Path, name: str) -> int:
    for line in _text(file).splitlines():
        key, _, value = line.partition(" ")
        if key == name and value.isdecimal():
            return int(value)
    return 0
