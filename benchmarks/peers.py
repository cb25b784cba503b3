"""Compares whole methods with anomalib's, side by side in one run: PaDiM, and PatchCore with a coreset of 1%.

    python benchmarks/peers.py --root data/mtd [--category tile] [--environment FOLDER] [--output peers.json]
    python benchmarks/peers.py --root data/mtd --only padim-users --train 40 --test 6       # to see that it works

Both use the CPU, the same weights, levels, channels, image size and normalization, which is checked by the features of
one image. adkit keeps no features between runs. anomalib is installed into an environment of its own (some 6 GB), with
adkit's versions of torch and timm; an environment that exists is used again, and without --environment it is removed
afterwards. Nothing else should run. Two protocols:

- "as users run it" (padim-users, patchcore-users): the seconds of the whole process, imports included, and all that
  each does by itself. adkit: ``adkit run`` of the recipe, with threshold, drawn defects, metrics with intervals, and
  page. anomalib: Engine().fit and .test of a Folder, as its documentation shows them, with its defaults, of which
  some are: 8 processes decode; four metrics; a picture of each tested image is written. All test images validate and
  are tested, as its data module for MVTec AD has it.
- "the method alone" (padim-alone, patchcore-alone): fit is listing the images, fitting, and saving what was fitted; not
  imports, nor building the network. test is scores and maps of every test image. adkit's time includes its metrics;
  anomalib, whose raw scores and maps are kept, is spared validation, normalization, thresholds, visualization and its
  own metrics, and decodes in as many processes as there are cores. Both have batches of 32.

PatchCore is fitted on the first ``--images`` training images (patchcore-users, patchcore-alone), and on all of them
(patchcore-all), where anomalib is ended after ``--peer-limit`` seconds. It has ``data.calibration = 0``, so that both
banks are of the same images. Both choose 1% of the locations by the greedy rule; anomalib measures distances for that
in a random projection, adkit exactly.

- peak memory: the most that a process and those that it started held together, imports included.
- image AUROC, AUPRO: of the method alone, adkit's exact metrics for both, over masks as each of the two resizes them.
  As users run it, what each tool says.
- bf16, f32: what adkit computed in. The bounds are of ``precision = "auto"``, as it runs by itself.

The exit status is 1 if a bound does not hold.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from measured import begun, concluded, origin, table, verdict, watched, write

# adkit, anomalib and torch are imported where they are used: no environment has all of them, and a process begins with
# the peak memory of the one that starts it.

ANOMALIB = "2.7.0"
RECIPES = Path(__file__).parents[1] / "recipes"
TOLERANCE = 1e-4
"""The largest deviation of one image's features by rounding, as a share of their level's largest value."""
SHARED = "shared.pth"
"""The file of weights, settings, and the features of one image, as adkit has them."""
FAIR = ["data.calibration=0"]
"""Every normal image is fitted on, as anomalib does."""
SHOWN = {"image_auroc": "image AUROC", "pixel_aupro": "AUPRO"}
LOST = 0.003
"""How much a metric may be below anomalib's."""


@dataclass(frozen=True)
class Comparison:
    recipe: str
    alone: bool
    """The method alone, or the whole process as users run it."""
    part: str
    """What of the training images is used: ``whole``, or ``first`` ones."""
    faster: float | None
    """Wanted: how many times as fast as anomalib adkit is."""
    smaller: float | None = None
    """Wanted: the most memory, as a share of anomalib's."""
    settings: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        images = {"whole": "", "first": ", first images"}[self.part]
        return f"{self.recipe}{images}, {'the method alone' if self.alone else 'as users run it'}"


COMPARISONS = {
    "padim-users": Comparison("padim", False, "whole", 20, 0.5),
    "padim-alone": Comparison("padim", True, "whole", 8, 0.5),
    "patchcore-users": Comparison("patchcore", False, "first", 20, None, tuple(FAIR)),
    "patchcore-alone": Comparison("patchcore", True, "first", None),
    "patchcore-all": Comparison("patchcore", False, "whole", None, None, tuple(FAIR)),
}


# What the processes do. Those of anomalib run in its environment.


def recipe_file(options: argparse.Namespace) -> Path:
    return RECIPES / f"{options.recipe}.toml"


def data_settings(options: argparse.Namespace) -> list[str]:
    return ["data.format=mvtec", f"data.root={options.root}", f"data.category={options.category}", "run.device=cpu"]


def share(options: argparse.Namespace) -> dict[str, object]:
    """Save what anomalib is to use, and adkit's features of one image."""
    import torch

    from adkit.data.dataset import open_dataset
    from adkit.data.loader import BadImages
    from adkit.inference.assemble import assemble
    from adkit.recipe.reader import read_recipe
    from adkit.toolkit.backbones import create_backbone

    recipe = read_recipe(recipe_file(options), [*data_settings(options), *FAIR, "run.precision=float32"])
    parts = assemble(recipe)
    chosen, embedding = recipe.extractors[0].params, parts.embeddings[0]
    first = open_dataset(recipe.data, 0).categories[0].train[:1]
    image = next(iter(parts.loader(first, BadImages(0), 1, False))).images
    with torch.inference_mode():
        features = embedding.extractor(image)
    shared = {
        "backbone": chosen.backbone,
        "weights": create_backbone(chosen.backbone, chosen.weights, 0).state_dict(),
        "levels": list(chosen.levels),
        "mean": embedding.extractor.mean.flatten().tolist(),
        "std": embedding.extractor.std.flatten().tolist(),
        "size": parts.view.size,
        "batch_size": recipe.data.batch_size,
        "image": image,
        "features": {name: level.permute(0, 3, 1, 2).contiguous() for name, level in features.items()},
    }
    if options.recipe == "padim":
        shared["channels"] = torch.tensor(embedding.transform.kept["concat"])
    else:
        params = recipe.scorer.params
        shared |= {"coreset": params.coreset, "neighbors": params.reweight}
    torch.save(shared, options.work / SHARED)
    return {}


def run_adkit(options: argparse.Namespace, precision: str) -> dict[str, object]:
    """Carry out the whole recipe, as `adkit run` does."""
    from adkit.runner.run import run

    settings = [*data_settings(options), *FAIR, f"run.precision={precision}"]
    report = run(recipe_file(options), settings, output=options.work / precision)
    spent = report.timings
    return {
        "name": named(report.precision),
        "fit": sum(spent.get(stage, 0.0) for stage in ("data", "fit", "calibrate", "save")),
        "test": sum(spent[stage] for stage in ("evaluate", "metrics")),
        "metrics": {name: report.mean[name] for name in SHOWN},
    }


def named(precision: str) -> str:
    return f"adkit, {'bf16' if precision == 'bfloat16' else 'f32'}"


def import_anomalib(options: argparse.Namespace) -> dict[str, object]:
    """Read from the disk what anomalib imports, so that no measured process waits for it."""
    import anomalib.data
    import anomalib.engine
    import anomalib.models  # noqa: F401

    return {}


def run_anomalib(options: argparse.Namespace) -> dict[str, object]:
    """Run a method through anomalib's own Engine, and save raw scores and maps."""
    import numpy as np
    import torch
    from anomalib.data import Folder
    from anomalib.engine import Engine
    from lightning.pytorch.callbacks import LambdaCallback

    shared = torch.load(options.work / SHARED, weights_only=True)
    model = anomalib_model(options.recipe, shared, post_processor=False, evaluator=False, visualizer=False)
    difference, share = compare_features(model, shared)
    size = shared["batch_size"]
    loading = {"train_batch_size": size, "eval_batch_size": size, "num_workers": os.cpu_count()}
    data = Folder(**folders(options.root / options.category), **loading, val_split_mode="none")
    kept: list[tuple[torch.Tensor, ...]] = []

    def keep(trainer, model, outputs, batch, *_: object) -> None:
        kept.append((batch.pred_score, batch.gt_label, batch.anomaly_map, batch.gt_mask))

    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    engine = Engine(
        callbacks=[LambdaCallback(on_test_batch_end=keep)],
        default_root_dir=options.work / "anomalib-runs",
        accelerator="cpu",
        limit_val_batches=0,
        **quiet,
    )
    fit = seconds(lambda: engine.fit(model=model, datamodule=data))
    test = seconds(lambda: engine.test(model=model, datamodule=data))
    scores, labels, maps, masks = (torch.cat(one).numpy() for one in zip(*kept, strict=True))
    np.savez(options.work / "anomalib.npz", scores=scores, labels=labels, maps=maps, masks=masks)
    return {"fit": fit, "test": test, "difference": difference, "share": share}


def use_anomalib(options: argparse.Namespace) -> dict[str, object]:
    """Fit and test as anomalib's documentation shows it, but for the weights, which are loaded."""
    import torch
    from anomalib.data import Folder
    from anomalib.engine import Engine

    model = anomalib_model(options.recipe, torch.load(options.work / SHARED, weights_only=True))
    # As the data module for MVTec AD has it, which reads PNG alone: so both tools test the same images.
    data = Folder(**folders(options.root / options.category), val_split_mode="same_as_test")
    engine = Engine()
    engine.fit(model=model, datamodule=data)
    (found,) = engine.test(model=model, datamodule=data)
    tested = len(data.test_data)
    return {"metrics": {name: float(value) for name, value in found.items()}, "tested": tested}


def anomalib_model(recipe: str, shared: Mapping[str, Any], **parts: bool) -> Any:
    """anomalib's model of what adkit's recipe asks for; ``parts``: which of its other parts it does without."""
    from anomalib.models import Padim, Patchcore
    from anomalib.pre_processing import PreProcessor
    from torchvision.transforms.v2 import Compose, Normalize, Resize

    steps = [Resize(shared["size"], antialias=True), Normalize(shared["mean"], shared["std"])]
    same = {"backbone": shared["backbone"], "layers": shared["levels"], "pre_trained": False}
    same |= {"pre_processor": PreProcessor(Compose(steps)), **parts}
    if recipe == "padim":
        model = Padim(**same, n_features=len(shared["channels"]))
        model.model.idx.copy_(shared["channels"])
    else:
        model = Patchcore(**same, coreset_sampling_ratio=shared["coreset"], num_neighbors=shared["neighbors"])
    network = model.model.feature_extractor.feature_extractor
    missing, _ = network.load_state_dict(shared["weights"], strict=False)  # it stops before the head
    if missing:
        raise SystemExit(f"weights: expected all that anomalib's network has, missing {', '.join(missing)}")
    return model


def compare_features(model: Any, shared: Mapping[str, Any]) -> tuple[float, float]:
    """The largest difference between both features of one image, by itself and as a share of the level's largest."""
    import torch

    with torch.inference_mode():
        features = model.model.feature_extractor(model.pre_processor(shared["image"]))
    differences, shares = [], []
    for name, own in shared["features"].items():
        differences.append(float((features[name] - own).abs().max()))
        shares.append(differences[-1] / float(own.abs().max()))
    if max(shares) > TOLERANCE:
        raise SystemExit(f"features: expected adkit's to {TOLERANCE:g} of their level's largest, found {max(shares):g}")
    return max(differences), max(shares)


def folders(root: Path) -> dict[str, object]:
    """The arguments with which anomalib's Folder reads a category in MVTec layout; its MVTecAD reads only PNG."""
    kinds = sorted(path.name for path in (root / "test").iterdir() if path.name != "good")
    return {
        "name": "mvtec",
        "root": root,
        "normal_dir": "train/good",
        "normal_test_dir": "test/good",
        "abnormal_dir": [f"test/{kind}" for kind in kinds],
        "mask_dir": [f"ground_truth/{kind}" for kind in kinds],
    }


def judge_anomalib(options: argparse.Namespace) -> dict[str, object]:
    """adkit's metrics of the scores and maps that were saved."""
    import numpy as np

    from adkit.metrics import PixelMetrics, image_metrics

    kept = np.load(options.work / "anomalib.npz")
    pixel = PixelMetrics()
    pixel.add(kept["maps"], kept["masks"].astype(bool))
    found = image_metrics(kept["scores"].ravel(), kept["labels"].astype(int)) | pixel.compute()
    return {"metrics": {name: found[name] for name in SHOWN}}


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


PARTS: dict[str, Callable[[argparse.Namespace], dict[str, object]]] = {
    "share": share,
    "adkit-float32": lambda options: run_adkit(options, "float32"),
    "adkit-auto": lambda options: run_adkit(options, "auto"),
    "import-anomalib": import_anomalib,
    "anomalib-alone": run_anomalib,
    "anomalib-users": use_anomalib,
    "judge-anomalib": judge_anomalib,
}

# What starts them.


def anomalib_python(folder: Path) -> Path:
    """The interpreter of an environment with anomalib and adkit's torch, which is made if it does not exist yet."""
    python = folder / "bin" / "python"
    same = ("torch", "torchvision", "timm")
    wanted = {"anomalib": ANOMALIB} | {name: version(name).partition("+")[0] for name in same}
    ask = f"from importlib.metadata import version; print(*(version(n).partition('+')[0] for n in {list(wanted)}))"
    if python.exists():
        found = subprocess.run([python, "-c", ask], capture_output=True, text=True)
        if found.stdout.split() == list(wanted.values()):
            return python
    print(f"installing anomalib {ANOMALIB} into {folder}: some 6 GB", file=sys.stderr)
    pins = [f"{name}=={number}" for name, number in wanted.items()]
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", *pins], check=True)
    return python


class Side:
    """The processes of one comparison, on one choice of images."""

    def __init__(self, chosen: Comparison, root: Path, work: Path, options: argparse.Namespace) -> None:
        self.chosen, self.root, self.work, self.options = chosen, root, work, options
        self.env = {"HF_HUB_OFFLINE": "1", "ADKIT_CACHE_GB": "0", "CUDA_VISIBLE_DEVICES": ""}

    def part(self, python: str | Path, part: str, limit: float = 0) -> dict[str, Any]:
        """Carry out one part of this script; what it found, with what the process took."""
        command = [python, __file__, "--root", self.root, "--category", self.options.category]
        command += ["--recipe", self.chosen.recipe, "--part", part, "--work", self.work]
        print(f"  {self.chosen.title}: {part}", file=sys.stderr, flush=True)
        spent = watched(command, env=self.env, cwd=self.work, limit=limit)
        found = {} if spent.ended else json.loads((self.work / f"{part}.json").read_text(encoding="utf-8"))
        return found | asdict(spent)

    def users(self, python: Path, limit: float) -> list[dict[str, Any]]:
        command = [sys.executable, "-m", "adkit", "run", recipe_file_of(self.chosen.recipe), "--output", self.work]
        own = argparse.Namespace(root=self.root, category=self.options.category)
        for one in (*data_settings(own), *self.chosen.settings, "run.name=users"):
            command += ["--set", one]
        print(f"  {self.chosen.title}: adkit run", file=sys.stderr, flush=True)
        spent = watched(command, env=self.env, cwd=self.work)
        report = json.loads((self.work / "users" / "report.json").read_text(encoding="utf-8"))
        metrics = {name: report["mean"][name] for name in SHOWN}
        rows = [{"name": named(report["precision"]), "metrics": metrics, "stages": report["timings"], **asdict(spent)}]
        peer = self.part(python, "anomalib-users", limit)
        metrics = peer.pop("metrics", {})
        shown = {"image_auroc": metrics.get("image_AUROC"), "pixel_aupro": None}
        return [*rows, {"name": f"anomalib {ANOMALIB}", "metrics": shown, "own_metrics": metrics, **peer}]

    def alone(self, python: Path, limit: float) -> list[dict[str, Any]]:
        rows = [self.part(sys.executable, f"adkit-{precision}") for precision in ("auto", "float32")]
        peer = self.part(python, "anomalib-alone", limit)
        if not peer["ended"]:
            peer |= {"metrics": self.part(sys.executable, "judge-anomalib")["metrics"]}
        return [*rows, {"name": f"anomalib {ANOMALIB}, f32", **peer}]


def recipe_file_of(recipe: str) -> Path:
    return recipe_file(argparse.Namespace(recipe=recipe))


def time_of(row: Mapping[str, Any], alone: bool) -> float:
    return row["fit"] + row["test"] if alone and "fit" in row else row["seconds"]


def compare(name: str, python: Path, whole: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Both sides of one comparison, and the bounds."""
    chosen = COMPARISONS[name]
    root = whole
    work = options.work / name
    work.mkdir()
    if chosen.part == "first":
        root = linked(whole, options.category, work / "images", options.images, None)
    side = Side(chosen, root, work, options)
    side.part(sys.executable, "share")
    limit = options.peer_limit
    rows = side.alone(python, limit) if chosen.alone else side.users(python, limit)
    own, peer = rows[0], rows[-1]
    for row in rows[:-1]:
        row["faster"] = time_of(peer, chosen.alone) / time_of(row, chosen.alone)
        row["memory_share"] = row["memory"] / peer["memory"]
    bounds = []
    if chosen.faster and (not peer["ended"] or own["faster"] >= chosen.faster):  # ended sooner, it says nothing
        more = "more than so many " if peer["ended"] else ""
        bounds.append(verdict(f"{name}: {more}times as fast as anomalib", own["faster"], "≥", chosen.faster))
    if chosen.smaller and not peer["ended"]:
        bounds.append(verdict(f"{name}: peak memory by anomalib's", own["memory_share"], "≤", chosen.smaller))
    if chosen.recipe == "padim" and chosen.alone and not peer["ended"]:
        for metric, words in SHOWN.items():
            less = peer["metrics"][metric] - own["metrics"][metric]
            bounds.append(verdict(f"{name}: {words} below anomalib's", less, "≤", LOST))
    images = {split: count(root / options.category / split) for split in ("train", "test")}
    return {"comparison": name, "title": chosen.title, "images": images, "rows": rows, "bounds": bounds}


def count(folder: Path) -> int:
    return sum(path.is_file() for path in folder.rglob("*"))


def linked(root: Path, category: str, place: Path, train: int | None, test: int | None) -> Path:
    """A folder in MVTec layout of links to the first images: ``train`` to train, ``test`` of each kind to test."""
    of, to = root / category, place / category

    def link(folder: Path, most: int | None) -> list[str]:
        target = to / folder.relative_to(of)
        target.mkdir(parents=True)
        chosen = sorted(path for path in folder.iterdir() if path.is_file())[:most]
        for path in chosen:
            (target / path.name).symlink_to(path.resolve())
        return [path.stem for path in chosen]

    link(of / "train" / "good", train)
    for kind in sorted(path for path in (of / "test").iterdir() if path.is_dir()):
        stems = link(kind, test)
        masks = of / "ground_truth" / kind.name
        if masks.is_dir():
            target = to / "ground_truth" / kind.name
            target.mkdir(parents=True)
            for mask in sorted(masks.iterdir()):
                if any(mask.stem in (stem, f"{stem}_mask") for stem in stems):
                    (target / mask.name).symlink_to(mask.resolve())
    return place


def show(found: Mapping[str, Any]) -> None:
    images = found["images"]
    print(f"\n{found['title']}: {images['train']} images to train, {images['test']} to test\n")
    rows, peer = [], found["rows"][-1]
    for row in found["rows"]:
        more = "> " if row["ended"] else ""
        metrics = row.get("metrics", {})
        rows.append(
            [
                row["name"],
                f"{row['fit']:.1f}" if "fit" in row else "",
                f"{row['test']:.1f}" if "test" in row else "",
                f"{more}{row['seconds']:.1f}",
                f"{row['cpu_seconds']:.0f}",
                f"{row['memory'] / 1e9:.2f}",
                *(f"{metrics[name]:.3f}" if metrics.get(name) is not None else "" for name in SHOWN),
                f"{'> ' if peer['ended'] else ''}{row['faster']:.1f}" if "faster" in row else "",
            ]
        )
    columns = ["", "fit, s", "test, s", "whole process, s", "CPU s", "peak memory, GB"]
    print(table([*columns, *SHOWN.values(), "times as fast"], rows), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="a folder in MVTec layout")
    parser.add_argument("--category", default="tile")
    parser.add_argument("--environment", type=Path, help="folder of the one with anomalib; default: a temporary one")
    parser.add_argument("--only", nargs="+", choices=COMPARISONS, default=list(COMPARISONS))
    parser.add_argument("--skip-all", action="store_true", help="leave out patchcore-all, the longest")
    parser.add_argument("--images", type=int, default=200, help="training images of patchcore-users and -alone")
    parser.add_argument("--peer-limit", type=float, default=3600, help="seconds after which anomalib is ended")
    parser.add_argument("--train", type=int, help="use the first training images alone, for a trial")
    parser.add_argument("--test", type=int, help="use the first test images of each kind alone, for a trial")
    parser.add_argument("--output", type=Path, help="a JSON file of the figures")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--recipe", help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.root = options.root.resolve()
    if options.part:
        found = PARTS[options.part](options)
        (options.work / f"{options.part}.json").write_text(json.dumps(found), encoding="utf-8")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        options.work = Path(folder)
        return measure(options)


def measure(options: argparse.Namespace) -> int:
    start = begun()
    python = anomalib_python((options.environment or options.work / "environment").resolve())
    root = options.root
    if options.train or options.test:
        root = linked(root, options.category, options.work / "images", options.train, options.test)
    for file in (root / options.category).rglob("*.*"):
        if file.is_file():
            file.read_bytes()  # so that whoever comes first does not wait for the disk
    names = [name for name in options.only if not (options.skip_all and name == "patchcore-all")]
    Side(COMPARISONS[names[0]], root, options.work, options).part(python, "import-anomalib")
    compared: list[dict[str, Any]] = []
    figures = {**origin(start), "anomalib": ANOMALIB, "compared": compared, "bounds": []}
    for name in names:
        compared.append(compare(name, python, root, options))
        show(compared[-1])
        for row in compared[-1]["rows"]:
            if "share" in row:
                print(f"\nfeatures of one image differ by {row['share']:.1e} of their level's largest, at most")
        figures["bounds"] += compared[-1].pop("bounds")
        write(figures, options.output)  # what was measured stays, whatever happens to the next
    print()
    return concluded(figures, options.output)


if __name__ == "__main__":
    sys.exit(main())
