"""Coresets: a few features that leave none of the others far from the nearest of them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

BLOCK = 4 * 2**20
"""Bytes of a temporary tensor: so few that processors keep them near by."""
POOL = 4096
"""Number of the farthest rows among which centers are sought before all rows are measured again."""
PIECE = BLOCK // 16
"""Number of rows of which the farthest are found at a time: sorting takes 16 bytes for each."""
CENTERS = 256
"""Largest number of centers that all rows are measured from at a time."""
BYTES_OF_A_ROW = 16
"""Bytes that choosing takes for each row, beside the row itself."""


def greedy_k_center(rows: Tensor, count: int, first: int = 0, advance: Callable[[int], None] | None = None) -> Tensor:
    """Choose rows by farthest-first traversal: each next one is the row farthest from those that were chosen.

    The greedy solution of the k-center problem [Gonzalez, Clustering to minimize the maximum intercluster distance,
    1985], with which PatchCore thins its memory bank [Roth et al., CVPR 2022, algorithm 1]. The rows are exactly those
    that measuring every row from every chosen one gives, ties going to the lower number.

    Two things make it quick. The farthest rows are a pool: as long as one of them is farther than all others were, it
    is the farthest of all, whatever the others have become, so many centers are found by measuring the pool alone. And
    all rows are then measured from these at once by a matrix product; its rounding is bounded, and the distances that
    may have become smaller are computed from differences.

    The first needs many rows, and the second rows that do not lie many times their spread away from the origin: else it
    is as quick as measuring every row, or slower. Beside the rows it takes ``BYTES_OF_A_ROW`` for each, ``POOL`` rows
    twice, and some times ``BLOCK``.

    Args:
        rows: (m, c) float32, on any device; float32 must hold the squares of their lengths.
        count: of the rows to choose, from 1 to m.
        first: number of the row that is chosen first.
        advance: told how many rows were chosen since it was last called.

    Returns:
        (count,) int64 numbers of the rows, in the order in which they were chosen; fewer where all others are copies
        of those.

    Raises:
        ValueError: a row is not finite, or too long.
    """
    with torch.autocast(rows.device.type, enabled=False):
        return _chosen(rows, count, first, advance)


def _chosen(rows: Tensor, count: int, first: int, advance: Callable[[int], None] | None) -> Tensor:
    squares = torch.linalg.vector_norm(rows, dim=1).square()  # without a copy of the rows
    if not squares.isfinite().all():
        raise ValueError("expected finite rows whose squared lengths float32 holds, found others")
    lengths = torch.full((len(rows),), torch.inf, device=rows.device)  # from the nearest chosen row, exactly
    chosen = torch.tensor([first], device=rows.device)
    done = 0
    while True:
        _measure(rows, squares, lengths, chosen[done:])
        if advance is not None:
            advance(len(chosen) - done)
        done = len(chosen)
        if done == count or float(lengths.max()) == 0:
            return chosen
        chosen = torch.cat([chosen, _farthest(rows, lengths, min(count - done, 1 + done // 4, CENTERS))])


def _farthest(rows: Tensor, lengths: Tensor, most: int) -> Tensor:
    """Find the next centers, at least one and at most ``most``, by measuring the farthest rows alone."""
    farthest, pool = _largest(lengths, min(POOL, len(rows)))
    bound = farthest[-1] if len(pool) < len(rows) else lengths.new_zeros(())  # no row outside is farther
    pool = pool.sort().values  # so that the first of equal ones has the lowest number
    inside, left = rows[pool], lengths[pool]
    found = [lengths.argmax()]
    for _ in range(most - 1):
        left = torch.minimum(left, _lengths(inside, rows[found[-1]]))
        place = left.argmax()
        if not left[place] > bound:
            break
        found.append(pool[place])
    return torch.stack(found)


def _largest(lengths: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` largest of ``lengths``, the largest first, and their places."""
    parts = [part.topk(min(count, len(part))) for part in torch.split(lengths, PIECE)]
    places = torch.cat([part.indices + PIECE * number for number, part in enumerate(parts)])
    values, order = torch.cat([part.values for part in parts]).topk(count)
    return values, places[order]


def _measure(rows: Tensor, squares: Tensor, lengths: Tensor, centers: Tensor) -> None:
    """Lower ``lengths`` (m,) to the distances from new ``centers``, where these are smaller."""
    points, norms = rows[centers], squares[centers]
    rounding = 4 * torch.finfo(rows.dtype).eps * rows.shape[1] ** 0.5
    step = max(1, BLOCK // (4 * max(len(points), rows.shape[1])))
    for start in range(0, len(rows), step):
        block, known = rows[start : start + step], lengths[start : start + step]
        least = torch.addmm(norms, block, points.T, alpha=-2)  # (p, n), less ‖x‖²
        above = known.square() * (1 + rounding) - squares[start : start + step]
        above += rounding * (squares[start : start + step] + norms.max())
        place, center = (least < above[:, None]).nonzero(as_tuple=True)
        size = max(1, BLOCK // (8 * rows.shape[1]))
        for some, others in zip(place.split(size), center.split(size), strict=True):
            known.scatter_reduce_(0, some, _lengths(block[some], points[others]), "amin")


def _lengths(left: Tensor, right: Tensor) -> Tensor:
    """(m,) L2 distances of rows (m, c), from their differences: the same however many there are."""
    lengths: Tensor = torch.linalg.vector_norm(left - right, dim=1)
    return lengths
