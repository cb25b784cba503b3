"""Exact nearest neighbors in banks of features that fit in memory.

Fast libraries rank by ‖y‖² − 2x·y + ‖x‖², which cancels for close neighbors and rounds differently with
the number of queries. Here that expansion only proposes candidates. The distances returned are those of
x − y: the same however the queries are batched, and zero from a feature to itself. Where rounding could have
hidden a nearer neighbor, the candidates are found once more in float64.
"""

from __future__ import annotations

from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from adkit.utils.text import counted

Metric = Literal["l2", "squared_l2", "cosine"]
Index = Literal["auto", "faiss", "torch"]

SPARE = 8
"""Number of candidates, or groups of them, beyond k that the expansion proposes."""
GROUP = 32
"""Number of rows of a group, of which a search of large banks proposes all if one is close."""
GROUPS = 1024
"""Number of groups whose squares are computed at a time: so few that they stay in a processor's cache."""
GROUPED = 64
"""How many times the rows that are proposed a bank must have for groups to be worth their while."""
RECORDED_ROWS = 16_384
"""Number of rows that a recorded search compares with at a time."""
BLOCK_BYTES = 64 * 2**20
"""Upper bound, in bytes, on every temporary tensor of a search."""


class Bank:
    """A bank of features to search, which are kept as they are: nothing is copied.

    Args:
        rows: (m, c) float32, as ``prepared`` gives them.
        metric: ``cosine`` is 1 − cos, for which a feature of zeros lies ½ from every other one.
        index: ``faiss`` searches on the CPU, ``torch`` where the rows are, and large banks in groups; ``auto`` takes
            faiss for small banks on the CPU, where it is faster.
    """

    def __init__(self, rows: Tensor, metric: Metric = "l2", index: Index = "auto") -> None:
        self.rows = rows
        self.metric = metric
        self.index = index

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def _lengths(self) -> Tensor:
        lengths: Tensor = torch.linalg.vector_norm(self.rows, dim=1)
        return lengths

    def search(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Find the ``k`` nearest rows of each query.

        Args:
            queries: (q, c) float32, not prepared.
            k: at most the number of rows.

        Returns:
            Distances (q, k), ascending, and the rows' numbers (q, k) int64, on the device of the queries.
        """
        lengths, found = nearest(prepared(queries.detach(), self.metric), self.rows, k, self.index, self._lengths)
        return _measured(lengths, self.metric), found

    def distances(self, queries: Tensor, k: int) -> Tensor:
        """The distances (q, k) of ``search`` alone."""
        return self.search(queries, k)[0]


class RecordableBank:
    """A bank whose search consists of torch operations alone, the same ones for all values, for exporters to record.

    So nothing is searched once more in float64: where more than ``SPARE`` rows lie closer together than the
    expansion's rounding, a farther one of them may be found.
    """

    def __init__(self, rows: Tensor, metric: Metric) -> None:
        self.rows = rows
        self.metric = metric
        self._blocks = rows.split(RECORDED_ROWS)  # type: ignore[no-untyped-call]

    def __len__(self) -> int:
        return len(self.rows)

    def search(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Find the ``k`` nearest rows of each query, as ``Bank.search`` does."""
        queries = prepared(queries, self.metric)
        lengths, numbers, first = [], [], 0
        for rows in self._blocks:
            nearest_of_block, found = _nearest_of_block(queries, rows, min(k, len(rows)))
            lengths.append(nearest_of_block)
            numbers.append(found + first)
            first += len(rows)
        nearest_of_all, order = torch.cat(lengths, 1).topk(k, largest=False, sorted=True)  # (q, k)
        return _measured(nearest_of_all, self.metric), torch.cat(numbers, 1).gather(1, order)

    def distances(self, queries: Tensor, k: int) -> Tensor:
        """The distances (q, k) of ``search`` alone."""
        return self.search(queries, k)[0]


def prepared(features: Tensor, metric: Metric) -> Tensor:
    """Prepare features (m, c) for a bank: scaled to unit length for ``cosine``, else as they are."""
    return torch.nn.functional.normalize(features, dim=1) if metric == "cosine" else features


def recordable_among(queries: Tensor, bank: Tensor, chosen: Tensor, k: int) -> Tensor:
    """Compute what ``nearest_among`` does, for several images at once and by operations that exporters can record.

    Args:
        queries: (n, q, c), the locations of n images.
        bank: (images, locations, c) float32.
        chosen: (n, m) int64, the images to search for each; m·locations is at least ``k``.

    Returns:
        (n, q, k) L2 distances, ascending.
    """
    locations = bank.shape[1]
    rows = bank.flatten(0, 1)
    norms = torch.linalg.vecdot(bank, bank)  # (images, locations)
    best = queries.new_zeros(0)
    for place in range(chosen.shape[1]):
        image = chosen[:, place]  # (n,)
        squared = torch.baddbmm(norms[image][:, None], queries, bank[image].mT, alpha=-2)  # (n, q, locations)
        candidates = squared.topk(min(k + SPARE, locations), largest=False).indices
        near = rows[candidates + locations * image[:, None, None]]  # (n, q, count, c)
        exact = torch.linalg.vector_norm(queries[:, :, None] - near, dim=3)
        best = torch.cat([best, exact], 2) if place else exact
        best = best.topk(min(k, best.shape[2]), largest=False).values
    return best


def nearest(
    queries: Tensor, rows: Tensor, k: int, index: Index = "auto", norms: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Find L2 distances (q, k), ascending, and numbers (q, k) of the rows nearest to each query, exactly.

    Args:
        norms: (m,) lengths of the rows, for who has them; default: they are computed.

    Raises:
        ValueError: there are fewer than ``k`` rows.
    """
    if k > len(rows):
        raise ValueError(f"k: expected at most the {counted(len(rows), 'row')} of the bank, found {k}")
    home = queries.device
    queries = queries.to(rows.device).contiguous()
    count = min(k + SPARE, len(rows))
    norms = torch.linalg.vector_norm(rows, dim=1) if norms is None else norms
    if index != "faiss" and len(rows) >= GROUPED * GROUP * count:
        squared, candidates = _groups(queries, rows, norms.square(), count)
    elif index == "faiss" or (index == "auto" and rows.device.type == "cpu"):
        squared, candidates = _faiss(queries, rows, count)
    else:
        squared, candidates = _expand(queries, rows, count, torch.float32)
    lengths, found = _refine(queries, rows, candidates, k)
    if count < len(rows):
        doubtful = _doubtful(queries, norms.max(), lengths[:, -1], squared[:, -1])
        if len(doubtful):
            # MPS has no float64.
            wide = torch.device("cpu") if rows.device.type == "mps" else rows.device
            again = queries[doubtful]
            candidates = _expand(again.to(wide), rows.to(wide), count, torch.float64)[1].to(rows.device)
            lengths[doubtful], found[doubtful] = _refine(again, rows, candidates, k)
    return lengths.to(home), found.to(home)


def nearest_among(queries: Tensor, bank: Tensor, chosen: Tensor, k: int) -> Tensor:
    """Find L2 distances (q, k), ascending, of queries (q, c) to all locations of some images, exactly.

    Args:
        bank: (images, locations, c) float32.
        chosen: (m,) int64, the images to search; m·locations is at least ``k``.
    """
    best = queries.new_empty(len(queries), 0)
    for part in chosen.split(max(1, BLOCK_BYTES // (4 * bank[0].numel()))):  # type: ignore[no-untyped-call]
        rows = bank[part].flatten(0, 1)
        best = torch.cat([best, nearest(queries, rows, min(k, len(rows)))[0]], 1)
        best = best.topk(min(k, best.shape[1]), largest=False).values
    return best


def pairwise(left: Tensor, right: Tensor) -> Tensor:
    """Compute L2 distances (…, m, n) of rows (…, m, c) to rows (…, n, c), from their differences."""
    return torch.cdist(left, right, compute_mode="donot_use_mm_for_euclid_dist")


def _measured(lengths: Tensor, metric: Metric) -> Tensor:
    """Convert L2 distances of prepared features to distances by the metric."""
    if metric == "l2":
        return lengths
    squared = lengths.square()
    return squared / 2 if metric == "cosine" else squared  # of unit vectors, ‖x − y‖² = 2 (1 − cos)


def _nearest_of_block(queries: Tensor, rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Find L2 distances and numbers (q, k) of the nearest rows, ascending."""
    squared = torch.addmm(torch.linalg.vecdot(rows, rows), queries, rows.T, alpha=-2)  # (q, m), less ‖x‖²
    candidates = squared.topk(min(k + SPARE, len(rows)), largest=False).indices
    exact = torch.linalg.vector_norm(queries[:, None] - rows[candidates], dim=2)  # (q, count)
    lengths, order = exact.topk(k, largest=False, sorted=True)
    return lengths, candidates.gather(1, order)


def _faiss(queries: Tensor, rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    import faiss

    # ``knn`` searches the tensor's own memory; an IndexFlat would hold the bank a second time.
    squared, found = faiss.knn(queries.cpu().numpy(), rows.cpu().numpy(), count)
    return torch.from_numpy(squared).to(rows.device), torch.from_numpy(found).to(rows.device)


def _groups(queries: Tensor, rows: Tensor, norms: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Find the rows of the ``count`` groups that come closest to each query, by expansion in float32.

    Keeping the smallest value of every group alone takes a fraction of the time of ranking all values, which is most
    of what searching takes where features have few channels. The k nearest rows lie in k groups at most.

    Args:
        norms: (m,) squared lengths of the rows.

    Returns:
        Squared distances (q, count) of the groups, ascending, which no row of another group falls short of but by
        rounding, and numbers (q, GROUP · count + rest) of rows, where the rest, fewer than a group, is always proposed.
    """
    total = len(rows) // GROUP  # groups; group j of a block of n has its rows j, j + n, j + 2n and so on
    rest = torch.arange(total * GROUP, len(rows), device=rows.device)
    fitting = max(1, BLOCK_BYTES // (4 * max(total, GROUPS)))
    span = min(512 * torch.get_num_threads(), fitting) if rows.device.type == "cpu" else fitting
    squares, numbers = [], []
    for part in queries.split(span):  # type: ignore[no-untyped-call]
        closest = part.new_empty(len(part), total)  # less ‖x‖²
        for start in range(0, total, GROUPS):
            columns = closest[:, start : start + GROUPS]
            n = columns.shape[1]
            for first in range(start * GROUP, (start + n) * GROUP, n):
                block = slice(first, first + n)
                squared = torch.addmm(norms[block], part, rows[block].T, alpha=-2)
                torch.minimum(columns, squared, out=columns) if first > start * GROUP else columns.copy_(squared)
        values, chosen = closest.topk(count, largest=False)
        start = chosen // GROUPS * GROUPS
        n = (total - start).clamp(max=GROUPS)
        inside = torch.arange(GROUP, device=rows.device)
        members = (start * GROUP + (chosen - start))[..., None] + n[..., None] * inside  # (p, count, GROUP)
        squares.append(values + torch.linalg.vecdot(part, part)[:, None])
        numbers.append(torch.cat([members.flatten(1), rest.expand(len(part), -1)], 1))
    return torch.cat(squares), torch.cat(numbers)


def _expand(queries: Tensor, rows: Tensor, count: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Find squared distances and numbers (q, count) of the nearest rows by expansion in ``dtype``, in blocks."""
    height = max(1, BLOCK_BYTES // (8 * rows.shape[1]))
    width = max(1, BLOCK_BYTES // (8 * min(height, len(rows))))
    best = torch.full((len(queries), count), torch.inf, dtype=dtype, device=rows.device)
    found = torch.zeros((len(queries), count), dtype=torch.int64, device=rows.device)
    for first in range(0, len(rows), height):
        block = rows[first : first + height].to(dtype)
        norms = torch.linalg.vecdot(block, block)
        for start in range(0, len(queries), width):
            span = slice(start, start + width)
            part = queries[span].to(dtype)
            squared = torch.addmm(norms, part, block.T, alpha=-2)  # (p, rows of the block), less ‖x‖²
            values, numbers = squared.topk(min(count, len(block)), largest=False)
            values += torch.linalg.vecdot(part, part)[:, None]
            values, order = torch.cat([best[span], values], 1).topk(count, largest=False)
            best[span], found[span] = values, torch.cat([found[span], numbers + first], 1).gather(1, order)
    return best, found


def _refine(queries: Tensor, rows: Tensor, candidates: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Find the ``k`` nearest of each query's candidates (q, n), by the lengths of the differences."""
    lengths = torch.empty_like(candidates[:, :k], dtype=rows.dtype)
    found = torch.empty_like(candidates[:, :k])
    step = max(1, BLOCK_BYTES // (4 * rows.shape[1] * candidates.shape[1]))
    for start in range(0, len(queries), step):
        span = slice(start, start + step)
        exact = pairwise(queries[span, None], rows[candidates[span]])[:, 0]  # (p, n)
        lengths[span], order = exact.topk(k, largest=False, sorted=True)
        found[span] = candidates[span].gather(1, order)
    return lengths, found


def _doubtful(queries: Tensor, longest: Tensor, kth: Tensor, last: Tensor) -> Tensor:
    """Find the queries for which a row that was not proposed may be nearer than the k-th found.

    A row that was not proposed has an expanded square of at least ``last``, so its true square is at least
    that less the rounding: ε √c (‖x‖² + ‖y‖²) for errors that walk at random, times 4 to be safe.
    """
    scale = 4 * torch.finfo(torch.float32).eps * queries.shape[1] ** 0.5
    rounding = scale * (torch.linalg.vecdot(queries, queries) + longest.square())
    doubtful: Tensor = (kth > 0) & (kth.square() > last - rounding)
    return doubtful.nonzero()[:, 0]
