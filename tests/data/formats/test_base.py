from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from adkit.data.formats import FORMATS
from adkit.data.formats.arrays import ArraysTable
from adkit.data.formats.base import DataTable
from adkit.data.formats.classes import ClassesTable
from adkit.data.formats.folder import FolderTable
from adkit.data.formats.mvtec import MvtecTable


def problem(table: type[DataTable], **values: object) -> tuple[tuple[object, ...], str]:
    with pytest.raises(ValidationError) as caught:
        table.model_validate_json(json.dumps(values))
    (error,) = caught.value.errors()
    return error["loc"], error["msg"]


def test_every_format_is_named_like_its_table() -> None:
    assert {name: table.model_fields["format"].default for name, table in FORMATS.items()} == {
        name: name for name in ("mvtec", "folder", "classes", "arrays", "csv", "textures")
    }


@pytest.mark.parametrize("table", FORMATS.values())
def test_every_key_is_described_in_a_line(table: type[DataTable]) -> None:
    for name, field in table.model_fields.items():
        assert field.description, name
        assert "\n" not in field.description


def test_defaults() -> None:
    table = FolderTable(root="images")
    assert (table.resize, table.image_size, table.crop, table.metric_size) == ("squash", 224, None, None)
    assert (table.batch_size, table.calibration, table.max_bad_share) == (32, 0.2, 0.05)


def test_crop_larger_than_the_image() -> None:
    assert problem(FolderTable, root=".", image_size=224, crop=256) == (
        ("crop",),
        "Value error, expected at most image_size (224), found 256",
    )


@pytest.mark.parametrize("value", [-0.1, 0.95, "a fifth"])
def test_calibration_out_of_range(value: object) -> None:
    assert problem(FolderTable, root=".", calibration=value)[0] == ("calibration",)


def test_unknown_key() -> None:
    assert problem(FolderTable, root=".", categories="*") == (
        ("categories",),
        "Extra inputs are not permitted",
    )


def test_list_of_categories() -> None:
    table = MvtecTable.model_validate_json('{"root": ".", "category": ["a", "b"]}')
    assert table.category == ("a", "b")


@pytest.mark.parametrize("normal", [3, [1, 7], "*"])
def test_normal_labels(normal: object) -> None:
    table = ArraysTable.model_validate_json(json.dumps({"root": ".", "normal": normal}))
    assert table.normal == (tuple(normal) if isinstance(normal, list) else normal)


def test_normal_must_be_given() -> None:
    assert problem(ClassesTable, root=".") == (("normal",), "Field required")
