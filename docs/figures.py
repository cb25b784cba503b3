"""Draw the images of the documentation.

python docs/figures.py                                     all that takes a minute
python docs/figures.py heatmaps                            one of them
python docs/figures.py --trainings runs/*/report.json      the course of the first training of each of these runs
python docs/figures.py --distances runs/*/report.json      the distances along the first training of each category
python docs/figures.py --page runs/quickstart/report.html  screenshots of the page of the quickstart
python docs/figures.py --comparison comparison.html        a screenshot of the page of a comparison

Trainings and distances need matplotlib: pip install "adkit-ignite[docs]". Screenshots need what docs/pages.py says.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from adkit import Detector, run
from adkit.cli.check import check
from adkit.data.dataset import open_dataset
from adkit.data.formats.textures import draw_image, photographs, plans
from adkit.data.loader import BadImages, Loader
from adkit.data.samples import Category, Sample
from adkit.data.view import View, to_planes
from adkit.inference.assemble import Assembled, assemble
from adkit.inference.pipeline import Member, Pipeline
from adkit.inference.sources import ImageSource
from adkit.predict.heatmaps import overlay
from adkit.recipe.reader import read_recipe
from adkit.report.report import CategoryReport, Report, TrainingReport
from adkit.toolkit.augment import Augmentation, vary

ROOT = Path(__file__).parents[1]
GAP, HEAD = 6, 22


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(FIGURES)} (default: all)")
    parser.add_argument("--trainings", nargs="+", type=Path, metavar="REPORT", help="draw losses and figures of these")
    parser.add_argument("--distances", nargs="+", type=Path, metavar="REPORT", help="draw distances of these")
    parser.add_argument("--page", type=Path, metavar="HTML", help="take screenshots of this page")
    parser.add_argument("--comparison", type=Path, metavar="HTML", help="take a screenshot of this page")
    options = parser.parse_args()
    if options.page or options.comparison:
        import pages

        if options.page:
            pages.draw(options.page, image_path)
        if options.comparison:
            pages.draw(options.comparison, image_path, [pages.COMPARISON])
        return 0
    if options.trainings or options.distances:
        import charts

        if options.trainings:
            courses = charts.courses([next(iter(trainings(path).values())) for path in options.trainings])
            courses.savefig(image_path("trainings"), dpi=110)
        if options.distances:
            every = {title: training for path in options.distances for title, training in trainings(path).items()}
            charts.distances(every).savefig(image_path("distances"), dpi=110)
        return 0
    for name in options.names or FIGURES:
        FIGURES[name]().save(image_path(name))
    return 0


def trainings(path: Path) -> dict[str, TrainingReport]:
    """The first training of each category, by a title: of a run's report, or of a file of benchmarks/panda.py."""
    found = json.loads(path.read_text(encoding="utf-8"))
    if "categories" in found:
        report = Report.load(path)
        return {f"{report.name}: {name}": one.trainings[0] for name, one in report.categories.items() if one.trainings}
    return {path.stem: CategoryReport(**found["report"]).trainings[0]}


def image_path(name: str) -> Path:
    path = ROOT / "docs" / "images" / f"{name}.png"
    path.parent.mkdir(exist_ok=True)
    print(f"writing {path.relative_to(ROOT)}")
    return path


def quickstart() -> Image.Image:
    """Test images of the quickstart, their masks, and the maps that it finds."""
    recipe = read_recipe(ROOT / "recipes" / "quickstart.toml")
    parts = assemble(recipe)
    columns = []
    for category in open_dataset(recipe.data, recipe.run.seed).categories:
        detector = _fitted(category, parts)
        calibration = torch.cat(
            [_map(detector, parts, batch.images) for batch in _batches(category.calibration, parts)]
        )
        limits = float(calibration.median()), 1.5 * float(calibration.max())
        for kind in ("good", "scratch") if category.name == "brick" else ("stain", "hole"):
            sample = next(sample for sample in category.test if sample.kind == kind)
            columns.append((f"{category.name}: {kind}", _column(sample, detector, parts, limits)))
    return _sheet(columns)


def heatmaps() -> Image.Image:
    """Test images of the quickstart, and what `adkit predict --heatmaps` makes of them."""
    recipe = ROOT / "recipes" / "quickstart.toml"
    root = ROOT / read_recipe(recipe).data.root
    columns = []
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(run(recipe, [f"data.root={root}"], folder).folder)
        for category, kind in (("brick", "good"), ("brick", "scratch"), ("grass", "hole"), ("gravel", "scratch")):
            detector = Detector.load(runs / "detector" / category)
            image = Image.open(sorted((root / category / "test" / kind).iterdir())[0]).convert("RGB")
            found = detector.predict([image])
            assert found.maps is not None and found.regions is not None
            drawn = overlay(image, found.maps[0], detector.view, detector.pixel_threshold, found.regions[0])
            columns.append((f"{category}: {kind}", [image, drawn]))
    return _sheet(columns)


def vicinity() -> Image.Image:
    """A normal image of bricks, and what the vicinal stopper could draw from it."""
    photograph, _, _ = draw_image(next(plans(seed=0)), photographs())
    view = View("squash", 224, 224)
    image = torch.empty(1, 3, *view.size)
    to_planes(view.input(Image.fromarray(photograph)), image[0].numpy())
    columns = [("normal", [_shown(image[0])])]
    titles: dict[Augmentation, str] = {"augmix": "AugMix", "cutout": "CutOut", "confetti": "Confetti"}
    for name, title in titles.items():
        varied = vary(name, image, torch.Generator().manual_seed(0))
        columns.append((title, [_shown(varied.images[0])]))
    return _sheet(columns)


def near_copies() -> Image.Image:
    """The first pairs of a contact sheet of overlapping crops: three of each of 24 places in each photograph."""
    rng, side, shift = np.random.default_rng(0), 128, 12
    with tempfile.TemporaryDirectory() as folder:
        for texture, photo in photographs().items():
            for place in range(24):
                top, left = rng.integers(0, len(photo) - side - shift, 2)
                for shot in range(3):
                    y, x = np.array([top, left]) + rng.integers(0, shift, 2)
                    crop = photo[y : y + side, x : x + side] * rng.uniform(0.9, 1.1)
                    image = Image.fromarray(np.clip(crop, 0, 255).astype(np.uint8))
                    image.save(Path(folder, f"{texture}{place:02}_shot{shot}.png"))
        sheet = Path(folder, "sheet", "near-copies.png")
        sheet.parent.mkdir()
        recipe = {"data": {"format": "folder", "root": folder, "normal": "."}, "scorer": {"use": "knn"}}
        check(recipe, contact_sheet=sheet)
        image = Image.open(sheet)
        image = image.crop((0, 0, image.width, image.height // 2))
    image.thumbnail((1000, 1000))
    return image.quantize(64)


FIGURES = {"vicinity": vicinity, "quickstart": quickstart, "heatmaps": heatmaps, "near-copies": near_copies}


def _shown(image: torch.Tensor) -> Image.Image:
    return Image.fromarray((image.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8))


def _fitted(category: Category, parts: Assembled) -> Pipeline:
    scorer = parts.new_scorer()
    source = ImageSource(parts, BadImages(0), len(category.train))
    scorer.fit(source.stream(category.train, parts.embeddings, lambda count: None, targets=False))
    return parts.pipeline([Member(parts.embeddings[0], scorer)])


def _batches(samples: Sequence[Sample], parts: Assembled) -> Loader:
    return Loader(samples, parts.view, 16, BadImages(0), targets=True, metric_size=parts.metric_size)


def _map(detector: Pipeline, parts: Assembled, images: torch.Tensor) -> torch.Tensor:
    return detector.localize(detector(images), parts.view.size)


def _column(sample: Sample, detector: Pipeline, parts: Assembled, limits: tuple[float, float]) -> list[Image.Image]:
    """The image, its mask, and the map laid over it in red, on one scale for all images of a category."""
    batch = next(iter(_batches([sample], parts)))
    image = (batch.images[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    mask = np.zeros_like(image) if batch.masks is None else batch.masks[0, ..., None].numpy() * np.full_like(image, 255)
    strength = ((_map(detector, parts, batch.images)[0] - limits[0]) / (limits[1] - limits[0])).clamp(0, 1).numpy()
    red = np.zeros_like(image) + np.array([235, 30, 30], np.uint8)
    overlay = image + (red.astype(np.float32) - image) * strength[..., None] * 0.85
    return [Image.fromarray(part.astype(np.uint8)) for part in (image, mask, overlay)]


def _sheet(columns: list[tuple[str, list[Image.Image]]]) -> Image.Image:
    side = columns[0][1][0].width
    width = len(columns) * (side + GAP) - GAP
    sheet = Image.new("RGB", (width, HEAD + len(columns[0][1]) * (side + GAP) - GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (title, parts) in enumerate(columns):
        left = number * (side + GAP)
        draw.text((left + 2, 3), title, fill="black", font_size=14)
        for row, part in enumerate(parts):
            sheet.paste(part, (left, HEAD + row * (side + GAP)))
    return sheet


if __name__ == "__main__":
    sys.exit(main())
