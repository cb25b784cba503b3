"""The formats that ``[data]`` can have: one file per format, with its keys and its reader."""

from collections.abc import Mapping
from types import MappingProxyType

from adkit.data.formats.arrays import ArraysTable
from adkit.data.formats.base import DataTable
from adkit.data.formats.classes import ClassesTable
from adkit.data.formats.csv_list import CsvTable
from adkit.data.formats.folder import FolderTable
from adkit.data.formats.mvtec import MvtecTable
from adkit.data.formats.textures import TexturesTable

FORMATS: Mapping[str, type[DataTable]] = MappingProxyType(
    {
        "mvtec": MvtecTable,
        "folder": FolderTable,
        "classes": ClassesTable,
        "arrays": ArraysTable,
        "csv": CsvTable,
        "textures": TexturesTable,
    }
)
"""Format name → the table of its keys, which finds its images."""
