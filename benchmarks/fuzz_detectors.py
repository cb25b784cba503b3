"""Damages and forges detectors in a thousand ways, and counts what loading makes of them.

    python benchmarks/fuzz_detectors.py --cases 1000 --seed 0

Every case is loaded and asked for scores in a process of its own, whose peak memory and time are measured. It must be
refused with one sentence, or have the same effect. Where every digest was recomputed, the damage may also have made
another valid detector; these cases are counted separately. Anything else is a fault, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import torch
from damage import DAMAGE, Folder
from PIL import Image

import adkit
from adkit import Detector, UserError
from adkit.plugin.registry import discover
from adkit.utils.text import counted

SECONDS = 60
MEMORY = 2e9
"""Bytes of resident memory that a worker may reach, of which Python and torch take 0.6e9."""
FREE = int(1.2e9)
"""Bytes that workers take to be free, so that what is refused for its size does not depend on the machine."""
OUTCOMES = ("refused", "identical", "changed")
SMALL = {"use": "timm", "backbone": "test_resnet", "weights": "none", "levels": ["layer1", "layer2"]}
RECIPES: dict[str, dict[str, Any]] = {
    "knn": {"extractor": SMALL | {"backbone": "resnet18"}, "scorer": {"use": "knn", "k": 1}},
    "folds": {"scorer": {"use": "knn", "k": 1}, "threshold": {"method": "cross", "folds": 2}},
    "ensemble": {"extractor": SMALL | {"backbone": ["test_resnet", "test_efficientnet"], "levels": ["pool"]}},
    "center": {"scorer": {"use": "center"}},
    "spade": {"extractor": SMALL | {"levels": ["pool", "layer1"]}, "scorer": {"use": "spade", "k": 2, "retrieve": 3}},
}


@dataclass
class Found:
    """The outcomes of the cases."""

    counts: Counter[tuple[Any, ...]] = field(default_factory=Counter)
    """Number of cases by what was done to them and by outcome; here by damage, and whether digests were recomputed."""
    faults: list[str] = field(default_factory=list)
    peak: float = 0.0
    slowest: float = 0.0

    def ending(self, what: str) -> str:
        """The lines below the table; ``what`` was timed."""
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        return "\n".join(
            [
                f"\npeak memory {self.peak / 1e9:.2f} GB (the process that they are forked from: {own:.2f} GB)",
                f"slowest {what} {self.slowest:.1f} s",
                counted(len(self.faults), "fault"),
                *self.faults,
            ]
        )


@dataclass(frozen=True)
class Original:
    folder: Path
    image: Path
    expected: dict[str, Any]


def make_originals(work: Path, names: list[str]) -> list[tuple[str, str, dict[str, Any]]]:
    """A detector of each recipe, fitted on a few images of noise: folder, image, and the result for that image."""
    random = np.random.default_rng(0)
    for split, count in (("train/good", 8), ("test/good", 2)):
        folder = work / "data" / "noise" / split
        folder.mkdir(parents=True)
        for number in range(count):
            pixels = random.integers(0, 256, (8, 8, 3), np.uint8)
            Image.fromarray(pixels).resize((48, 48)).save(folder / f"{number}.png")
    common: dict[str, Any] = {
        "data": {"root": str(work / "data"), "image_size": 64, "batch_size": 4, "calibration": 0.25},
        "extractor": SMALL,
        "scorer": {"use": "knn", "k": 1},
    }
    originals = []
    for name in names:
        run = {"name": name, "output": str(work / "runs"), "device": "cpu", "precision": "float32"}
        report = adkit.run(common | RECIPES[name] | {"run": run})
        image = work / "data" / "noise" / "test" / "good" / "0.png"
        folder = Path(report.folder) / "detector"
        originals.append((str(folder), str(image), effect(folder, image)))
    return originals


def effect(folder: Path, image: Path) -> dict[str, Any]:
    """The result of a detector for an image, or the sentence that refuses the detector."""
    try:
        detector = Detector.load(folder, "cpu")
    except UserError as error:
        return {"refused": list(error.problems), "where": str(folder)}
    try:
        found = detector.predict(image)
    except UserError as error:
        return {"refused": list(error.problems), "where": ""}
    p, above = (None if one is None else one.tolist() for one in (found.p_values, found.anomalous))
    largest = None if found.maps is None else float(found.maps.max())
    return {"score": found.scores.tolist(), "p": p, "anomalous": above, "map": largest}


def fuzz(cases: int, seed: int, work: Path, names: list[str] | None = None) -> Found:
    """Run cases ``seed``, 0 … ``cases`` - 1."""
    torch.set_num_threads(1)  # the workers are forks of this process, so what they import is imported here, once
    discover()
    importlib.import_module("adkit.toolkit.backbones")
    importlib.import_module("faiss")
    made = apart(lambda: make_originals(work, names or list(RECIPES)))
    originals = [Original(Path(folder), Path(image), expected) for folder, image, expected in made]
    found = Found()
    for number in range(cases):
        random = np.random.default_rng([seed, number])
        original = originals[number % len(originals)]
        damage = list(DAMAGE)[(number // len(originals)) % len(DAMAGE)]
        folder = work / f"case-{number}"
        shutil.copytree(original.folder, folder, copy_function=os.link)
        copy, wanted = Folder(folder, random), bool(random.random() < 0.6)
        forged = apart(lambda damage=damage, copy=copy, wanted=wanted: apply(damage, copy, forge=wanted))
        began = time.monotonic()
        answer, peak = in_worker(lambda folder=folder, original=original: effect(folder, original.image))
        took = time.monotonic() - began
        outcome, fault = judged(answer, original.expected, forged)
        if (folder / "ran").exists():
            fault = "code of the file was run"
        if peak > MEMORY:
            fault = f"{peak / 1e9:.2f} GB of memory"
        if fault:
            found.faults.append(f"case {number} ({original.folder.parent.name}, {damage}, forged {forged}): {fault}")
        found.counts[damage, forged, outcome] += 1
        found.peak, found.slowest = max(found.peak, peak), max(found.slowest, took)
        shutil.rmtree(folder)
    return found


def apply(damage: str, folder: Folder, *, forge: bool) -> bool:
    """Damage a folder, and return whether every digest fits afterwards."""
    DAMAGE[damage](folder)
    if forge:
        try:
            folder.forge()
        except (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError):
            return False  # what is there now has no place for a digest
    return forge


def judged(answer: dict[str, Any] | str, expected: dict[str, Any], forged: bool) -> tuple[str, str]:
    """The outcome of a case, and what is wrong with it, or nothing."""
    if isinstance(answer, str):
        return "fault", answer
    if "refused" in answer:
        sentences = answer["refused"]
        plain = len(sentences) == 1 and sentences[0].isprintable() and answer["where"] in sentences[0]
        return "refused", "" if plain else f"no plain sentence: {sentences}"
    same = answer["anomalous"] == expected["anomalous"] and answer["p"] == expected["p"]
    for key in ("score", "map"):
        same &= (answer[key] is None) == (expected[key] is None)
        same = same and (answer[key] is None or np.allclose(answer[key], expected[key], rtol=1e-6, atol=0))
    if same:
        return "identical", ""
    return "changed", "" if forged else f"another detector though its digests are the old ones: {answer}"


def apart(work: Callable[[], Any]) -> Any:
    """The result of ``work`` in a fork of this process, which itself stays small that way."""
    answer, _ = in_worker(work, seconds=600)
    if isinstance(answer, str):
        raise RuntimeError(answer)
    return answer


def in_worker(work: Callable[[], Any], seconds: float = SECONDS, free: int = FREE) -> tuple[Any, float]:
    """The result of ``work`` in a fork of this process, or what went wrong, and the fork's peak memory in bytes."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        psutil.virtual_memory = lambda: SimpleNamespace(available=free)
        try:
            answer = work()
        except BaseException as error:  # noqa: BLE001  any of them is what this looks for
            answer = f"{type(error).__name__}: {error}"[:500]
        with os.fdopen(writing, "w") as pipe:
            json.dump(answer, pipe)
        os._exit(0)
    os.close(writing)
    text = b"".join(_read(reading, time.monotonic() + seconds))
    os.close(reading)
    done, status, usage = os.wait4(child, os.WNOHANG)
    if not done and not text:
        os.kill(child, signal.SIGKILL)
    if not done:
        _, status, usage = os.wait4(child, 0)
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    if not text:
        return f"no answer within {seconds} s, or a crash (status {status})", peak
    return json.loads(text), peak


def _read(pipe: int, deadline: float) -> Iterator[bytes]:
    while (left := deadline - time.monotonic()) > 0 and select.select([pipe], [], [], left)[0]:
        chunk = os.read(pipe, 1 << 16)
        if not chunk:
            return
        yield chunk


def table(found: Found) -> str:
    lines = ["| damage | digests | " + " | ".join(OUTCOMES) + " |", "|---|---|" + "---|" * len(OUTCOMES)]
    for damage in DAMAGE:
        for forged in (False, True):
            counts = [found.counts[damage, forged, outcome] for outcome in OUTCOMES]
            lines.append(f"| {damage} | {'recomputed' if forged else 'kept'} | {' | '.join(map(str, counts))} |")
    sums = [sum(n for (_, _, outcome), n in found.counts.items() if outcome == wanted) for wanted in OUTCOMES]
    return "\n".join([*lines, f"| all | | {' | '.join(map(str, sums))} |"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        found = fuzz(options.cases, options.seed, Path(work))
    print(table(found))
    print(found.ending("case"))
    return 1 if found.faults else 0


if __name__ == "__main__":
    sys.exit(main())
