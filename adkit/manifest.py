"""``manifest.json``: what a saved detector is made of, beside its tensors."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import ConfigDict, Field, ValidationError, model_validator

from adkit.context import Precision
from adkit.contracts import Kind, Level
from adkit.data.tables import Resize
from adkit.errors import UserError
from adkit.features import FeaturesTable
from adkit.params import Params

FOLDER: Final = "detector"
"""Of a run's folder, where its detectors are."""
MANIFEST: Final = "manifest.json"
SCHEMA: Final = "adkit.detector/1"
LIMIT = 64 * 2**20
"""Bytes above which no manifest is read."""
FLOAT32_MAX = 3.4028234663852886e38
REMEDY = "copy the detector again, or make it anew with adkit run"

FileName = Annotated[str, Field(pattern=r"\A[A-Za-z0-9_.-]{1,200}\.safetensors\z")]
Count = Annotated[int, Field(ge=0)]
Score = Annotated[float, Field(ge=-FLOAT32_MAX, le=FLOAT32_MAX)]


class _Part(Params):
    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)


class ComponentEntry(_Part):
    """A component, where it came from, and its parameters."""

    name: str
    distribution: str
    version: str
    params: dict[str, Any]


class Preprocessing(_Part):
    """How a picture becomes the image that the extractor sees: see ``adkit.data.view``."""

    resize: Resize
    image_size: int = Field(ge=8, le=8192)
    crop: int = Field(ge=8, le=8192)

    @model_validator(mode="after")
    def _fits(self) -> Preprocessing:
        if self.crop > self.image_size:
            raise ValueError(f"expected crop to be at most image_size ({self.image_size}), found {self.crop}")
        return self


class Member(_Part):
    """An extractor's state with the scorer that was fitted on its features."""

    extractor: FileName
    scorer: FileName
    scale: Score | None
    """Median score of the calibration pictures."""


class ThresholdEntry(_Part):
    value: Score
    asked: float = Field(gt=0, lt=1)
    supported: float = Field(gt=0, le=1)


class FileEntry(_Part):
    sha256: str = Field(pattern=r"\A[0-9a-f]{64}\z")
    bytes: Count


class Manifest(_Part):
    # The key in the file is "schema", a name that pydantic keeps for itself on the class.
    schema_version: Literal["adkit.detector/1"] = Field(alias="schema")
    adkit: str
    category: str
    components: dict[Literal["extractor", "scorer", "localizer"], ComponentEntry] = Field(min_length=3)
    preprocessing: Preprocessing
    features: FeaturesTable
    kept_channels: dict[str, tuple[Count, ...]]
    """Level → the channels that ``features.channels`` chose."""
    precision: Precision
    seed: Count
    levels: dict[str, Level] = Field(min_length=1)
    """What the extractor gives."""
    members: tuple[Member, ...] = Field(min_length=1, max_length=1)
    fuse: Literal["mean"]
    calibration: tuple[Score, ...]
    """Scores of the held-out normal pictures."""
    threshold: ThresholdEntry | None
    files: dict[FileName, FileEntry]

    @model_validator(mode="after")
    def _whole(self) -> Manifest:
        unknown = {file for member in self.members for file in (member.extractor, member.scorer)} ^ self.files.keys()
        if unknown:
            raise ValueError(f"expected files to list the members' files, found a difference in {sorted(unknown)}")
        if self.threshold is not None and not self.calibration:
            raise ValueError("expected calibration scores beside a threshold, found none")
        return self

    def component(self, kind: Kind) -> ComponentEntry:
        return {str(name): entry for name, entry in self.components.items()}[kind]


def write_manifest(manifest: Manifest, folder: Path) -> None:
    """Write ``folder/manifest.json`` with the digest of what it says."""
    values = manifest.model_dump(mode="json", by_alias=True)
    text = json.dumps(values | {"digest": digest_of(values)}, indent=2, allow_nan=False)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def digest_of(values: dict[str, Any]) -> str:
    """SHA-256 of the canonical JSON: sorted keys, no spaces."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def read_manifest(file: Path) -> Manifest:
    """Read and check a manifest.

    Raises:
        UserError: missing, too large, not JSON, of another schema, altered, or with values that cannot be.
    """
    values = _json(file)
    if not isinstance(values, dict):
        raise refusal(file, "a JSON object", f"a {type(values).__name__}", "name the folder of a detector")
    if values.get("schema") != SCHEMA:
        found = repr(values.get("schema"))[:60]
        raise refusal(file, f'schema "{SCHEMA}"', found, "load it with the version of adkit that wrote it")
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
    """The sentence with which a file of a detector is refused."""
    return UserError(f"{file}: expected {expected}, found {found}; {remedy}")


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
        raise refusal(file, "JSON", f"what is none ({error})") from error
