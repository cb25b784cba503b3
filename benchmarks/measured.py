"""What benchmarks share that compare whole processes: watching one as it runs, and what figures state of their origin.

Nothing heavy is imported: on Linux a process begins with the peak memory of the one that starts it.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

PAUSE = 0.25
"""The fewest seconds from one look at the memory to the next."""
RUNTIMES = ("openvino", "onnxruntime", "onnx")
"""What figures depend on where it is installed, beside what adkit always needs."""


@dataclass(frozen=True)
class Spent:
    """What a process took, with those that it started."""

    seconds: float
    """By the clock, from its start to its end, imports included."""
    cpu_seconds: float
    """Of all processes that it waited for; others that work on the machine change it less than the clock."""
    memory: int
    """Bytes: the most that they held together, pages that several share counted once where the system tells."""
    ended: bool
    """Whether it reached the limit, and was ended."""


def watched(
    command: Sequence[object], *, env: Mapping[str, str] | None = None, cwd: Path | None = None, limit: float = 0
) -> Spent:
    """Carry out ``command`` and measure it.

    Args:
        env: variables beside those of this process.
        limit: seconds after which it is ended; 0: never.

    Raises:
        SystemExit: it failed; with the end of what it wrote.
    """
    words = [str(word) for word in command]
    with tempfile.TemporaryFile() as written:
        started = time.perf_counter()
        process = subprocess.Popen(
            words, stdout=written, stderr=written, env=os.environ | (env or {}), cwd=cwd, start_new_session=True
        )
        over, ended, looks = threading.Event(), threading.Event(), [0]

        def end() -> None:
            ended.set()
            os.killpg(process.pid, signal.SIGKILL)

        def look() -> None:
            pause = PAUSE
            while not over.wait(pause):
                began = time.perf_counter()
                looks.append(held(process.pid))
                pause = max(PAUSE, 30 * (time.perf_counter() - began))  # so that looking takes next to nothing

        watch, timer = threading.Thread(target=look), threading.Timer(limit or threading.TIMEOUT_MAX, end)
        timer.daemon = True
        watch.start()
        timer.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            end()
            raise
        finally:
            seconds = time.perf_counter() - started
            timer.cancel()
            over.set()
            watch.join()
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode and not ended.is_set():
            written.seek(0)
            said = written.read().decode(errors="replace")[-4000:]
            raise SystemExit(f"failed with {process.returncode}: {' '.join(words)}\n{said}")
    single = usage.ru_maxrss * (1 if platform.system() == "Darwin" else 1024)  # of one process, exact
    return Spent(seconds, usage.ru_utime + usage.ru_stime, max(single, *looks, 0), ended.is_set())


def held(number: int) -> int:
    """Bytes that the process ``number`` and those that it started hold now."""
    import psutil

    total = 0
    with suppress(psutil.NoSuchProcess):
        parent = psutil.Process(number)
        for process in (parent, *parent.children(recursive=True)):
            with suppress(psutil.Error):
                info = process.memory_full_info()
                total += getattr(info, "pss", info.rss)
    return total


def begun() -> dict[str, Any]:
    """When a measurement began, and what else was at work: a load above 0 before it says that others were."""
    load = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
    return {"date": datetime.now(UTC).isoformat(timespec="seconds"), "load_before": load}


def machine() -> dict[str, Any]:
    import psutil

    from adkit.utils.container import cores

    return {
        "processor": processor(),
        "cores": cores(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "system": platform.platform(),
    }


def origin(start: Mapping[str, Any]) -> dict[str, Any]:
    """When, where and by which versions figures were measured; ``start``: what ``begun`` said."""
    return {**start, "machine": machine(), "versions": versions()}


def versions() -> dict[str, str]:
    from adkit.utils import environment

    found = environment.versions()
    for name in RUNTIMES:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, as docs/ has them; the first column is text, the others are figures."""
    widths = [max(len(cell) for cell in column) for column in zip(columns, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        first, *rest = zip(cells, widths, strict=True)
        return f"| {first[0]:<{first[1]}} | " + " | ".join(f"{cell:>{width}}" for cell, width in rest) + " |"

    ruler = f"|{'-' * (widths[0] + 2)}|" + "|".join(f"{'-' * (width + 1)}:" for width in widths[1:]) + "|"
    return "\n".join([line(columns), ruler, *map(line, rows)])


def verdict(what: str, value: float, sign: str, bound: float) -> dict[str, Any]:
    """Whether a figure keeps its bound; ``sign``: ``≥`` or ``≤``."""
    return {
        "what": what,
        "value": round(value, 4),
        "bound": f"{sign} {bound:g}",
        "holds": bool(value >= bound if sign == "≥" else value <= bound),
    }


def write(figures: Mapping[str, Any], output: Path | None) -> None:
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def concluded(figures: Mapping[str, Any], output: Path | None) -> int:
    """Say which bounds hold, write the figures, and return the exit status: 1 if a bound does not hold."""
    for one in figures["bounds"]:
        print(f"{'holds' if one['holds'] else 'FAILS'}: {one['what']}: {one['value']:g}, wanted {one['bound']}")
    write(figures, output)
    return 0 if all(one["holds"] for one in figures["bounds"]) else 1
