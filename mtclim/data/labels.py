"""Label powerset: co-occurrence, balancing (LPRUS) and data partition (section 2.2 of the paper).

All functions take ``labels``, a DataFrame with one column a task (categorical, or any values: then classes in sorted
order), missing = not annotated. Internally rows are counted by *labelset* (distinct combination of labels, a missing
label being one more value of its task); everything else works on those counts, in chunks of rows, so that ten million
rows need little more memory than their integer codes.
"""

import math
import warnings
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

SPLITS = ("train", "val", "test")
_CHUNK = 1 << 18  # rows handled at once: bounds the temporaries, numpy's 8-byte index copies above all
_DENSE = 1 << 24  # up to this many possible codes a lookup table is used, beyond it sorting
_GOLDEN = (math.sqrt(5) - 1) / 2
_FREQUENT = 32  # so many labelsets are balanced in their own right, beside every class
_CANDIDATES = 1 << 14  # blocks looked at in one round of the partition's refinement


class _Bins(NamedTuple):
    """Labelsets of n rows: ids (n,) int32, codes (L, N) int32 (-1 = missing), counts (L,) int64, classes by task."""

    ids: np.ndarray
    codes: np.ndarray
    counts: np.ndarray
    classes: dict[str, pd.Index]


def cooccurrence(labels: pd.DataFrame) -> pd.DataFrame:
    """Conditional probabilities P(column | row) of classes, the co-occurrence matrix of Fig. 4.

    Returns a square DataFrame over ``task:class`` (rows are the condition). Only rows annotated in both tasks count;
    a class never seen together with an annotation of the other task gives NaN there; the diagonal is 1 for every
    observed class.

    >>> labels = pd.DataFrame({"height": ["H1", "H1", "H2"], "roof": ["FLT", "GAB", "GAB"]})
    >>> float(cooccurrence(labels).loc["height:H1", "roof:FLT"])
    0.5
    """
    bins = _bins(labels)
    names = [f"{task}:{name}" for task, classes in bins.classes.items() for name in classes]
    starts = np.cumsum([0, *(len(classes) for classes in bins.classes.values())])
    joint = np.zeros((len(names), len(names)))
    for a in range(len(bins.classes)):
        for b in range(len(bins.classes)):
            both = (bins.codes[:, a] >= 0) & (bins.codes[:, b] >= 0)
            np.add.at(joint, (starts[a] + bins.codes[both, a], starts[b] + bins.codes[both, b]), bins.counts[both])
    with np.errstate(invalid="ignore"):
        for start, stop in zip(starts[:-1], starts[1:], strict=True):
            joint[:, start:stop] /= joint[:, start:stop].sum(axis=1, keepdims=True)
    return pd.DataFrame(joint, index=names, columns=names)


def labelsets(labels: pd.DataFrame) -> pd.DataFrame:
    """The label powerset histogram (Fig. 7a): one row a labelset, columns tasks + ``count``, most frequent first."""
    bins = _bins(labels)
    order = np.argsort(-bins.counts, kind="stable")
    columns = {
        task: pd.Categorical.from_codes(bins.codes[order, n], categories=classes, ordered=True)
        for n, (task, classes) in enumerate(bins.classes.items())
    }
    return pd.DataFrame({**columns, "count": bins.counts[order]})


def cutoff(counts: Sequence[int], keep: float = 0.85) -> int:
    """LPRUS' cut-off point: the smallest integer c with sum_i min(n_i, c) >= keep * total (section 2.2.1).

    >>> cutoff([10, 4, 2], keep=0.75)
    6
    """
    if not 0 < keep <= 1:
        raise ValueError(f"keep is {keep!r}; expected a share of the rows in (0, 1], for example 0.85.")
    counts = np.sort(np.asarray(counts, dtype=np.int64))
    if not len(counts):
        return 0
    below = np.concatenate([[0], np.cumsum(counts)[:-1]])  # rows in smaller bins
    larger = len(counts) - np.arange(len(counts))  # bins at least as large
    goal = math.ceil(keep * int(counts.sum()))
    i = int(np.argmax(below + larger * counts >= goal))
    return int(-((below[i] - goal) // larger[i]))


def lprus(labels: pd.DataFrame, keep: float = 0.85, seed: int = 0) -> pd.Series:
    """Label-powerset random undersampling: a boolean Series, the rows to keep (section 2.2.1, Fig. 7).

    Labelset bins larger than the cut-off point are sampled down to it at random; the others are kept whole.
    """
    bins = _bins(labels)
    kept = np.minimum(bins.counts, cutoff(bins.counts, keep))
    quotas = np.stack([bins.counts - kept, kept], axis=1)
    return pd.Series(_deal(bins.ids, quotas, np.random.default_rng(seed)).view(bool), index=labels.index, name="kept")


def partition(
    labels: pd.DataFrame,
    blocks: Sequence | pd.Series | np.ndarray | None = None,
    shares: Sequence[float] = (0.65, 0.175, 0.175),
    seed: int = 0,
) -> pd.Series:
    """Train, validation and test rows: a categorical Series of "train", "val", "test" (section 2.2.2).

    The labelset bins are dealt out one after another in the given shares. With ``blocks`` (one a row, matched by
    position) whole blocks are dealt, each with the bin of its rarest labelset, and then moved between the splits as
    long as that brings shares, class frequencies and the frequent labelsets closer to the aim. Without blocks the
    split follows the labelsets alone and isn't spatially disjoint.

    A block too large for the shares is a warning; the splits are then as close as whole blocks allow, and none with a
    positive share is empty if there are blocks enough. A missing block is a ValueError.
    """
    shares = _check_shares(shares)
    rng = np.random.default_rng(seed)
    bins = _bins(labels)
    if blocks is None:
        split = _deal(bins.ids, _quotas(bins, shares, rng), rng)
    else:
        codes, names = _block_codes(blocks, len(labels))
        split = _deal_blocks(bins, codes, len(names), shares, rng)
        _warn_of_large_blocks(codes, names, split, shares)
    return pd.Series(pd.Categorical.from_codes(split, categories=list(SPLITS)), index=labels.index, name="split")


def _chunks(rows: int) -> Iterator[slice]:
    return (slice(start, start + _CHUNK) for start in range(0, rows, _CHUNK))


def _bincount(ids: np.ndarray, size: int) -> np.ndarray:
    """np.bincount without its 8-byte copy of all ids."""
    counts = np.zeros(size, np.int64)
    for chunk in _chunks(len(ids)):
        counts += np.bincount(ids[chunk], minlength=size)
    return counts


def _classes(column: pd.Series) -> tuple[np.ndarray, pd.Index]:
    if isinstance(column.dtype, pd.CategoricalDtype):
        return column.cat.codes.to_numpy(), column.cat.categories
    codes, classes = pd.factorize(column, sort=True)
    return codes, pd.Index(classes)


def _compact(keys: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Distinct keys (sorted) of ``range(size)`` and each key's place among them (int32, in place if it can)."""
    if size > _DENSE:
        distinct, places = np.unique(keys, return_inverse=True)
        return distinct, places.astype(np.int32)
    place = np.zeros(size, np.int32)
    for chunk in _chunks(len(keys)):
        place[keys[chunk]] = 1
    distinct = np.flatnonzero(place)
    place[distinct] = np.arange(len(distinct))
    keys = keys.astype(np.int32, copy=False)
    for chunk in _chunks(len(keys)):
        keys[chunk] = place[keys[chunk]]
    return distinct, keys


def _bins(labels: pd.DataFrame) -> _Bins:
    """Count labelsets column by column: mixed-radix keys, made dense again after each column."""
    if not isinstance(labels, pd.DataFrame) or not labels.shape[1] or not labels.columns.is_unique:
        found = f"columns {list(labels.columns)}" if isinstance(labels, pd.DataFrame) else type(labels).__name__
        raise ValueError(f"labels: found {found}; expected a DataFrame with one column a task (table.labels has it).")
    ids, codes, classes = np.zeros(len(labels), np.int32), np.zeros((1, 0), np.int32), {}
    for task in labels.columns:
        column, classes[task] = _classes(labels[task])
        radix = len(classes[task]) + 1
        ids = ids.astype(np.int64) if len(codes) * radix > _DENSE else ids
        ids *= radix
        ids += column
        ids += 1
        distinct, ids = _compact(ids, len(codes) * radix)
        codes = np.column_stack([codes[distinct // radix], (distinct % radix - 1).astype(np.int32)])
    return _Bins(ids, codes, _bincount(ids, len(codes)), classes)


def _deal(ids: np.ndarray, quotas: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Give quotas[i, s] random rows of bin i to split s: (n,) int8.

    quotas (L, S) sum to the bins' sizes. Chunk by chunk, how many of a bin's rows in the chunk go where is drawn from
    the hypergeometric distribution of what is left: the same as one draw without replacement from all rows.
    """
    split, left = np.empty(len(ids), np.int8), quotas.astype(np.int64)
    for chunk in _chunks(len(ids)):
        order = np.lexsort((rng.random(len(ids[chunk]), dtype=np.float32), ids[chunk]))
        present, sizes = np.unique(ids[chunk], return_counts=True)
        here, draws = left[present], []
        for s in range(quotas.shape[1] - 1):
            draws.append(rng.hypergeometric(here[:, s], here[:, s + 1 :].sum(axis=1), sizes))
            sizes = sizes - draws[-1]
        draws = np.stack([*draws, sizes], axis=1)
        left[present] -= draws
        split[chunk][order] = np.repeat(np.tile(np.arange(quotas.shape[1]), len(present)), draws.ravel())
    return split


def _check_shares(shares: Sequence[float]) -> np.ndarray:
    array = np.asarray(shares, dtype=float)
    if array.shape != (3,) or not np.isfinite(array).all() or (array < 0).any() or abs(array.sum() - 1) > 1e-6:
        raise ValueError(f"shares are {shares!r}; expected three shares (train, val, test) >= 0 whose sum is 1.")
    return array / array.sum()


def _block_codes(blocks: Sequence | pd.Series | np.ndarray, rows: int) -> tuple[np.ndarray, pd.Index]:
    """Blocks as int32 codes (n,) and their names, without 8-byte codes for all rows."""
    blocks = blocks if isinstance(blocks, pd.Series) else pd.Series(blocks, copy=False)
    if len(blocks) != rows:
        raise ValueError(f"blocks: found {len(blocks)} for {rows} rows of labels; expected one a row, in order.")
    if blocks.hasnans:
        first = np.flatnonzero(blocks.isna())[:5].tolist()
        raise ValueError(f"blocks: missing at positions {first}; give every row a block, or leave these rows out.")
    if isinstance(blocks.dtype, pd.CategoricalDtype):
        used, codes = _compact(blocks.cat.codes.to_numpy().astype(np.int32), len(blocks.cat.categories))
        return codes, blocks.cat.categories[used]
    names, codes = pd.Index(blocks.unique()), np.empty(rows, np.int32)
    for chunk in _chunks(rows):
        codes[chunk] = names.get_indexer(blocks.iloc[chunk])
    return codes, names


def _golden_split(units: int, shares: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Splits for a sequence of units such that every stretch of it has nearly the given shares (int8)."""
    places = (np.arange(units) * _GOLDEN + rng.random()) % 1
    return np.minimum(np.searchsorted(np.cumsum(shares), places, side="right"), np.flatnonzero(shares)[-1]).astype(
        np.int8
    )


def _features(bins: _Bins) -> tuple[np.ndarray, int]:
    """Features (L, N + 2) of each labelset that the partition balances, and their number J.

    Feature 0 is the row itself, then every value of every task, then the frequent labelsets (the rest as one).
    """
    radices = [len(classes) + 1 for classes in bins.classes.values()]
    starts = 1 + np.cumsum([0, *radices])
    frequent = np.argsort(-bins.counts, kind="stable")[:_FREQUENT]
    own = np.full(len(bins.counts), starts[-1] + len(frequent))
    own[frequent] = starts[-1] + np.arange(len(frequent))
    return np.column_stack([np.zeros_like(own), starts[:-1] + bins.codes + 1, own]), int(starts[-1] + len(frequent) + 1)


def _quotas(bins: _Bins, shares: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rows (L, S) of each labelset bin for each split: its shares rounded down, and the rest (less than S rows) where
    it serves the classes best."""
    quotas = np.floor(bins.counts[:, None] * shares + 1e-9).astype(np.int64)
    rest = np.repeat(np.arange(len(quotas)), bins.counts - quotas.sum(axis=1))
    features, number = _features(bins)
    vectors = np.zeros((len(rest), number), np.int8)
    np.put_along_axis(vectors, features[rest], 1, axis=1)
    fixed = np.zeros((len(shares), number))
    for column in features.T:
        np.add.at(fixed.T, column, quotas)
    split, _ = _refine(vectors, _golden_split(len(rest), shares, rng), shares, rng, fixed)
    np.add.at(quotas, (rest, split), 1)
    return quotas


def _deal_blocks(
    bins: _Bins, blocks: np.ndarray, number: int, shares: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    features, width = _features(bins)
    rank = np.argsort(np.argsort(bins.counts, kind="stable")).astype(np.int32)
    rarest = np.full(number, len(rank), np.int32)
    largest = int(_bincount(blocks, number).max(initial=0))
    vectors = np.zeros((number, width), np.min_scalar_type(largest))  # rows of each block with each feature
    for chunk in _chunks(len(blocks)):
        np.minimum.at(rarest, blocks[chunk], rank[bins.ids[chunk]])
        base = blocks[chunk].astype(np.int64) * width
        for column in features.T:
            np.add.at(vectors.reshape(-1), base + column[bins.ids[chunk]], vectors.dtype.type(1))
    best, least = np.zeros(number, np.int8), np.inf
    for _ in range(16 if number <= 1000 else 4 if number <= _CANDIDATES else 1):  # few blocks: the start matters
        split = np.empty(number, np.int8)
        split[np.lexsort((rng.random(number), rarest))] = _golden_split(number, shares, rng)
        split, cost = _refine(vectors, split, shares, rng)
        best, least = (split, cost) if cost < least else (best, least)
    best = _fill(best, vectors[:, 0], shares)
    return np.concatenate([best[blocks[chunk]] for chunk in _chunks(len(blocks))] or [best])


def _refine(
    vectors: np.ndarray,
    split: np.ndarray,
    shares: np.ndarray,
    rng: np.random.Generator,
    fixed: np.ndarray | float = 0.0,
    rounds: int = 400,
) -> tuple[np.ndarray, float]:
    """Move units between splits while that lowers sum_sj w_j (T_sj - share_s N_j)^2; the splits and that cost.

    vectors (B, J) counts of each feature in each unit; T_sj its total in split s (``fixed`` rows included), N_j in all.
    With R the residual, moving v from s to t changes the cost by 2 w.v^2 - 2 (w R_s).v + 2 (w R_t).v: one matrix
    product for all moves of a random sample of units. The best moves are made together, half as many if that
    overshoots.
    """
    members = [(split == s)[:, None] for s in range(len(shares))]
    totals = np.stack([vectors.sum(axis=0, where=member, dtype=np.int64) for member in members]) + fixed
    sizes = totals.sum(axis=0)
    residual = totals - shares[:, None] * sizes
    weight = 1 / np.maximum(sizes, 1) ** 1.5  # between equal relative error (power 2) and chi-square (power 1)
    cost, together, idle = float((weight * residual**2).sum()), max(1, len(split) // 50), 0
    for _ in range(rounds):
        some = rng.choice(len(split), _CANDIDATES, replace=False) if len(split) > _CANDIDATES else np.arange(len(split))
        v, now = vectors[some].astype(np.float64), split[some]
        pull = 2 * v @ (weight * residual).T
        change = pull - np.take_along_axis(pull, now[:, None].astype(np.intp), 1) + 2 * (v**2 @ weight)[:, None]
        change[:, shares == 0] = np.inf
        change[np.arange(len(some)), now] = np.inf
        to = change.argmin(axis=1) if len(some) else now
        gain = -change[np.arange(len(some)), to]
        idle = 0 if len(some) and gain.max() > 1e-12 * max(cost, 1e-12) else idle + 1
        if idle > (3 if len(split) > _CANDIDATES else 0):
            break
        best = np.argsort(-gain, kind="stable")[: max(together, 1)]
        best = best[gain[best] > 0]
        while len(best):
            moved = residual.copy()
            np.subtract.at(moved, now[best], v[best])
            np.add.at(moved, to[best], v[best])
            new = float((weight * moved**2).sum())
            if new < cost:
                break
            best = best[: len(best) // 2]
        if len(best):
            residual, cost, together = moved, new, 2 * len(best)
            split[some[best]] = to[best]
    return split, cost


def _fill(split: np.ndarray, sizes: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Give an empty split the smallest block of a split that has several: few large blocks can leave one out."""
    for s in np.flatnonzero(shares):
        blocks = np.bincount(split, minlength=len(shares))
        spare = np.flatnonzero(blocks[split] > 1)
        if not blocks[s] and len(spare):
            split[spare[np.argmin(sizes[spare])]] = s
    return split


def _warn_of_large_blocks(codes: np.ndarray, names: pd.Index, split: np.ndarray, shares: np.ndarray) -> None:
    if not len(split):
        return
    reached = _bincount(split, len(shares)) / len(split)
    if np.abs(reached - shares).max() <= 0.05:
        return
    sizes = _bincount(codes, len(names))
    warnings.warn(
        f"partition: reached the shares {reached.round(3).tolist()} instead of {shares.round(3).tolist()} with "
        f"{len(names)} whole blocks of {len(split)} rows; the largest, {str(names[sizes.argmax()])!r}, has "
        f"{sizes.max()} rows. Use smaller blocks (for a grid, a smaller cell) to come closer.",
        stacklevel=3,
    )
