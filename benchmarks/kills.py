"""Kills runs with SIGKILL, resumes them, and compares what comes out with runs that nobody disturbed.

    python benchmarks/kills.py [--kills 200] [--seed 0]
    python benchmarks/kills.py --each-operation

The first command kills at random moments: half of them anywhere in a run, half in its second half. One kill in ten
hits a process that was started cold, imports included; the others hit one that was forked with its imports done. A
resumed run is killed again in two of five cases. The second command kills once before each file operation of a run, one
after the other. Both do so to five runs: of three categories; of three classes that share their features; with a
training for each of two categories; of snapshots trained on what the frozen blocks gave once for all classes; and with
a cached Fisher information. Half of the time there is an older run of the same name.

After each kill, every folder of a run's name must be a whole run. In the end every run must have resumed to the same
scores, metrics and detectors, byte for byte, and must have left nothing else behind.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import itertools
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

os.environ["OMP_NUM_THREADS"] = "1"  # a forked process must find no thread pool that it does not have

import numpy as np
import tomli_w
import torch
from PIL import Image

from adkit import Detector, Report, run
from adkit.cli.main import main as command
from adkit.runner.resume import Ledger
from adkit.toolkit.augment import Augmentation, vary
from adkit.toolkit.cache import VARIABLE
from adkit.utils.text import counted

NAME = "small"
COMMON = {
    "run": {"name": NAME, "device": "cpu", "precision": "float32"},
    "extractor": {"use": "timm", "backbone": "test_resnet", "weights": "none", "levels": ["layer1", "layer2"]},
    "scorer": {"use": "knn", "k": 1},
}
TRAINED = COMMON | {
    "adapter": {"use": "mahalanobis"},
    "training": {"learning_rate": 1e-3, "batch_size": 2, "epochs": 3},
    "stopper": {"use": "vicinal", "multiple": 4},
    "scorer": {"use": "gaussian", "fit": "initial"},
}
TAIL = {
    "extractor": COMMON["extractor"] | {"levels": ["pool"]},
    "training": {"batch_size": 4, "epochs": 3, "snapshot_epochs": 1, "clip_norm": 1.0},
    "scorer": {"use": "knn", "k": 1},
}
SES = COMMON | TAIL | {"adapter": {"use": "ses", "blocks": ["layer4"]}}
EWC = COMMON | TAIL | {"adapter": {"use": "ewc", "blocks": ["layer4"], "fisher_images": 6}}
OPERATIONS = {"open", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate", "os.link", "shutil.rmtree"}
"""The file operations that Python reports to audit hooks before it does them."""
WHOLE = "a whole run"
"""What is left by a kill after the last rename: nothing is unfinished then, and --resume starts another run."""
UNCHANGED = {"timings", "folder", "resumed", "peak_memory_bytes", "git"}
"""Keys of a report that may differ between two runs of one recipe."""
LASTED = {"seconds"}
"""Keys of a training that may differ between two runs of one recipe."""


@dataclass(frozen=True)
class Case:
    """A recipe, what it leaves when nobody disturbs it, and how long that takes."""

    recipe: Path
    undisturbed: Path
    seconds: float

    def arguments(self, output: Path) -> list[str]:
        return ["run", str(self.recipe), "--output", str(output)]


def image(random_: np.random.Generator, channel: int) -> Image.Image:
    pixels = random_.integers(0, 60, (24, 24, 3), dtype=np.uint8)
    pixels[..., channel] += 150
    return Image.fromarray(pixels)


def write_images(root: Path, names: list[str], splits: dict[str, int]) -> None:
    """Write as many images for each name as ``splits`` says: folder, where ``{}`` stands for the name → count."""
    random_ = np.random.default_rng(0)
    for channel, name in enumerate(names):
        for split, count in splits.items():
            folder = root / split.format(name)
            folder.mkdir(parents=True)
            for index in range(count):
                image(random_, channel).save(folder / f"{index}.png")


def write_recipes(folder: Path) -> list[Path]:
    names = ["red", "green", "blue"]
    splits = {"{}/train/good": 12, "{}/test/good": 4, "{}/test/bad": 4}
    write_images(folder / "categories", names, splits)
    write_images(folder / "classes", names, {"train/{}": 12, "test/{}": 4})
    (folder / "classes" / "train" / "green" / "3.png").write_bytes(b"")  # one that cannot be read
    categories = {"format": "mvtec", "root": str(folder / "categories")}
    classes = {"format": "classes", "root": str(folder / "classes"), "normal": "*"}
    recipes = {
        "categories": COMMON | {"data": categories},
        "classes": COMMON | {"data": classes},
        "training": TRAINED | {"data": categories | {"category": names[:2]}},
        "snapshots": SES | {"data": classes},
        "fisher": EWC | {"data": categories | {"category": names[:2]}},
    }
    paths = []
    for name, tables in recipes.items():
        tables["data"] |= {"image_size": 32, "batch_size": 4, "calibration": 0.25}
        paths.append(folder / f"{name}.toml")
        paths[-1].write_text(tomli_w.dumps(tables))
    return paths


def vary_once() -> None:
    """Import everything that changing images needs."""
    for name in get_args(Augmentation):
        vary(name, torch.zeros(1, 3, 32, 32), torch.Generator().manual_seed(0))


def fork(work: Callable[[], int], log: Path) -> int:
    """Run ``work`` in a process of its own, whose number is returned."""
    number = os.fork()
    if number:
        return number
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os._exit(work())
    finally:
        os._exit(70)


def start(arguments: list[str], log: Path, *, cold: bool = False) -> int:
    """Start ``adkit`` with these arguments, and return the number of its process."""
    if cold:
        out = (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        command_line = [sys.executable, "-m", "adkit", *arguments]
        return os.posix_spawn(sys.executable, command_line, os.environ, file_actions=[out, (os.POSIX_SPAWN_DUP2, 1, 2)])
    return fork(lambda: command(arguments), log)


def status(number: int) -> int:
    """Wait for a process, and return its exit status, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])


def kill_after(seconds: float, number: int) -> bool:
    """Kill a process after so many seconds, and return whether it was still at work."""
    time.sleep(seconds)
    os.kill(number, signal.SIGKILL)
    return status(number) == -signal.SIGKILL


def killing_at(operation: int, folder: Path, work: Callable[[], int]) -> Callable[[], int]:
    """A function like ``work`` that is killed before its ``operation``-th file operation in ``folder``."""

    def killed() -> int:
        seen = 0

        def hook(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal seen
            if event in OPERATIONS and any(str(argument).startswith(str(folder)) for argument in arguments[:2]):
                seen += 1
                if seen == operation:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        return work()

    return killed


def outcome(folder: Path) -> dict[str, object]:
    """Everything that must be the same in any two runs of one recipe."""
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    report = Report.load(folder / "report.json").model_dump(exclude=UNCHANGED)
    for category in report["categories"].values():
        category["trainings"] = [
            {key: value for key, value in training.items() if key not in LASTED} for training in category["trainings"]
        ]
    alike = {name for name in files if name not in ("report.json", "report.html", "log.txt")}
    return {
        "files": files,
        "report": report,
        "digests": {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in sorted(alike)},
    }


def check_whole(output: Path, case: Case) -> None:
    """Require that every folder of a run's name is a whole run."""
    expected = outcome(case.undisturbed)
    for folder in output.glob("[!.]*"):
        found = outcome(folder)
        for what, value in expected.items():
            assert found[what] == value, f"{folder}: {what} are {found[what]}, not {value}"


def runs_in(output: Path) -> list[str]:
    return sorted(path.name for path in output.glob("[!.]*"))


def check_end(output: Path, case: Case, runs: int) -> None:
    """Require that there are the run, whose detectors load, and ``runs - 1`` older ones, and nothing else."""
    check_whole(output, case)
    assert sorted(path.name for path in output.iterdir()) == runs_in(output)
    assert runs_in(output) == [NAME, *(f"{NAME}.{number}" for number in range(1, runs))]
    assert status(fork(lambda: load_detectors(output / NAME), output.with_suffix(".log"))) == 0


def load_detectors(folder: Path) -> int:
    for manifest in folder.rglob("manifest.json"):
        Detector.load(manifest.parent, "cpu")
    return 0


def prepare(output: Path, case: Case, older: bool) -> None:
    """Make a folder of runs, with or without an older run of the same name."""
    output.mkdir()
    if older:
        shutil.copytree(case.undisturbed, output / NAME)


def left(output: Path, runs: int) -> str:
    """What a kill left next to ``runs`` older runs, in a few words."""
    if len(runs_in(output)) > runs:
        return WHOLE
    kept = Ledger(output / f".{NAME}.partial").summary()
    if kept is None:
        return "nothing finished"
    return next(what for what in ("part of the training", "categories", "features") if what in kept)


def resume(output: Path, case: Case, log: Path) -> None:
    arguments = [*case.arguments(output), "--resume"]
    assert (found := status(start(arguments, log))) == 0, f"resuming ended with {found}: {log.read_text()}"


def random_kills(cases: list[Case], count: int, seed: int, imports: float, folder: Path) -> Counter[str]:
    chance = random.Random(seed)
    found: Counter[str] = Counter()
    trial = 0
    while found["kills"] < count:
        trial += 1
        case, runs, cold = cases[trial % len(cases)], chance.randrange(2), chance.random() < 0.1
        output, log = folder / f"trial-{trial}", folder / f"trial-{trial}.log"
        prepare(output, case, older=runs > 0)
        arguments, again = case.arguments(output), True
        while again and found["kills"] < count:
            seconds = chance.uniform(0 if chance.random() < 0.5 else case.seconds / 2, case.seconds)
            if cold:
                seconds += chance.uniform(0, imports)
            hit = kill_after(seconds, start(arguments, log, cold=cold))
            if hit:
                check_whole(output, case)
                found.update(["kills", "cold"] if cold else ["kills"])
                found[left(output, runs)] += 1
            runs = max(runs, len(runs_in(output)))
            arguments, again = [*case.arguments(output), "--resume"], hit and chance.random() < 0.4
        if hit:
            resume(output, case, log)
            runs += 1
            found["resumed"] += 1
        check_end(output, case, runs)
        shutil.rmtree(output)
    return found


def kills_at_each_operation(cases: list[Case], folder: Path) -> Counter[str]:
    found: Counter[str] = Counter()
    for case in cases:
        for older in (False, True):
            for operation in itertools.count(1):
                output, log = folder / f"operation-{operation}", folder / f"operation-{operation}.log"
                prepare(output, case, older)
                work = functools.partial(command, case.arguments(output))
                if status(fork(killing_at(operation, output, work), log)) == 0:  # there were fewer
                    shutil.rmtree(output)
                    break
                check_whole(output, case)
                found.update(["kills", left(output, older)])
                runs = max(older, len(runs_in(output)))
                resume(output, case, log)
                found["resumed"] += 1
                check_end(output, case, runs + 1)
                shutil.rmtree(output)
    return found


def main() -> None:
    os.environ.setdefault("ADKIT_CACHE_GB", "0")  # every run computes its own features
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--each-operation", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kills-") as name:
        folder = Path(name)
        os.environ[VARIABLE] = str(folder / "cache")
        started = time.perf_counter()
        assert status(start(["plugins"], folder / "imports.log", cold=True)) == 0
        imports = time.perf_counter() - started
        recipes = write_recipes(folder)
        # What runs need is imported before any is forked. Nothing is trained here: a fork must find no autograd thread.
        run(recipes[0], output=folder / "warm")
        vary_once()
        cases = []
        for recipe in recipes:
            output, log = folder / f"undisturbed-{recipe.stem}", folder / f"{recipe.stem}.log"
            started = time.perf_counter()
            assert status(start(["run", str(recipe), "--output", str(output)], log)) == 0, log.read_text()
            cases.append(Case(recipe, output / NAME, time.perf_counter() - started))
        times = " and ".join(f"{case.seconds:.2f} s" for case in cases)
        print(f"undisturbed: {times}, imports of a cold start: {imports:.1f} s", flush=True)
        if options.each_operation:
            found = kills_at_each_operation(cases, folder)
        else:
            found = random_kills(cases, options.kills, options.seed, imports, folder)
    kills, cold, resumed = found.pop("kills"), found.pop("cold", 0), found.pop("resumed")
    print(f"{counted(kills, 'kill')} ({cold:,} of cold starts), {counted(resumed, 'run')} resumed")
    print("a kill left " + ", ".join(f"{what}: {count}" for what, count in sorted(found.items())))


if __name__ == "__main__":
    main()
