"""Label powerset: co-occurrence, balancing (LPRUS) and data partition (section 2.2 of the paper).

All functions take ``labels``, a DataFrame with one column a task (categorical, or any values: then classes in sorted
order), missing = not annotated. Rows are counted by *labelset*, a distinct combination of labels. A missing label is
one more value of its task.
"""

import math
import warnings
from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

SPLITS = ("train", "val", "test")
_GOLDEN = (math.sqrt(5) - 1) / 2
_FREQUENT = 32  # So many labelsets are balanced in their own right, beside every class.
_PASSES = 20  # Over all blocks; most often a few are enough until no move helps.
_STARTS = 20_000  # Few blocks are dealt several times over, since there the start matters.
_CLOSE = 0.015  # Shares further off than this are said to have been missed.


class _Bins(NamedTuple):
    """Labelsets of n rows: ids (n,), codes (L, N) with -1 = missing, counts (L,), classes by task."""

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
    has = [bins.codes[:, [n]] == np.arange(len(classes)) for n, classes in enumerate(bins.classes.values())]
    class_of = np.concatenate(has, axis=1).astype(float)  # (L, S)
    joint = class_of.T @ (bins.counts[:, None] * class_of)  # (S, S) rows with both classes
    with np.errstate(invalid="ignore"):
        for task in np.split(joint, np.cumsum([part.shape[1] for part in has])[:-1], axis=1):
            task /= task.sum(axis=1, keepdims=True)
    return pd.DataFrame(joint, index=names, columns=names)


def labelsets(labels: pd.DataFrame) -> pd.DataFrame:
    """The label powerset histogram (Fig. 7a): one row a labelset, columns tasks + ``:count``, most frequent first."""
    bins = _bins(labels)
    order = np.argsort(-bins.counts, kind="stable")
    columns = {
        task: pd.Categorical.from_codes(bins.codes[order, n], categories=classes, ordered=True)
        for n, (task, classes) in enumerate(bins.classes.items())
    }
    return pd.DataFrame({**columns, ":count": bins.counts[order]})


def cutoff(counts: Sequence[int], keep: float = 0.85) -> int:
    """LPRUS' cut-off point: the smallest integer c with sum_i min(n_i, c) >= keep * total (section 2.2.1).

    >>> cutoff([10, 4, 2], keep=0.75)
    6
    """
    if not 0 < keep <= 1:
        raise ValueError(f"keep is {keep!r}; expected a share of the rows in (0, 1], for example 0.85.")
    counts = np.asarray(counts, dtype=np.int64)
    goal = math.ceil(keep * int(counts.sum()))
    return bisect_left(range(int(counts.max(initial=0))), goal, key=lambda c: np.minimum(counts, c).sum())


def lprus(labels: pd.DataFrame, keep: float = 0.85, seed: int = 0) -> pd.Series:
    """Label-powerset random undersampling: a boolean Series, the rows to keep (section 2.2.1, Fig. 7).

    Labelset bins larger than the cut-off point are sampled down to it at random; the others are kept whole.

    Parameters
    ----------
    keep : The share of the rows to keep, in (0, 1]. It is reached or passed by less than one row a bin.
    seed : Which rows of the large bins are drawn.
    """
    bins = _bins(labels)
    order = np.random.default_rng(seed).permutation(len(labels))
    place = pd.Series(order).groupby(bins.ids[order]).cumcount().to_numpy()  # in its bin, in random order
    kept = np.empty(len(labels), dtype=bool)
    kept[order] = place < cutoff(bins.counts, keep)
    return pd.Series(kept, index=labels.index, name="kept")


def partition(
    labels: pd.DataFrame,
    blocks: Sequence | pd.Series | np.ndarray | None = None,
    shares: Sequence[float] = (0.65, 0.175, 0.175),
    seed: int = 0,
) -> pd.Series:
    """Train, validation and test rows: a categorical Series of "train", "val", "test" (section 2.2.2).

    The labelset bins are dealt out one after another in the given shares, the rarest first. With blocks, whole blocks
    are dealt, each with the bin of its rarest labelset. Then single blocks are moved as long as that brings the shares
    of all rows, of each class and of the frequent labelsets closer to what is wanted.

    Parameters
    ----------
    blocks : The block of each row, matched by position. Without blocks the split isn't spatially disjoint.
    shares : The wanted shares of train, validation and test, whose sum is 1.
    seed : Which of the many equally good partitions is drawn.

    Raises
    ------
    ValueError
        If a block is missing, if there is not one block a row, or if the shares are none. Blocks too large for the
        shares are a warning: the splits are then as close as whole blocks allow, and none with a positive share is
        empty if there are blocks enough.
    """
    wanted = np.asarray(shares, dtype=float)
    if wanted.shape != (3,) or not (wanted >= 0).all() or abs(wanted.sum() - 1) > 1e-6:
        raise ValueError(f"shares are {shares!r}; expected three shares (train, val, test) >= 0 whose sum is 1.")
    bins = _bins(labels)
    blocks = pd.Series(range(len(labels)) if blocks is None else blocks, copy=False)
    if len(blocks) != len(labels):
        raise ValueError(f"blocks: found {len(blocks)} for {len(labels)} rows of labels; expected one a row, in order.")
    if blocks.hasnans:
        first = np.flatnonzero(blocks.isna())[:5].tolist()
        raise ValueError(f"blocks: missing at positions {first}; give every row a block, or leave these rows out.")
    codes, names = pd.factorize(blocks)
    split = _deal(bins, codes, wanted, np.random.default_rng(seed))[codes]
    reached = np.bincount(split, minlength=3) / max(len(split), 1)
    if len(names) < len(split) and np.abs(reached - wanted).max() > _CLOSE:
        sizes = np.bincount(codes)
        warnings.warn(
            f"partition: reached the shares {reached.round(3).tolist()} instead of {wanted.round(3).tolist()} with "
            f"{len(names)} whole blocks of {len(split)} rows; the largest, {str(names[sizes.argmax()])!r}, has "
            f"{sizes.max()} rows. Use smaller blocks (for a grid, a smaller cell) to come closer.",
            stacklevel=2,
        )
    return pd.Series(pd.Categorical.from_codes(split, categories=list(SPLITS)), index=labels.index, name="split")


def _bins(labels: pd.DataFrame) -> _Bins:
    if not isinstance(labels, pd.DataFrame) or not labels.shape[1] or not labels.columns.is_unique:
        found = f"columns {list(labels.columns)}" if isinstance(labels, pd.DataFrame) else type(labels).__name__
        raise ValueError(f"labels: found {found}; expected a DataFrame with one column a task (table.labels has it).")
    ordered = {
        task: column if isinstance(column.dtype, pd.CategoricalDtype) else column.astype("category")
        for task, column in labels.items()
    }
    rows = pd.DataFrame({n: column.cat.codes.to_numpy() for n, column in enumerate(ordered.values())})
    groups = rows.groupby(list(rows))
    counts = groups.size()
    codes = counts.index.to_frame().to_numpy()
    classes = {task: column.cat.categories for task, column in ordered.items()}
    return _Bins(groups.ngroup().to_numpy(), codes, counts.to_numpy(), classes)


def _deal(bins: _Bins, blocks: np.ndarray, shares: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Deal the blocks out to the splits: (B,) int8. ``blocks`` (n,) is the block of each row."""
    rank = np.argsort(np.argsort(bins.counts, kind="stable"))[bins.ids]  # of each row's labelset, the rarest first
    rarest = pd.Series(rank).groupby(blocks).min().to_numpy()
    counts, weight = _counts(bins, blocks, len(rarest))
    best, least = np.zeros(len(rarest), np.int8), np.inf
    for _ in range(1 + _STARTS // (len(rarest) + 100)):
        # Multiples of the golden ratio, modulo 1, lie so evenly that every stretch of them has nearly the shares.
        place = (np.arange(len(rarest)) * _GOLDEN + rng.random()) % 1
        split = np.empty_like(best)
        split[np.lexsort((rng.random(len(rarest)), rarest))] = np.searchsorted(np.cumsum(shares)[:-1], place, "right")
        cost = _move(counts, weight, split, shares)
        best, least = (split, cost) if cost < least else (best, least)
    for s in np.flatnonzero(shares):  # A few large blocks can leave a split empty: it gets the smallest spare one.
        held = np.bincount(best, minlength=3)
        spare = np.flatnonzero(held[best] > 1)
        if not held[s] and len(spare):
            best[spare[np.argmin(counts[spare, 0])]] = s
    return best


def _move(counts: np.ndarray, weight: np.ndarray, split: np.ndarray, shares: np.ndarray) -> float:
    """Move blocks, in place, while that lowers sum_sj w_j (T_sj - share_s N_j)^2; returns that cost.

    T_sj is count j in split s, N_j in all.
    """
    rest = np.stack([counts[split == s].sum(axis=0, dtype=float) for s in range(3)])
    rest -= shares[:, None] * rest.sum(axis=0)
    closed = np.where(shares > 0, 0, np.inf)
    for _ in range(_PASSES):
        pull = counts @ (weight * rest).T + closed
        gain = pull[np.arange(len(split)), split] - pull.min(axis=1) - counts**2 @ weight
        promising = np.flatnonzero(gain > 1e-9)
        if not len(promising):
            break
        for block in promising[np.argsort(-gain[promising], kind="stable")]:
            rest[split[block]] -= counts[block]
            split[block] = np.argmin(rest @ (weight * counts[block]) + closed)
            rest[split[block]] += counts[block]
    return float((weight * rest**2).sum())


def _counts(bins: _Bins, blocks: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
    """What is to be alike in the splits: rows of each block (B, J), and the weight (J,) of each count.

    Counted are all rows, whose shares matter most, the frequent labelsets, and every value of every task.
    """
    ids = np.arange(len(bins.counts))
    frequent = np.argsort(-bins.counts, kind="stable")[:_FREQUENT]
    values = [codes == value for codes in bins.codes.T for value in np.unique(codes)]
    has = [ids >= 0, *(ids == one for one in frequent), *values]
    importance = np.array([10.0] + [0.05] * len(frequent) + [1.0] * len(values))
    counts = np.stack([np.bincount(blocks, one[bins.ids], minlength=number) for one in has], axis=1)
    # The power lies between chi-square's (1) and that of equal relative errors (2).
    return counts.astype(np.float32), importance / np.maximum(counts.sum(axis=0), 1) ** 1.2
