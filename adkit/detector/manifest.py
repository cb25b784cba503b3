"""``manifest.json``: what a saved detector consists of besides its tensors."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import ConfigDict, Field, ValidationError, field_validator, model_validator

from adkit.data.formats.base import Resize, checked_range
from adkit.errors import UserError
from adkit.inference.conversion import RuntimeName
from adkit.plugin.context import Precision
from adkit.plugin.params import Params
from adkit.plugin.types import Fuse, Level
from adkit.recipe.tables import FLOAT32_MAX, Method, Per
from adkit.threshold import Threshold
from adkit.toolkit.features import FeaturesTable
from adkit.utils.escapes import harmless

FOLDER: Final = "detector"
"""Name of the subfolder of a run's folder that holds its detectors."""
MANIFEST: Final = "manifest.json"
SCHEMA: Final = "adkit.detector/5"
OLDER: Final = ("adkit.detector/1", "adkit.detector/2", "adkit.detector/3", "adkit.detector/4")
"""Schemas of manifests that earlier versions of adkit wrote."""
LIMIT = 16 * 2**20
"""Bytes above which no manifest is read: enough for 600,000 calibration scores; objects take 40 times as much."""
SHOWN = 400
"""Number of letters of what was found that a refusal repeats."""
REMEDY = "copy the detector again, or make it anew with adkit run"

FileName = Annotated[str, Field(pattern=r"\A[A-Za-z0-9_.-]{1,200}\.safetensors\z")]
Count = Annotated[int, Field(ge=0)]
Score = Annotated[float, Field(ge=-FLOAT32_MAX, le=FLOAT32_MAX)]


class _Part(Params):
    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)


class ComponentEntry(_Part):
    """A component, where it came from, and its parameters."""

    # What a sentence tells the user to install must not carry more than a name.
    name: str = Field(pattern=r"\A[^\p{C}]{1,200}\z")
    distribution: str = Field(pattern=r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,200}\z")
    version: str = Field(pattern=r"\A[A-Za-z0-9][A-Za-z0-9.+!_-]{0,200}\z")
    params: dict[str, Any]


class Preprocessing(_Part):
    """How an image becomes the input that the extractor sees: see ``adkit.data.view``."""

    resize: Resize
    image_size: int = Field(ge=8, le=8192)
    crop: int = Field(ge=8, le=8192)
    range: tuple[float, float] | None = None
    """The raw values that become 0 and 255; None, also where an earlier adkit wrote nothing: the whole range."""

    @field_validator("range")
    @classmethod
    def _ascends(cls, range: tuple[float, float] | None) -> tuple[float, float] | None:
        return None if range is None else checked_range(range)

    @model_validator(mode="after")
    def _fits(self) -> Preprocessing:
        if self.crop > self.image_size:
            raise ValueError(f"expected crop to be at most image_size ({self.image_size}), found {self.crop}")
        return self


class RuntimeEntry(_Part):
    """What computed an extractor where the detector was made."""

    name: RuntimeName
    version: str = Field(pattern=r"\A[A-Za-z0-9][A-Za-z0-9.+!_-]{0,200}\z")

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


class ExtractorEntry(_Part):
    """An extractor and its state; an ensemble has several."""

    component: ComponentEntry
    adapter: ComponentEntry | None
    """The adapter that trained the extractor and may have added levels to it."""
    file: FileName
    levels: dict[str, Level] = Field(min_length=1)
    """The levels that the extractor gives."""
    runtime: RuntimeEntry | None = None
    """None: an earlier adkit wrote nothing, which computed by torch."""
    kept_channels: dict[str, tuple[Count, ...]]
    """Level → the channels that ``features.channels`` chose."""


class MemberEntry(_Part):
    """The state of a scorer that was fitted on one extractor's features."""

    extractor: Count
    """Number of that extractor among the detector's."""
    file: FileName
    scale: Score | None
    """The raw score of a normal image that the scorer was not fitted on: the mean where scores are divided by it, else
    the median."""


class ThresholdEntry(_Part):
    """A threshold, and the rates of false alarms that were asked for and that it supports."""

    value: Score
    method: Method
    per: Per
    """What the promise is about: an image drawn from a new part, or a new part as a whole."""
    asked: Annotated[float, Field(gt=0, lt=1)] | None
    """None where the value was set by hand."""
    supported: Annotated[float, Field(gt=0, le=1)] | None
    """Of a value set by hand what the calibration scores let expect; None where there are none."""
    grouped: bool = False
    """Whether the data said which images show one part."""

    @classmethod
    def of(cls, threshold: Threshold, method: Method, per: Per, *, grouped: bool) -> ThresholdEntry:
        """State a threshold and what it is about."""
        rates = {"asked": threshold.asked, "supported": threshold.supported}
        return cls(value=threshold.value, method=method, per=per, grouped=grouped, **rates)


class FileEntry(_Part):
    """The digest and size of a file of tensors."""

    sha256: str = Field(pattern=r"\A[0-9a-f]{64}\z")
    bytes: Count


class Manifest(_Part):
    """Everything that ``manifest.json`` says about a saved detector."""

    # The key in the file is "schema", a name that pydantic keeps for itself on the class.
    schema_version: Literal["adkit.detector/5"] = Field(alias="schema")
    adkit: str
    category: str
    versions: dict[str, str]
    """Versions of the packages that take part in computing a score, where the detector was made; for people to read."""
    extractors: tuple[ExtractorEntry, ...] = Field(min_length=1, max_length=1000)
    scorer: ComponentEntry
    scorer_levels: Annotated[tuple[str, ...], Field(min_length=1)] | None
    """The levels that the scorer reads; None: all."""
    localizer: ComponentEntry
    preprocessing: Preprocessing
    features: FeaturesTable
    precision: Precision
    seed: Count
    probe: Score | None = None
    """The score of the first of ``adkit.inference.runtimes.probe_images``; None where an earlier adkit wrote nothing,
    or where it is not finite."""
    members: tuple[MemberEntry, ...] = Field(min_length=1, max_length=1000)
    fuse: Fuse
    calibration: tuple[Score, ...]
    """Raw scores of held-out normal images that thresholds and p-values come from: one per group, or all."""
    calibration_groups: tuple[Count, ...] | None
    """A number for each of ``calibration``, equal for images of one group; None: each is of a group of its own."""
    threshold: ThresholdEntry | None
    pixel_threshold: ThresholdEntry | None
    """The threshold on maps, from the highest value of each held-out normal image's map."""
    files: dict[FileName, FileEntry]

    @model_validator(mode="after")
    def _whole(self) -> Manifest:
        named = [*(entry.file for entry in self.extractors), *(member.file for member in self.members)]
        if len(named) != len(self.files) or set(named) != self.files.keys():
            raise ValueError(f"expected files to list each of {named} once, found {list(self.files)}")
        for member in self.members:
            if member.extractor >= len(self.extractors):
                raise ValueError(f"expected an extractor below {len(self.extractors)}, found {member.extractor}")
            if self.fuse == "max_ratio" and (member.scale is None or member.scale <= 0):
                raise ValueError(f"expected scales above 0 to divide by, found {member.scale}")
        for entry in self.extractors:
            for name, level in entry.levels.items():
                if not _lies_in(level, self.preprocessing.crop):
                    raise ValueError(f"expected level {name} to lie in the input, found {level}")
        asked = [one for one in (self.threshold, self.pixel_threshold) if one is not None and one.asked is not None]
        if asked and not self.calibration:
            raise ValueError("expected calibration scores with a threshold, found none")
        if self.calibration_groups is not None and len(self.calibration_groups) != len(self.calibration):
            raise ValueError(
                f"expected a group for each of {len(self.calibration)} calibration scores, found "
                f"{len(self.calibration_groups)}"
            )
        return self


def _lies_in(level: Level, side: int) -> bool:
    """Whether a level's cells could be those of an input of this side; else a network of another size would result."""
    spans = zip(level.grid, level.geometry.start, level.geometry.step, strict=True)
    centers = level.geometry.centers
    if centers is not None and (len(centers[0]), len(centers[1])) != level.grid:
        return False
    return all(
        0 < cells <= side and -side <= start <= side and 0 < step <= 2 * side and side / 4 <= cells * step <= 4 * side
        for cells, start, step in spans
    )


def write_manifest(manifest: Manifest, folder: Path) -> None:
    """Write ``folder/manifest.json`` with the digest of what it says."""
    values = manifest.model_dump(mode="json", by_alias=True)
    text = json.dumps(values | {"digest": digest_of(values)}, indent=2, allow_nan=False)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def digest_of(values: dict[str, Any]) -> str:
    """Compute the SHA-256 of the canonical JSON of ``values``: sorted keys, no spaces."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def read_manifest(file: Path) -> Manifest:
    """Read and check a manifest.

    Raises:
        UserError: the file is missing, too large, not JSON, of another schema, altered, or has impossible values.
    """
    values = _json(file)
    if not isinstance(values, dict):
        raise refusal(file, "a JSON object", f"a {type(values).__name__}", "name the folder of a detector")
    if values.get("schema") != SCHEMA:
        found = values.get("schema")
        advice = "load it with the version of adkit that wrote it"
        if found in OLDER:
            advice = "it was made by an earlier adkit: run the recipe again"
        raise refusal(file, f'schema "{SCHEMA}"', repr(found)[:60], advice)
    stated = values.pop("digest", None)
    try:
        if stated != digest_of(values):
            raise refusal(file, "the digest of its contents", "another: it was altered or damaged")
        return Manifest.model_validate_json(json.dumps(values))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "its tables"
        raise refusal(file, "the values of a detector", f"{place}: {first['msg']}") from error
    except (ValueError, RecursionError) as error:  # numbers beyond floats, tables in tables without end
        raise refusal(file, "the values of a detector", str(error)) from error


def refusal(file: Path, expected: str, found: str, remedy: str = REMEDY) -> UserError:
    """The error with which a file of a detector is refused."""
    return UserError(f"{file}: expected {one_line(expected)}, found {one_line(found)}; {remedy}")


def one_line(text: str) -> str:
    """Make text from a file fit for a sentence: short, and without characters that a terminal would act on."""
    return harmless(text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…")


def _json(file: Path) -> Any:
    try:
        if not file.is_file():
            raise refusal(file, "the manifest of a detector", "no file", "name a run's folder or its detector folder")
        size = file.stat().st_size
        if size > LIMIT:
            raise refusal(file, f"at most {LIMIT:,} bytes", f"{size:,}")
        return json.loads(file.read_bytes())
    except OSError as error:
        raise refusal(file, "a file that can be read", error.strerror or str(error)) from error
    except (ValueError, RecursionError) as error:
        raise refusal(file, "JSON", f"something else ({error})") from error
