"""Compares adkit's PaDiM with anomalib's: seconds to fit and to test, peak memory, image AUROC and AUPRO.

    python benchmarks/padim.py --root data/mtd [--category tile] [--environment FOLDER]

Both run on the CPU with the same weights, levels, channels, image size, normalization and batch size, each in a
process of its own. anomalib is installed into an environment of its own (some 6 GB), with adkit's versions of torch and
timm; an environment that exists is used again, and without --environment it is removed afterwards. Seconds are those of
the clock, so nothing else should run. What is measured:

- fit: listing the images, fitting, and saving what was fitted; not imports, nor building the network.
- test: scores and maps of every test image. adkit's time includes its metrics; anomalib, whose raw scores and maps are
  kept, is spared validation, normalization, thresholds, visualization and its own metrics.
- peak memory: the most that the process ever held, with imports but without anomalib's decoding processes.
- image AUROC, AUPRO: adkit's exact metrics for both, over masks as each of the two resizes them.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

# adkit, anomalib and torch are imported where they are used: no environment has all of them, and a process begins with
# the peak memory of the one that starts it.

ANOMALIB = "2.7.0"
RECIPE = Path(__file__).parents[1] / "recipes" / "padim.toml"
TOLERANCE = 1e-4
"""The largest deviation of one image's features by rounding, as a share of their level's largest value."""
SHARED = "shared.pth"
"""The file of weights, settings, and the features of one image, as adkit has them."""


def recipe_settings(options: argparse.Namespace, precision: str) -> list[str]:
    data = [f"data.root={options.root}", f"data.category={options.category}", "data.calibration=0"]
    return [*data, "run.device=cpu", f"run.precision={precision}"]


def share(options: argparse.Namespace) -> dict[str, object]:
    """Save what anomalib is to use, and adkit's features of one image."""
    import torch

    from adkit.data.dataset import open_dataset
    from adkit.data.loader import BadImages
    from adkit.inference.assemble import assemble
    from adkit.recipe.reader import read_recipe
    from adkit.toolkit.backbones import create_backbone

    recipe = read_recipe(RECIPE, recipe_settings(options, "float32"))
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
        "channels": torch.tensor(embedding.transform.kept["concat"]),
        "mean": embedding.extractor.mean.flatten().tolist(),
        "std": embedding.extractor.std.flatten().tolist(),
        "size": parts.view.size,
        "batch_size": recipe.data.batch_size,
        "image": image,
        "features": {name: level.permute(0, 3, 1, 2).contiguous() for name, level in features.items()},
    }
    torch.save(shared, options.work / SHARED)
    return {}


def run_adkit(options: argparse.Namespace, precision: str) -> dict[str, object]:
    """Carry out the whole recipe, as `adkit run` does."""
    from adkit.runner.run import run

    report = run(RECIPE, recipe_settings(options, precision), output=options.work / precision)
    spent = report.timings
    return {
        "name": f"adkit, {report.precision}",
        "fit": sum(spent.get(stage, 0.0) for stage in ("data", "fit", "calibrate", "save")),
        "test": sum(spent[stage] for stage in ("evaluate", "metrics")),
        "memory": peak_memory(),
        "image_auroc": report.mean["image_auroc"],
        "pixel_aupro": report.mean["pixel_aupro"],
    }


def run_anomalib(options: argparse.Namespace) -> dict[str, object]:
    """Run PaDiM through anomalib's own Engine, and save raw scores and maps."""
    import numpy as np
    import torch
    from anomalib.data import Folder
    from anomalib.engine import Engine
    from lightning.pytorch.callbacks import LambdaCallback

    shared = torch.load(options.work / SHARED, weights_only=True)
    model = anomalib_padim(shared)
    difference, share = compare_features(model, shared)
    data = Folder(**folders(options.root / options.category, options.workers, shared["batch_size"]))
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
    memory = peak_memory()
    scores, labels, maps, masks = (torch.cat(one).numpy() for one in zip(*kept, strict=True))
    np.savez(options.work / "anomalib.npz", scores=scores, labels=labels, maps=maps, masks=masks)
    name = f"anomalib {ANOMALIB}, float32"
    return {"name": name, "fit": fit, "test": test, "memory": memory, "difference": difference, "share": share}


def anomalib_padim(shared: Mapping[str, Any]) -> Any:
    """anomalib's Padim, set up to compute what adkit's recipe asks for, and no more."""
    from anomalib.models import Padim
    from anomalib.pre_processing import PreProcessor
    from torchvision.transforms.v2 import Compose, Normalize, Resize

    steps = [Resize(shared["size"], antialias=True), Normalize(shared["mean"], shared["std"])]
    model = Padim(
        backbone=shared["backbone"],
        layers=shared["levels"],
        pre_trained=False,
        n_features=len(shared["channels"]),
        pre_processor=PreProcessor(Compose(steps)),
        post_processor=False,
        evaluator=False,
        visualizer=False,
    )
    network = model.model.feature_extractor.feature_extractor
    missing, _ = network.load_state_dict(shared["weights"], strict=False)  # it stops before the head
    if missing:
        raise SystemExit(f"weights: expected all that anomalib's network has, missing {', '.join(missing)}")
    model.model.idx.copy_(shared["channels"])
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


def folders(root: Path, workers: int, batch_size: int) -> dict[str, object]:
    """The arguments with which anomalib's Folder reads a category in MVTec layout; its MVTecAD reads only PNG."""
    kinds = sorted(path.name for path in (root / "test").iterdir() if path.name != "good")
    return {
        "name": "mvtec",
        "root": root,
        "normal_dir": "train/good",
        "normal_test_dir": "test/good",
        "abnormal_dir": [f"test/{kind}" for kind in kinds],
        "mask_dir": [f"ground_truth/{kind}" for kind in kinds],
        "train_batch_size": batch_size,
        "eval_batch_size": batch_size,
        "num_workers": workers,
        "val_split_mode": "none",
    }


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def peak_memory() -> int:
    """Peak memory in bytes, as in adkit.utils.environment, which anomalib's environment lacks."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


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


def in_process(python: str | Path, part: str, options: argparse.Namespace) -> dict[str, Any]:
    """Carry out one part of this script in a process of its own."""
    command = [python, __file__, "--root", options.root, "--category", options.category]
    command += ["--workers", str(options.workers), "--part", part, "--work", options.work]
    done = subprocess.run(command, env=os.environ | {"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{part} failed:\n{done.stderr}")
    return json.loads((options.work / f"{part}.json").read_text())


def figures(file: Path) -> dict[str, float | None]:
    """adkit's metrics of scores and maps that were saved."""
    import numpy as np

    from adkit.metrics import PixelMetrics, image_metrics

    kept = np.load(file)
    pixel = PixelMetrics()
    pixel.add(kept["maps"], kept["masks"].astype(bool))
    return image_metrics(kept["scores"].ravel(), kept["labels"].astype(int)) | pixel.compute()


def compare(options: argparse.Namespace) -> None:
    python = anomalib_python(options.environment or options.work / "environment")
    for file in (options.root / options.category).rglob("*.*"):
        file.read_bytes()  # so that whoever comes first does not wait for the disk
    in_process(sys.executable, "share", options)
    rows = [in_process(sys.executable, f"adkit-{precision}", options) for precision in ("float32", "auto")]
    peer = in_process(python, "anomalib", options)
    rows.append(peer | figures(options.work / "anomalib.npz"))
    print(
        f"features of one image: anomalib's differ from adkit's by {peer['difference']:.1e} at most, "
        f"{peer['share']:.1e} of their level's largest"
    )
    print(f"{'':32}{'fit':>9}{'test':>9}{'peak memory':>14}{'image AUROC':>14}{'AUPRO':>8}")
    for row in rows:
        print(
            f"{row['name']:<32}{row['fit']:>7.1f} s{row['test']:>7.1f} s{row['memory'] / 1e9:>11.2f} GB"
            f"{row['image_auroc']:>14.3f}{row['pixel_aupro']:>8.3f}"
        )
    for row in rows[:-1]:
        fit, test, memory = (row[name] / peer[name] for name in ("fit", "test", "memory"))
        print(f"{row['name'] + ' / anomalib':<32}{fit:>9.2f}{test:>9.2f}{memory:>14.2f}")


PARTS: dict[str, Callable[[argparse.Namespace], dict[str, object]]] = {
    "share": share,
    "adkit-float32": lambda options: run_adkit(options, "float32"),
    "adkit-auto": lambda options: run_adkit(options, "auto"),
    "anomalib": run_anomalib,
}


def main() -> None:
    os.environ.setdefault("ADKIT_CACHE_GB", "0")  # every run computes its own features
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="a folder in MVTec layout")
    parser.add_argument("--category", default="tile")
    parser.add_argument(
        "--environment", type=Path, help="folder of the environment with anomalib; default: a temporary one"
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes in which anomalib decodes")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.root = options.root.resolve()
    if options.part:
        (options.work / f"{options.part}.json").write_text(json.dumps(PARTS[options.part](options)))
        return
    with tempfile.TemporaryDirectory() as folder:
        options.work = Path(folder)
        compare(options)


if __name__ == "__main__":
    main()
