from __future__ import annotations

import gc
import itertools
import threading
import time
import weakref
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import adkit.data.loader
from adkit.data.loader import BadImages, Loader
from adkit.data.samples import Sample
from adkit.data.view import Pixels, View
from adkit.errors import UserError
from tests.data.image_files import save, square

VIEW = View("squash", 8, 8)


def samples(folder: Path, count: int, label: int = 0) -> list[Sample]:
    return [
        Sample(f"{n:02}.png", save(folder / f"{n:02}.png", n), label, "crack" if label else "good")
        for n in range(count)
    ]


def bad() -> BadImages:
    return BadImages(0.05)


def decoders() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("adkit-decode")}


def ended(threads: set[threading.Thread]) -> bool:
    """Whether all of them end, which nobody waits for but this test."""
    for thread in threads:
        thread.join(30)
    return not any(thread.is_alive() for thread in threads)


def test_images_are_float_rgb_of_zero_to_one(tmp_path: Path) -> None:
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[...] = (255, 51, 0)
    source = save(tmp_path / "a.png", pixels)
    (batch,) = Loader([Sample("a", source, 0, "good")], VIEW, 4, bad())
    assert batch.images.dtype == torch.float32
    assert batch.images.shape == (1, 3, 8, 8)
    assert batch.images.is_contiguous()
    assert batch.images[0, :, 3, 3].tolist() == pytest.approx([1.0, 0.2, 0.0])


def test_gray_fills_three_channels(tmp_path: Path) -> None:
    (batch,) = Loader([Sample("a", save(tmp_path / "a.png", 51), 0, "good")], VIEW, 4, bad())
    torch.testing.assert_close(batch.images, torch.full((1, 3, 8, 8), 0.2))


def test_sixteen_bits_keep_their_fractions(tmp_path: Path) -> None:
    source = save(tmp_path / "a.png", np.full((8, 8), 300, np.uint16))
    (batch,) = Loader([Sample("a", source, 0, "good")], VIEW, 4, bad())
    torch.testing.assert_close(batch.images, torch.full((1, 3, 8, 8), 300 / 65535))


def test_order_and_sizes_of_batches(tmp_path: Path) -> None:
    loader = Loader(samples(tmp_path, 7), VIEW, 3, bad())
    assert len(loader) == 3
    assert [batch.ids for batch in loader] == [
        ("00.png", "01.png", "02.png"),
        ("03.png", "04.png", "05.png"),
        ("06.png",),
    ]


def test_walked_twice_it_gives_the_same(tmp_path: Path) -> None:
    loader = Loader(samples(tmp_path, 5), VIEW, 2, bad())
    first, second = (torch.cat([batch.images for batch in loader]) for _ in range(2))
    assert torch.equal(first, second)


def test_batch_size_changes_no_pixel(tmp_path: Path) -> None:
    all_of_it = [
        torch.cat([batch.images for batch in Loader(samples(tmp_path, 5), VIEW, size, bad())]) for size in (1, 3, 64)
    ]
    assert torch.equal(all_of_it[0], all_of_it[1])
    assert torch.equal(all_of_it[0], all_of_it[2])


def test_no_samples_no_batches() -> None:
    assert list(Loader([], VIEW, 3, bad())) == []


def test_training_has_no_targets(tmp_path: Path) -> None:
    (batch,) = Loader(samples(tmp_path, 2), VIEW, 4, bad())
    assert (batch.labels, batch.masks, batch.regions) == (None, None, None)


def test_labels(tmp_path: Path) -> None:
    both = [*samples(tmp_path / "good", 2), *samples(tmp_path / "crack", 1, label=1)]
    (batch,) = Loader(both, VIEW, 4, bad(), targets=True)
    assert batch.labels is not None
    assert batch.labels.dtype == torch.int64
    assert batch.labels.tolist() == [0, 0, 1]


def test_no_masks_where_no_image_has_one(tmp_path: Path) -> None:
    (batch,) = Loader(samples(tmp_path, 2, label=1), VIEW, 4, bad(), targets=True)
    assert batch.masks is None


def test_masks(tmp_path: Path) -> None:
    mask = save(tmp_path / "mask.png", square((8, 8), 2, 4, 2))
    marked = Sample("x", save(tmp_path / "x.png"), 1, "crack", mask)
    (batch,) = Loader([*samples(tmp_path, 1), marked], VIEW, 4, bad(), targets=True, metric_size=4)
    assert batch.masks is not None
    assert batch.masks.shape == (2, 4, 4)
    assert batch.masks.dtype == torch.bool
    assert batch.masks.nonzero().tolist() == [[1, 1, 2]]


def test_masks_are_of_the_size_of_the_image_by_default(tmp_path: Path) -> None:
    mask = save(tmp_path / "mask.png", square((8, 8), 2, 4, 2))
    marked = Sample("x", save(tmp_path / "x.png"), 1, "crack", mask)
    (batch,) = Loader([marked], View("squash", 16, 12), 4, bad(), targets=True)
    assert batch.masks is not None
    assert batch.masks.shape == (1, 12, 12)


def test_a_category_with_masks_gives_them_in_every_batch(tmp_path: Path) -> None:
    mask = save(tmp_path / "mask.png", square((8, 8), 2, 4, 2))
    marked = Sample("x", save(tmp_path / "x.png"), 1, "crack", mask)
    first, _ = Loader([*samples(tmp_path, 1), marked], VIEW, 1, bad(), targets=True)
    assert first.masks is not None
    assert not first.masks.any()


def test_mask_lies_over_the_image_as_it_is_seen(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise: 8 × 16 stored, 16 × 8 seen (height × width)
    Image.new("L", (16, 8)).save(tmp_path / "a.jpg", exif=exif)
    mask = save(tmp_path / "mask.png", square((16, 8), 0, 6, 2))
    marked = Sample("a", tmp_path / "a.jpg", 1, "crack", mask)
    (batch,) = Loader([marked], VIEW, 4, bad(), targets=True, metric_size=8)
    assert batch.masks is not None
    assert batch.masks[0].nonzero().tolist() == [[0, 6], [0, 7]]


def test_mask_of_another_size(tmp_path: Path) -> None:
    image, mask = save(tmp_path / "x.png", size=(8, 9)), save(tmp_path / "mask.png", 0, size=(4, 5))
    with pytest.raises(UserError) as caught:
        list(Loader([Sample("x", image, 1, "crack", mask)], VIEW, 4, bad(), targets=True))
    assert str(caught.value) == (
        f"{mask}: expected a mask of its image's size, 9 × 8 pixels (width × height, {image}), "
        "found 5 × 4; export the mask at the size of the image"
    )


def test_unreadable_mask_counts_as_unreadable_image(tmp_path: Path) -> None:
    (tmp_path / "mask.png").touch()
    marked = Sample("x", save(tmp_path / "x.png"), 1, "crack", tmp_path / "mask.png")
    found = bad()
    assert list(Loader([marked], VIEW, 4, found, targets=True)) == []
    assert found.reasons == {"x": f"its mask {tmp_path / 'mask.png'}: the file is empty (0 bytes)"}


def test_regions_of_padded_images(tmp_path: Path) -> None:
    wide = Sample("x", save(tmp_path / "x.png", size=(4, 8)), 0, "good")
    (batch,) = Loader([wide], View("pad", 8, 8), 4, bad())
    assert batch.regions is not None
    assert batch.regions.dtype == torch.int64
    assert batch.regions.tolist() == [[2, 0, 6, 8]]


def test_batches_stay_full_where_images_are_bad(tmp_path: Path) -> None:
    some = samples(tmp_path, 8)
    for number in (0, 1, 4):
        (tmp_path / f"{number:02}.png").write_bytes(b"")
    found = bad()
    assert [batch.ids for batch in Loader(some, VIEW, 3, found)] == [
        ("02.png", "03.png", "05.png"),
        ("06.png", "07.png"),
    ]
    assert list(found.reasons) == ["00.png", "01.png", "04.png"]


def test_bad_images_at_the_end(tmp_path: Path) -> None:
    some = samples(tmp_path, 4)
    for number in (2, 3):
        (tmp_path / f"{number:02}.png").write_bytes(b"")
    assert [batch.ids for batch in Loader(some, VIEW, 2, bad())] == [("00.png", "01.png")]


def test_bad_images_are_counted_once(tmp_path: Path) -> None:
    some = samples(tmp_path, 2)
    (tmp_path / "00.png").write_bytes(b"")
    found = bad()
    loader = Loader(some, VIEW, 2, found)
    list(loader)
    list(loader)
    assert len(found) == 1
    assert "00.png" in found


def test_few_bad_images_are_let_pass() -> None:
    found = BadImages(0.05)
    found.add("a.png", "the file is empty (0 bytes)")
    found.check(20)


def test_too_many_bad_images() -> None:
    found = BadImages(0.05)
    for number in range(7):
        found.add(f"{number}.png", "the file is empty (0 bytes)")
    with pytest.raises(UserError) as caught:
        found.check(100)
    named = ", ".join(f"{number}.png: the file is empty (0 bytes)" for number in range(5))
    assert str(caught.value) == (
        "7 of 100 images cannot be read, more than the share of 0.05 that max_bad_share allows; "
        f"fix or remove them: {named} and 2 more"
    )


@dataclass(frozen=True)
class CountingView(View):
    """Counts the images that are alive: decoded, and neither copied into a batch nor let go of.

    For an instant a decoding thread still holds what was taken from it, so only the number at rest is certain.
    """

    alive: list[int] = field(default_factory=lambda: [0])
    lock: threading.Lock = field(default_factory=threading.Lock)

    def input(self, image: Image.Image) -> np.ndarray:
        image = np.array(super().input(image))
        with self.lock:
            self.alive[0] += 1
        weakref.finalize(image, self.let_go)
        return image

    def let_go(self) -> None:
        with self.lock:
            self.alive[0] -= 1

    def wait_for(self, count: int) -> None:
        deadline = time.monotonic() + 60
        while self.alive[0] != count:
            assert time.monotonic() < deadline
            time.sleep(0.001)


def test_one_batch_waits_ahead_and_no_more(tmp_path: Path) -> None:
    view = CountingView("squash", 8, 8)
    for number, _ in enumerate(Loader(samples(tmp_path, 40), view, 4, bad())):
        view.wait_for(4 if number < 9 else 0)
        time.sleep(0.02)  # time enough to decode everything, if nothing held it back
        assert view.alive[0] == (4 if number < 9 else 0)


def test_a_batch_is_gone_when_its_consumer_lets_go_of_it(tmp_path: Path) -> None:
    batches = iter(Loader(samples(tmp_path, 8), VIEW, 4, bad()))
    images = weakref.ref(next(batches).images._base)  # of which those of a batch are the first
    assert images() is None


def test_decodes_while_a_batch_is_being_used(tmp_path: Path) -> None:
    view = CountingView("squash", 8, 8)
    batches = iter(Loader(samples(tmp_path, 8), view, 4, bad()))
    next(batches)
    view.wait_for(4)
    batches.close()  # type: ignore[attr-defined]


def test_stopping_early_leaves_no_thread(tmp_path: Path) -> None:
    before = decoders()
    for _ in itertools.islice(Loader(samples(tmp_path, 40), VIEW, 2, bad()), 1):
        pass
    assert ended(decoders() - before)


def test_interrupt_leaves_no_thread(tmp_path: Path) -> None:
    before = decoders()
    batches = iter(Loader(samples(tmp_path, 40), VIEW, 2, bad()))
    next(batches)
    with pytest.raises(KeyboardInterrupt):
        batches.throw(KeyboardInterrupt)  # type: ignore[attr-defined]
    assert ended(decoders() - before)


def test_mistakes_of_the_code_are_not_taken_for_bad_images(tmp_path: Path) -> None:
    class Broken(View):
        def input(self, image: Image.Image) -> np.ndarray:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(Loader(samples(tmp_path, 2), Broken("squash", 8, 8), 2, bad()))


def test_an_image_that_cannot_be_read_is_not_held_while_others_are_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one waits until the damaged ones were tried and the last one looks for them."""
    shown = samples(tmp_path, 5)
    for sample in shown[1:4]:
        assert isinstance(sample.source, Path)
        save(sample.source, 100, (90, 70))
        sample.source.write_bytes(sample.source.read_bytes()[:-30])
    plain, looked, held = View.input, threading.Event(), list[int]()

    def watched(view: View, image: Image.Image) -> Pixels:
        if threading.current_thread().name.endswith("_0"):
            looked.wait(30)
        else:
            images = [one for one in gc.get_objects() if issubclass(type(one), Image.Image)]
            held.append(sum(one.size == (70, 90) for one in images))
            looked.set()
        return plain(view, image)

    monkeypatch.setattr(adkit.data.loader, "decoding_threads", lambda: 2)
    monkeypatch.setattr(View, "input", watched)
    found = BadImages(1)
    (batch,) = Loader(shown, VIEW, 5, found)
    assert (len(batch), len(found), held) == (2, 3, [0])
