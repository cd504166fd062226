"""From a configuration to data ready for training: the table balanced, decoded and partitioned (section 2.2)."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from filelock import FileLock
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from mtclim.config import Config, project_root, resolve
from mtclim.data.images import ImageStore, open_store, same_picture
from mtclim.data.labels import SPLITS, lprus, partition
from mtclim.data.table import Table, TableError, read_table
from mtclim.machine import cores
from mtclim.tasks import SANTIAGO, Tasks


@dataclass(frozen=True)
class Data:
    """A table balanced and partitioned.

    ``kept`` (bool) stands over the table's annotated rows, ``split`` ("train", "val" or "test") over the kept ones; the
    index of both holds row positions of ``table.frame``. ``blocks`` and ``store`` follow ``split``; they are None where
    the table has neither blocks nor coordinates, and where images were not asked for. ``notes`` are sentences on what
    was found, left out or is too little to learn from.
    """

    table: Table
    kept: pd.Series
    split: pd.Series
    blocks: pd.Series | None
    store: ImageStore | None
    notes: list[str]

    @property
    def tasks(self) -> Tasks:
        """The table's tasks."""
        return self.table.tasks

    @property
    def codes(self) -> np.ndarray:
        """(n, N) int64 class positions of the kept rows, -1 = not annotated."""
        return self.table.codes[self.split.index]

    def rows(self, split: str) -> np.ndarray:
        """Positions among the kept rows of one split's readable images."""
        return np.flatnonzero((self.split == split).to_numpy() & (self.store is None or self.store.readable))

    def counts(self) -> pd.DataFrame:
        """Annotated images: one row a class, columns task, class, train, val, test."""
        classes = [(task, name) for task, names in self.tasks.items() for name in names]
        frame = pd.DataFrame(classes, columns=["task", "class"])
        for split in SPLITS:
            columns = self.codes[self.rows(split)].T
            each = [np.bincount(c[c >= 0], minlength=k) for c, k in zip(columns, self.tasks.sizes, strict=True)]
            frame[split] = np.concatenate(each)
        return frame


def settled(config: Config) -> Config:
    """The configuration with what depends on the machine filled in: number of threads and image size.

    Raises ValueError, before any image is read, for a backbone that timm does not know or that cannot read the size.
    """
    import torch

    from mtclim.weights import check_size

    size = config.image_size or (224 if torch.cuda.is_available() else 128)
    check_size(config.timm_name, size)
    return replace(config, image_size=size, threads=config.threads or cores())


def make_city_for(config: Config) -> Path:
    """The embedded city's table, made first if it isn't there."""
    from mtclim.city import make_city

    c = config
    name = (
        f"city-{c.city_facades}-{c.city_labelled}-{c.city_size}px"
        f"-i{c.interdependency:g}-a{c.ambiguity:g}-s{c.city_seed}"
    )
    name += f"-m{c.missing:g}" * (c.missing > 0) + f"-n{c.noise:g}" * (c.noise > 0)
    folder = project_root() / "data" / name
    folder.parent.mkdir(exist_ok=True)
    labels = {name: getattr(c, name) for name in ("interdependency", "ambiguity", "missing", "noise")}
    with FileLock(f"{folder}.lock"):
        return make_city(folder, c.city_facades, c.city_labelled, c.city_seed, c.city_size, **labels)


def load_table(config: Config, require_images: bool = True) -> Table:
    """The configuration's table of images; the embedded city is made first if it isn't there."""
    if config.data == "city":
        return read_table(make_city_for(config), SANTIAGO, require_images)
    tasks, root = (resolve(path) if path else None for path in (config.tasks, config.image_root))
    return read_table(resolve(config.data), tasks, require_images, True, root, config.na_values, config.use_split)


def prepare(config: Config, images: bool = True) -> Data:
    """Read and balance the table, decode the kept images once, and partition them.

    A table's own split is used as it is, and only its training rows are balanced. Else whole blocks are dealt out, and
    the photographs of one ``building``, and the same picture under several names, stay in one split; without ``images``
    such pictures are not seen. Raises TableError or ValueError, before any training, where it could not work.
    """
    config = settled(config) if images else config
    table = load_table(config, images)
    _check_class_weights(config.class_weights, table.tasks)
    labels = table.labels[(table.codes >= 0).any(1)]
    given = None if table.split is None else table.split.loc[labels.index]
    balanced = labels if given is None else labels[given == "train"]
    kept = pd.Series(True, labels.index, name="kept")
    kept[balanced.index] = lprus(balanced, config.keep, config.split_seed)
    labels = labels[kept]
    blocks = table.blocks(config.block_cell)
    blocks = None if blocks is None else blocks.iloc[labels.index]
    building = _buildings(table, labels.index)
    if building is not None and blocks is not None:  # one on the edge of two blocks is all in that of its first row
        blocks = blocks.groupby(building).transform("first")
    store, same, notes = None, np.arange(len(labels)), list(table.notes)
    if images:
        paths, names = [table.paths[row] for row in labels.index], table.frame["image"].iloc[labels.index]
        cache, most = project_root() / ".cache" / "images", config.max_unreadable
        store = open_store(paths, config.image_size, cache, max_unreadable=most, names=list(names))
        same = same_picture(store)
        notes += [*store.notes, *_contradictions(labels, same, names)]
    if given is None:
        shares = (config.train_share, config.val_share, config.test_share)
        with warnings.catch_warnings(record=True) as said:  # shares that whole blocks cannot reach
            split = partition(labels, _joined(building if blocks is None else blocks, same), shares, config.split_seed)
        notes += [str(warning.message) for warning in said]
    else:
        split = given.loc[labels.index]
    notes += _on_both_sides(split, {"blocks": blocks, "buildings": building}, same)
    data = Data(table, kept, split, blocks, store, notes)
    notes += _check_enough(data, config.variant)
    return data


def _buildings(table: Table, rows: pd.Index) -> pd.Series | None:
    """The building of some rows, one of its own where the cell is empty; None without such a column."""
    if "building" in table.tasks or "building" not in table.frame:
        return None
    return table.frame["building"].loc[rows].fillna(pd.Series([f"\0{row}" for row in rows], rows))


def _check_class_weights(weights: str | Mapping, tasks: Tasks) -> None:
    """ValueError where weights are given for a task or class that the table has not."""
    for task, by_class in weights.items() if isinstance(weights, Mapping) else ():
        known = tasks.get(str(task), ())
        unknown = [str(name) for name in by_class if str(name) not in known]
        if not known or unknown:
            found = f"{task!r}: {', '.join(unknown)}" if known else repr(task)
            raise ValueError(f"class_weights: found {found}; expected one of {list(known or tasks)}.")


def _joined(blocks: pd.Series | None, same: np.ndarray) -> pd.Series | np.ndarray | None:
    """What must stay together: blocks, those that share a picture as one; None where each row stands alone."""
    distinct = len(np.unique(same)) == len(same)
    if distinct or blocks is None:
        return blocks if distinct else same
    place, names = pd.factorize(blocks)
    nodes = len(names) + int(same.max()) + 1
    edges = coo_array((np.ones(len(same)), (place, len(names) + same)), (nodes, nodes))
    return connected_components(edges, directed=False)[1][place]


def _contradictions(labels: pd.DataFrame, same: np.ndarray, names: pd.Series) -> list[str]:
    """A sentence on pictures that occur several times with different labels."""
    repeated = pd.Series(same).duplicated(keep=False).to_numpy()
    found, where = [], labels[repeated].groupby(same[repeated])
    for _, rows in where:
        differ = [f"{t} {' and '.join(map(str, rows[t].dropna().unique()))}" for t in labels if rows[t].nunique() > 1]
        if differ:
            found.append(f"{', '.join(names[rows.index].head(3))} ({'; '.join(differ)})")
    more = f" and {len(found) - 5} more" if len(found) > 5 else ""
    return [f"Contradictory labels of one picture: {'; '.join(found[:5])}{more}."] if found else []


def _on_both_sides(split: pd.Series, groups: Mapping[str, pd.Series | None], same: np.ndarray) -> list[str]:
    """Sentences on pictures that occur several times, and on groups that stand in more than one split."""
    notes, sizes = [], np.bincount(same)
    repeated = sizes[sizes > 1]
    if len(repeated):
        apart, where = (split.groupby(same).nunique() > 1).sum(), "each in one split"
        if apart:
            where = f"{apart:,} of them stand in more than one split: scores come out too high"
        rows = f"{repeated.sum():,} rows, the same or nearly the same"
        notes.append(f"Pictures that occur several times: {len(repeated):,} ({rows}); {where}.")
    for kind, group in groups.items():
        apart = 0 if group is None else (split.groupby(group.to_numpy()).nunique() > 1).sum()
        if apart:
            several = f"{apart:,} of {group.nunique():,} {kind} have rows in more than one split"
            notes.append(f"{several}: it is not disjoint in space.")
    return notes


def _check_enough(data: Data, variant: str) -> list[str]:
    """Sentences on classes and tasks with too few rows; TableError where training could not work."""
    path, counts = data.table.path, data.counts()
    empty = [split for split in SPLITS if not len(data.rows(split))]
    if empty:
        largest = None if data.blocks is None else data.blocks.value_counts().max()
        blocks = f" in {data.blocks.nunique()} blocks, the largest of {largest}" if largest else ""
        raise TableError(
            f"{path}: no row is left for {' and '.join(empty)}: found {len(data.split)} balanced rows{blocks}; "
            "expected at least one whole block for each split. Name such rows in the column split, or set "
            "`use_split: false`, annotate more images, or use smaller blocks (in a grid: a smaller block_cell)."
        )
    if len(data.rows("train")) < 2:
        raise TableError(
            f"{path}: found one training row; expected two or more for batch normalisation. Annotate more."
        )
    # STC has nothing else to stop a task's network with, and its batch normalisation needs two rows.
    least = {"train": 2, "val": 1} if variant == "stc" else {"train": 1, "val": 0}
    by_task = counts.groupby("task", sort=False)[list(SPLITS)].sum()
    for task, rows in by_task.iterrows():
        if any(rows[split] < n for split, n in least.items()):
            raise TableError(
                f"{path}: column {task!r}: found {rows['train']} annotated training rows (validation: {rows['val']}, "
                f"test: {rows['test']}); expected at least {least['train']} ({least['val']}) with {variant}. Annotate "
                "more, or leave the column out of `tasks`."
            )
    notes = [f"{task}: no validation row; early stopping leaves it out." for task in by_task.index[by_task["val"] == 0]]
    for split, what, then in (("train", "training", "it cannot be learnt"), ("test", "test", "its scores are empty")):
        absent = counts[counts[split] == 0]
        if len(absent):
            notes.append(f"No {what} row of {', '.join(absent['task'] + ': ' + absent['class'])}; {then}.")
    return notes
