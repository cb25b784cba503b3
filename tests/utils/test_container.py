"""The limits of a container, as Linux states them in control groups of either version."""

import os

import psutil
import pytest

from adkit.utils.container import available_memory, cores


@pytest.fixture
def group(tmp_path):
    """Writes what control groups say; gives the arguments that name them."""

    def write(own, **files):
        (tmp_path / "own").write_text(own)
        for name, text in files.items():
            path = tmp_path / "groups" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path / "groups", tmp_path / "own"

    return write


def test_memory_of_the_second_version(group):
    files = {
        "a/b/memory.max": "3000\n",
        "a/b/memory.current": "1200\n",
        "a/b/memory.stat": "anon 1\ninactive_file 200\n",
    }
    assert available_memory(*group("0::/a/b\n", **files)) == 3000 - 1200 + 200


def test_the_narrowest_group_around_counts(group):
    files = {"a/memory.max": "2000", "a/memory.current": "1900", "a/b/memory.max": "max", "a/b/memory.current": "5"}
    assert available_memory(*group("0::/a/b\n", **files)) == 100


def test_memory_of_the_first_version(group):
    files = {
        "memory/x/memory.limit_in_bytes": "4000",
        "memory/x/memory.usage_in_bytes": "1000",
        "memory/x/memory.stat": "inactive_file 7\ntotal_inactive_file 500\n",
        "memory/memory.limit_in_bytes": "9223372036854771712",
        "memory/memory.usage_in_bytes": "1000",
    }
    assert available_memory(*group("4:memory:/x\n3:cpuset:/\n0::/\n", **files)) == 3500


def test_a_group_that_is_seen_from_inside_lies_at_the_root(group):
    files = {"memory.max": "1000", "memory.current": "400"}
    assert available_memory(*group("0::/docker/0123\n", **files)) == 600


def test_a_group_that_is_full_has_nothing_left(group):
    assert available_memory(*group("0::/\n", **{"memory.max": "1000", "memory.current": "1400"})) == 0


def test_without_groups_it_is_the_machine(tmp_path):
    total = psutil.virtual_memory().total
    assert 0 < available_memory(tmp_path, tmp_path / "none") < total
    assert cores(tmp_path, tmp_path / "none") == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/a\n", {"a/cpu.max": "100000 100000"}, 1),
        ("0::/a\n", {"a/cpu.max": "50000 100000"}, 1),
        ("0::/a/b\n", {"a/cpu.max": "100000 100000", "a/b/cpu.max": "max 100000"}, 1),
        (
            "2:cpu,cpuacct:/a\n",
            {"cpu,cpuacct/a/cpu.cfs_quota_us": "90000", "cpu,cpuacct/a/cpu.cfs_period_us": "100000"},
            1,
        ),
        ("1:cpu:/a\n", {"cpu/a/cpu.cfs_quota_us": "100000", "cpu/a/cpu.cfs_period_us": "100000"}, 1),
    ],
)
def test_a_share_of_the_cores(group, own, files, expected):
    assert cores(*group(own, **files)) == expected


@pytest.mark.parametrize("limit", ["max 100000", "-1 100000", "99900000 100000", "junk", ""])
def test_no_share_is_all_of_them(group, limit):
    assert cores(*group("0::/a\n", **{"a/cpu.max": limit})) == len(os.sched_getaffinity(0))
