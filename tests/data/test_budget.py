"""Large images wait for each other, and what there is no memory for is refused by name."""

import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from adkit.data import images
from adkit.data.budget import SMALL, TOTAL, Budget
from adkit.data.images import ImageError, read_image, reading


def test_no_more_is_taken_at_once_than_there_is():
    budget, most, now, lock = Budget(100), [0], [0], threading.Lock()
    barrier = threading.Barrier(2, timeout=20)

    def take(amount):
        with budget.taken(amount):
            with lock:
                now[0] += amount
                most[0] = max(most[0], now[0])
            if amount == 50:
                barrier.wait()  # two halves are there at once, or neither goes on
            with lock:
                now[0] -= amount

    threads = [threading.Thread(target=take, args=(amount,)) for amount in (50, 50, 100, 60, 60, 50, 50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)
    assert most == [100]


def test_more_than_there_is_waits_for_all_of_it():
    with Budget(100).taken(1000):
        pass


def test_what_was_taken_is_given_back_whatever_ends_the_block():
    budget = Budget(100)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), budget.taken(100):
            1 / 0  # noqa: B018


@pytest.fixture
def large(tmp_path):
    """An image that takes more than small ones may: 65 MiB."""
    side = 4130
    assert SMALL < 4 * side**2 < TOTAL
    Image.new("RGB", (side, side)).save(tmp_path / "large.png", compress_level=1)
    return tmp_path / "large.png"


def test_a_large_image_holds_its_memory_while_it_is_read(large, monkeypatch):
    budget = Budget(4 * 4130**2)
    monkeypatch.setattr(images, "LARGE_IMAGES", budget)
    with reading(large) as image:
        assert image.size == (4130, 4130)
        assert budget._taken == 4 * 4130**2
    assert budget._taken == 0
    read_image(large)
    assert budget._taken == 0


def test_small_images_wait_for_nobody(tmp_path, monkeypatch):
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "a.png")
    budget = Budget(1)
    monkeypatch.setattr(images, "LARGE_IMAGES", budget)
    with budget.taken(1), reading(tmp_path / "a.png") as image:
        assert image.size == (8, 8)


def test_an_image_that_there_is_no_memory_for_is_refused_before_it_is_decoded(large, monkeypatch):
    monkeypatch.setattr(images, "available_memory", lambda: 60_000_000)
    with pytest.raises(ImageError) as told:
        read_image(Path(large))
    assert told.value.reason == (
        "decoding it takes 68 MB of memory, and 60 MB are free: cut it into tiles or make it smaller"
    )
