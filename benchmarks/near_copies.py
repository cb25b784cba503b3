"""Measures how often the test for near copies speaks where there are none, and where there are.

    python benchmarks/near_copies.py [--tiles data/mtd/tile --groups data/mtd/groups.csv]
        [--fashion-mnist data/fashion-mnist] [--natural data/natural] [--levels pool blocks.4] [--sheets FOLDER]

Features of every image are extracted once (the means of a level's cells), and data sets are drawn from them. A fifth of
the images is held out. The constants of the test were fixed on the data marked "development": brick, Fashion-MNIST's
classes 0 to 4, automobiles, and the tiles of the half "choose". The rest was looked at afterwards, once. But the kind
of distance (whitened components) was chosen where tiles of both halves were among what was seen.

- No copies: disjoint crops of the textures of scikit-image, disjoint subsamples of classes of Fashion-MNIST (byte
  copies removed) and of natural images, one image a tile.
- Copies: 2, 3 or 6 images of 5%, 20% or 100% of parts: of tiles, and of natural and Fashion-MNIST images with copies
  shifted by up to 1/16 of their size, up to 10% brighter or darker, with noise of 2% of the range.
- Tiles split at random and by tile, with no group named.
"""

from __future__ import annotations

import argparse
import csv
import gzip
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from skimage import data

from adkit.data.contact_sheet import contact_sheet
from adkit.data.loader import BadImages
from adkit.data.near_copies import NearCopies, find_near_copies, near_copies_warning
from adkit.data.samples import ArrayFile, ArrayItem, Sample
from adkit.inference.assemble import assemble
from adkit.inference.sources import ImageSource
from adkit.recipe.reader import read_recipe

RECIPE = Path(__file__).parents[1] / "recipes" / "dn2.toml"
SIZES = (50, 100, 200, 500, 1000)
COPIES = (2, 3, 6)
SHARES = (0.05, 0.2, 1.0)
DEVELOPMENT = {"brick", "automobile", "tiles choose", *(f"class {number}" for number in range(5))}


@dataclass(frozen=True)
class Images:
    """Images with the pooled features of each level, (n, c)."""

    name: str
    samples: list[Sample]
    features: dict[str, npt.NDArray[np.float32]]

    def find(self, level: str, training: npt.NDArray[np.intp], held_out: npt.NDArray[np.intp]) -> NearCopies | None:
        """Run the test on rows of one level."""
        features = self.features[level]
        ids = [[self.samples[row].id for row in rows] for rows in (training, held_out)]
        return find_near_copies(ids[0], features[training], ids[1], features[held_out])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiles", type=Path, help="the tiles in MVTec layout: train/good and test/good")
    parser.add_argument("--groups", type=Path, help="a csv file with the columns group and half")
    parser.add_argument("--fashion-mnist", type=Path, help="the folder of the idx files")
    parser.add_argument("--natural", type=Path, help="a folder with train/CLASS and test/CLASS")
    parser.add_argument("--levels", nargs="+", default=["pool", "blocks.4"])
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--sheets", type=Path, help="a folder for contact sheets of pairs")
    options = parser.parse_args()
    if options.sheets:
        options.sheets.mkdir(parents=True, exist_ok=True)

    clean: list[tuple[Images, list[npt.NDArray[np.intp]]]] = []
    copied: list[tuple[Images, npt.NDArray[np.intp]]] = []
    for name in ("brick", "grass", "gravel"):
        for side in (64, 48, 32):
            crops = extracted(name, _crops(name, side), 112, options.levels)
            clean.append((crops, [np.arange(len(crops.samples))]))
    if options.fashion_mnist:
        for number, pixels in enumerate(_fashion_mnist(options.fashion_mnist)):
            _add(f"class {number}", pixels, clean, copied if number in (5, 6) else None, options.levels)
    else:
        print("Fashion-MNIST: skipped, as --fashion-mnist is not given")
    if options.natural:
        for name in ("automobile", "bird", "deer"):
            pixels = _read(options.natural, name)
            _add(name, pixels, clean, copied if name != "automobile" else None, options.levels)
    else:
        print("natural images: skipped, as --natural is not given")
    tiles = None
    if options.tiles and options.groups:
        samples = _listed(options.tiles, "*/good/*")
        tiles = extracted("tiles", samples, 224, options.levels)
        with options.groups.open(encoding="utf-8") as file:
            halves = {row["group"]: row["half"] for row in csv.DictReader(file) if row["half"]}
        keys = np.array([sample.id.rsplit("/", 1)[1].split("_")[0] for sample in samples])
        both = {half: np.flatnonzero([halves.get(key) == half for key in keys]) for half in ("choose", "report")}
    else:
        print("tiles: skipped, as --tiles or --groups is not given")

    for level in options.levels:
        print(f"\n{level}")
        for development in (True, False):
            spoke, total, named = 0, 0, []
            for images, sets in clean:
                if (images.name in DEVELOPMENT) != development:
                    continue
                for number, rows in enumerate(sets):
                    found = images.find(level, *_split(rows, number))
                    spoke, total = spoke + (found is not None), total + 1
                    if found:
                        named.append(f"{images.name}, {len(rows)} images")
                        _show(images, found, f"{level}-{images.name}-{len(rows)}", options.sheets)
            if tiles is not None:
                half = "choose" if development else "report"
                for draw in range(5):
                    rows = _of_parts(keys, both[half], 1, 1.0, draw)
                    spoke, total = spoke + (tiles.find(level, *_split(rows, draw)) is not None), total + 1
            word = "development" if development else "not looked at before"
            print(f"  no copies, {word}: speaks on {spoke} of {total} {named or ''}")
        for images, parts in copied:
            for count in COPIES:
                for share in SHARES:
                    rates, n = _power(images, level, parts, np.arange(len(parts)), count, share, options.draws)
                    print(f"  {images.name}, {count} copies of {share:.0%} of parts, {n} images: speaks on {rates:.0%}")
        if tiles is None:
            continue
        for half, rows in both.items():
            for count in COPIES:
                for share in SHARES:
                    rate, n = _power(tiles, level, keys, rows, count, share, options.draws)
                    print(f"  tiles {half}, {count} images of {share:.0%} of tiles, {n} images: speaks on {rate:.0%}")
        everything = np.arange(len(keys))
        found = [tiles.find(level, *_split(everything, draw)) for draw in range(options.draws)]
        print(f"  all tiles, split at random: speaks on {np.mean([one is not None for one in found]):.0%}")
        if found[0]:
            word = near_copies_warning("tile", "test", found[0], "the sheet")
            right = [_tile(pair.held_out) == _tile(pair.training) for pair in found[0].pairs]
            print(f"    of {len(right)} pairs {np.mean(right):.1%} show one tile: {word}")
            _show(tiles, found[0], f"{level}-tiles", options.sheets)
        by_tile = [tiles.find(level, *_by_part(keys, draw)) for draw in range(options.draws)]
        print(f"  all tiles, split by tile: speaks on {np.mean([one is not None for one in by_tile]):.0%}")


def extracted(name: str, samples: Sequence[Sample], size: int, levels: Sequence[str]) -> Images:
    """Extract the means of each level's cells."""
    asked = ", ".join(f'"{level}"' for level in levels)
    recipe = read_recipe(RECIPE, ["data.calibration=0", f"data.image_size={size}", f"extractor.levels=[{asked}]"])
    parts = assemble(recipe)
    source = ImageSource(parts, BadImages(0), len(samples))
    batches = [
        {level: features[level].mean((1, 2)) for level in levels}
        for features in source.stream(samples, parts.embeddings, lambda count: None, targets=False)
    ]
    features = {level: torch.cat([batch[level] for batch in batches]).numpy() for level in levels}
    return Images(name, list(samples), features)


def _add(
    name: str,
    pixels: npt.NDArray[np.uint8],
    clean: list[tuple[Images, list[npt.NDArray[np.intp]]]],
    copied: list[tuple[Images, npt.NDArray[np.intp]]] | None,
    levels: Sequence[str],
) -> None:
    """Draw disjoint subsamples of a class and, where asked for, make copies of some images."""
    generator = np.random.default_rng(0)
    first = np.sort(np.unique(pixels.reshape(len(pixels), -1), axis=0, return_index=True)[1])
    chosen = generator.permutation(first)[: sum(SIZES)]
    images = extracted(name, _in_array(name, pixels[chosen]), 112, levels)
    ends = np.cumsum([size for size in SIZES if size <= len(chosen)])
    ends = ends[ends <= len(chosen)]
    clean.append((images, np.split(np.arange(len(chosen)), ends)[: len(ends)]))
    if copied is not None:
        # 200 parts with five copies each, and 800 images of parts of their own
        parts = pixels[chosen[:200]]
        copies = [_changed(parts, generator) for _ in range(max(COPIES) - 1)]
        samples = _in_array(f"{name} with copies", np.concatenate([pixels[chosen[:1000]], *copies]))
        keys = np.concatenate([np.arange(1000), *(np.arange(200) for _ in copies)]).astype(str)
        copied.append((extracted(name, samples, 112, levels), keys))


def _changed(pixels: npt.NDArray[np.uint8], generator: np.random.Generator) -> npt.NDArray[np.uint8]:
    """The same parts photographed again, more or less."""
    most = pixels.shape[1] // 16 or 1
    changed = []
    for image in pixels:
        moved = np.pad(image, [(most, most), (most, most), *[(0, 0)] * (image.ndim - 2)], mode="edge").astype(float)
        y, x = generator.integers(0, 2 * most + 1, 2)
        moved = moved[y : y + image.shape[0], x : x + image.shape[1]] * generator.uniform(0.9, 1.1)
        changed.append(np.clip(moved + generator.normal(0, 5, moved.shape), 0, 255).astype(np.uint8))
    return np.stack(changed)


def _split(rows: npt.NDArray[np.intp], seed: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Four fifths to train on, one fifth held out, at random."""
    shuffled = np.random.default_rng(seed).permutation(rows)
    return shuffled[len(rows) // 5 :], shuffled[: len(rows) // 5]


def _by_part(keys: npt.NDArray[np.str_], seed: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    parts = np.random.default_rng(seed).permutation(np.unique(keys))
    held_out = np.isin(keys, parts[: len(parts) // 5])
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def _of_parts(
    keys: npt.NDArray[np.str_], rows: npt.NDArray[np.intp], count: int, share: float, seed: int
) -> npt.NDArray[np.intp]:
    """One image of every part, but ``count`` of a share of the parts that have so many."""
    generator = np.random.default_rng(seed)
    names, sizes = np.unique(keys[rows], return_counts=True)
    several = generator.permutation(names[sizes >= count])
    if share == 1:
        names = several
    chosen = set(several[: max(1, round(share * len(names)))])
    drawn = [generator.permutation(rows[keys[rows] == name])[: count if name in chosen else 1] for name in names]
    return np.concatenate(drawn)


def _power(
    images: Images,
    level: str,
    keys: npt.NDArray[np.str_],
    rows: npt.NDArray[np.intp],
    count: int,
    share: float,
    draws: int,
) -> tuple[float, int]:
    spoke = []
    for draw in range(draws):
        drawn = _of_parts(keys, rows, count, share, draw)
        spoke.append(images.find(level, *_split(drawn, draw)) is not None)
    return float(np.mean(spoke)), len(drawn)


def _show(images: Images, found: NearCopies, name: str, folder: Path | None) -> None:
    for pair in found.pairs[:12]:
        print(f"    {pair.held_out} ~ {pair.training}: ratio {pair.ratio:.2f}, chance {pair.chance:.1e}")
    if folder:
        by_id = {sample.id: sample for sample in images.samples}
        pairs = [(by_id[pair.held_out], by_id[pair.training]) for pair in found.pairs]
        contact_sheet(pairs).save(folder / f"{name.replace(' ', '-')}.png")


def _tile(id: str) -> str:
    return id.rsplit("/", 1)[1].split("_")[0]


def _listed(root: Path, pattern: str) -> list[Sample]:
    return [Sample(path.relative_to(root).as_posix(), path, 0, "good") for path in sorted(root.glob(pattern))]


def _in_array(name: str, pixels: npt.NDArray[np.uint8]) -> list[Sample]:
    array = ArrayFile(Path(name), name, pixels)
    return [Sample(f"{name}#{row}", ArrayItem(array, row), 0, "good") for row in range(len(pixels))]


def _crops(name: str, side: int) -> list[Sample]:
    image = getattr(data, name)()
    count = len(image) // side
    starts = [(y * side, x * side) for y in range(count) for x in range(count)]
    return _in_array(f"{name} {side}", np.stack([image[y : y + side, x : x + side] for y, x in starts]))


def _fashion_mnist(folder: Path) -> Iterator[npt.NDArray[np.uint8]]:
    raw = [gzip.decompress((folder / f"train-{part}-ubyte.gz").read_bytes()) for part in ("images-idx3", "labels-idx1")]
    images = np.frombuffer(raw[0], np.uint8, offset=16).reshape(-1, 28, 28)
    labels = np.frombuffer(raw[1], np.uint8, offset=8)
    for number in range(10):
        yield images[labels == number]


def _read(root: Path, name: str) -> npt.NDArray[np.uint8]:
    from adkit.data.images import read_image

    return np.stack([np.asarray(read_image(path).convert("RGB")) for path in sorted(root.glob(f"*/{name}/*"))])


if __name__ == "__main__":
    main()
