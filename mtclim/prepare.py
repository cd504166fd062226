"""From a configuration to data ready for training: the table balanced, partitioned and decoded (section 2.2)."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from filelock import FileLock

from mtclim.config import Config, project_root, resolve
from mtclim.data.images import ImageStore, open_store
from mtclim.data.labels import lprus, partition
from mtclim.data.table import Table, TableError, grid_blocks, read_table
from mtclim.tasks import SANTIAGO

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Data:
    """A table balanced and partitioned: ``kept`` (bool) over its annotated rows, ``split`` over the kept ones.

    Both are Series whose index holds row positions of ``table.frame``. ``store`` (or None) holds the images of the kept rows, in
    the order of ``split``; ``blocks`` is aligned with ``split``, None where the split is not spatially disjoint.
    """

    table: Table
    kept: pd.Series
    split: pd.Series
    blocks: pd.Series | None
    store: ImageStore | None

    @property
    def codes(self) -> np.ndarray:
        """(n, N) int64 class positions of the kept rows, -1 = not annotated."""
        return self.table.codes[self.split.index]

    def rows(self, split: str) -> np.ndarray:
        """Positions among the kept rows of one split's readable images."""
        return np.flatnonzero((self.split == split).to_numpy() & (self.store is None or self.store.readable))


def make_city_for(config: Config) -> Path:
    """The embedded city's table, made first if it isn't there."""
    from mtclim.city import make_city

    c = config
    name = f"city-{c.city_facades}-{c.city_labelled}-{c.city_size}px-i{c.interdependency:g}-a{c.ambiguity:g}-s{c.city_seed}"
    name += f"-m{c.missing:g}" * (c.missing > 0) + f"-n{c.noise:g}" * (c.noise > 0)
    folder = project_root() / "data" / name
    folder.parent.mkdir(exist_ok=True)
    with FileLock(f"{folder}.lock"):
        return make_city(
            folder, facades=c.city_facades, labelled=c.city_labelled, seed=c.city_seed, size=c.city_size,
            interdependency=c.interdependency, ambiguity=c.ambiguity, missing=c.missing, noise=c.noise,
        )  # fmt: skip


def load_table(config: Config, require_images: bool = True) -> Table:
    """The configuration's table of images; the embedded city is made first if it isn't there."""
    if config.data == "city":
        return read_table(make_city_for(config), SANTIAGO, require_images)
    tasks = resolve(config.tasks) if config.tasks else None
    return read_table(resolve(config.data), tasks, require_images)


def prepare(config: Config, images: bool = True) -> Data:
    """Read, balance (LPRUS) and partition the table, and decode the kept images once (``images=False``: don't).

    Raises TableError, before any training, where no row is usable, a split is empty or a class has no row in training.
    """
    table = load_table(config, images)
    annotated = np.flatnonzero((table.codes >= 0).any(1))
    if not len(annotated):
        raise TableError(
            f"{table.path}: no row is annotated in any of {list(table.tasks)}; expected labels in these columns."
        )
    labels = table.labels.iloc[annotated]
    kept = lprus(labels, config.keep, config.split_seed)
    labels = labels[kept]
    blocks = _blocks(table, config)
    blocks = None if blocks is None else blocks.iloc[labels.index]
    shares = (config.train_share, config.val_share, config.test_share)
    split = partition(labels, blocks, shares, config.split_seed)
    _check_splits(table, split, shares, blocks)
    _check_classes(table, split)
    store = None
    if images:
        paths = [table.paths[row] for row in split.index]
        store = open_store(
            paths, config.image_size, project_root() / ".cache" / "images", max_unreadable=config.max_unreadable
        )
    return Data(table, kept, split, blocks, store)


def _blocks(table: Table, config: Config) -> pd.Series | None:
    if "block" in table.frame:
        return table.frame["block"]
    if table.has_coordinates:
        return grid_blocks(table.frame["lon"], table.frame["lat"], config.block_cell)
    return None


def _check_splits(table: Table, split: pd.Series, shares: tuple[float, ...], blocks: pd.Series | None) -> None:
    empty = [name for name, share in zip(SPLITS, shares, strict=True) if share and not (split == name).any()]
    if empty:
        where = "" if blocks is None else f" in {blocks.nunique()} blocks, the largest of {blocks.value_counts().max()}"
        raise TableError(
            f"{table.path}: no row is left for {' and '.join(empty)}: found {len(split)} balanced rows{where}; expected at least "
            "one whole block for each split. Annotate more images, or use smaller blocks (in a grid: a smaller block_cell)."
        )


def _check_classes(table: Table, split: pd.Series) -> None:
    codes = table.codes[split.index[split == "train"]]
    for n, (task, names) in enumerate(table.tasks.items()):
        counts = np.bincount(codes[codes[:, n] >= 0, n], minlength=len(names))
        if not counts.all():
            absent = [name for name, count in zip(names, counts, strict=True) if not count]
            rows = [int((table.frame[task] == name).sum()) for name in absent]
            raise TableError(
                f"{table.path}: column {task!r}: no training row of class {', '.join(absent[:5])} ({rows[:5]} rows in the "
                f"table, {len(codes)} training rows); expected at least one of each. Annotate more, merge or drop the class."
            )
