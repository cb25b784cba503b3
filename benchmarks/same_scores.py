"""Runs recipes with two checkouts of adkit and compares the results: does a change of the code change any of them?

    python benchmarks/same_scores.py BEFORE AFTER --mvtec DIR --fashion DIR --output DIR [--recipes quickstart dn2 …]

BEFORE and AFTER are checkouts, each with its environment in ``.venv`` and with its own ``recipes/``. ``--mvtec`` is a
folder of categories in MVTec layout, ``--fashion`` holds the four idx files of Fashion-MNIST. Both compute in float32,
on the CPU, with one thread. Results that are in ``DIR/before`` or ``DIR/after`` are not computed again, so that an
interrupted comparison goes on.

``scores.csv`` must be the same byte for byte, except for the names of columns in ``COLUMNS``. Every tensor of every
detector must be equal in dtype, shape and value, under the names of ``TENSORS``; one of float64 may have been
two of float32. Every metric and threshold must be equal. The exit status is 1 where anything differs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

COLUMNS: Mapping[str, str] = {}
"""Name of a column of scores.csv before → after."""
TENSORS: Mapping[str, str] = {"pictures": "images"}
"""Part of a tensor's name before → after."""
COMPUTES = ("run.precision=float32", "run.device=cpu")


@dataclass(frozen=True)
class Case:
    """A recipe of ``recipes/``, with what is set in it so that it runs on the data at hand, in minutes."""

    recipe: str
    data: str
    """The data to run on: ``textures``, ``mvtec`` or ``fashion``."""
    overrides: tuple[str, ...] = ()
    only: str | None = None

    def sets(self, options: argparse.Namespace) -> list[str]:
        where = {
            "textures": ["data.format=textures", f"data.root={options.output / 'textures'}"],
            "mvtec": [f"data.root={options.mvtec}"],
            "fashion": ["data.format=arrays", f"data.root={options.fashion}", "data.normal=*"],
        }
        return [*where[self.data], *self.overrides, *COMPUTES]


CASES = (
    Case("quickstart", "textures"),
    Case("dn2", "mvtec"),
    Case("padim", "mvtec"),
    Case("gaussian", "mvtec"),
    Case("center", "mvtec"),
    Case("spade", "textures"),
    Case("gaussian-finetune", "textures", ("training.epochs=1",)),
    Case("panda", "fashion", only="6"),
    Case("panda-ses", "fashion", only="6"),
    Case("panda-ewc", "fashion", only="6"),
)


def main() -> None:
    os.environ.setdefault("ADKIT_CACHE_GB", "0")  # every run computes its own features
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--mvtec", type=Path, required=True)
    parser.add_argument("--fashion", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--recipes", nargs="+", metavar="NAME", help="run these alone")
    options = parser.parse_args()
    options.output = options.output.resolve()
    chosen = [case for case in CASES if options.recipes is None or case.recipe in options.recipes]
    differences = 0
    print(
        "| recipe | rows of scores.csv | tensors | renamed tensors | differences |\n|---|---|---|---|---|", flush=True
    )
    for case in chosen:
        before, after = (
            run(case, getattr(options, side).resolve(), options.output / side, options) for side in ("before", "after")
        )
        found, rows, tensors, renamed = compare(before, after)
        print(f"| {case.recipe} | {rows} | {tensors} | {renamed} | {'; '.join(found) or 'none'} |", flush=True)
        differences += len(found)
    sys.exit(differences > 0)


def run(case: Case, checkout: Path, output: Path, options: argparse.Namespace) -> Path:
    """The folder that ``adkit run`` of a checkout leaves, or left earlier."""
    folder = output / case.recipe
    if not (folder / "report.json").exists():
        output.mkdir(parents=True, exist_ok=True)
        command = [checkout / ".venv/bin/adkit", "run", checkout / f"recipes/{case.recipe}.toml", "--output", output]
        for value in case.sets(options):
            command += ["--set", value]
        if case.only is not None:
            command += ["--only", case.only]
        with (output / f"{case.recipe}.log").open("w") as log:
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            subprocess.run(command, env=environment, cwd=output, stdout=log, stderr=subprocess.STDOUT, check=True)
    return folder


def compare(before: Path, after: Path) -> tuple[list[str], int, int, int]:
    """What differs between two runs, and the numbers of rows of scores, of tensors, and of renamed tensors."""
    head, *rows = (before / "scores.csv").read_bytes().split(b"\n")
    columns = ",".join(COLUMNS.get(name, name) for name in head.decode().split(","))
    found = []
    if b"\n".join([columns.encode(), *rows]) != (after / "scores.csv").read_bytes():
        found.append("scores.csv")
    old, new = dict(tensors(before)), dict(tensors(after))
    stated = {renamed(name): name for name in old}
    found += [f"{name} is there on one side alone" for name in sorted(stated.keys() ^ new.keys())]
    for name in sorted(stated.keys() & new.keys()):
        one, other = old[stated[name]], new[name]
        if one.dtype == torch.float32 and other.dtype == torch.float64:
            other = halves(other)
        if one.dtype != other.dtype or not torch.equal(one, other):
            found.append(name)
    reports = [json.loads((folder / "report.json").read_text()) for folder in (before, after)]
    found += [
        f"metrics of {name}" for name in metrics(reports[0]) if metrics(reports[0])[name] != metrics(reports[1])[name]
    ]
    return found, len(rows) - 1, len(new), sum(name != stated[name] for name in stated)


def tensors(run: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of every file of every detector, with their names."""
    for path in sorted((run / "detector").rglob("*.safetensors")):
        for name, tensor in load_file(path).items():
            yield f"{path.relative_to(run / 'detector')}:{name}", tensor


def halves(values: torch.Tensor) -> torch.Tensor:
    """What float64 values were saved as before: the nearest float32, and what remains."""
    nearest = values.float()
    return torch.stack((nearest, (values - nearest).float()))


def renamed(name: str) -> str:
    file, _, tensor = name.partition(":")
    return f"{file}:" + ".".join(TENSORS.get(part, part) for part in tensor.split("."))


def metrics(report: Mapping[str, Any]) -> dict[str, Any]:
    """Category → its metrics and thresholds, whatever else the two reports' schemas hold."""
    return {
        name: (
            category["metrics"],
            *(value and value["value"] for value in (category["threshold"], category["pixel_threshold"])),
        )
        for name, category in report["categories"].items()
    }


if __name__ == "__main__":
    main()
