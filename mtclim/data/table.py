"""Tables of images: one row an image, one column a task; read strictly, so that a mistake is one clear error.

Reading ends in notes: which columns are tasks, which were left out and why, what was taken as missing. Names of columns
are stripped of spaces; the `RESERVED` ones are found in any case, and have a meaning of their own, which
`mtclim.data.columns` reads. Paths of images are data: they are used as they are in the table.
"""

import difflib
import hashlib
import json
import os
import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mtclim.data import columns
from mtclim.data.columns import grid_blocks
from mtclim.data.reading import MISSING, URL, Source, TableError, numbers, numeric, read_frame, some
from mtclim.tasks import Tasks

RESERVED = (
    "image", "lon", "lat", "geometry", "block", "building", "weight", "id", "split", "municipality", "bearing",
    "field_of_view",
)  # fmt: skip
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_SPREADSHEET_ERRORS = ["#REF!", "#VALUE!", "#DIV/0!", "#NAME?", "#NULL!", "#NUM!"]


@dataclass(frozen=True)
class Table:
    """A table that was read and checked.

    ``frame`` has a RangeIndex and the column ``image`` (as given). It may have ``lon`` and ``lat`` (degrees of
    EPSG:4326), ``bearing`` (degrees clockwise from north, in [0, 360)), ``weight`` (1 where it was empty), ``block``,
    ``building`` and ``municipality`` (str, missing where empty) and ``split`` (train, val or test). Each task is an
    ordered categorical, missing where not annotated. ``notes`` are sentences about what was made of the columns,
    ``image_root`` is the folder of the images, and ``paths`` are absolute, as they are found on the disk.
    """

    frame: pd.DataFrame
    tasks: Tasks
    path: Path
    notes: Sequence[str]
    image_root: Path
    paths: Sequence[Path]

    @property
    def labels(self) -> pd.DataFrame:
        """The task columns."""
        return self.frame[list(self.tasks)]

    @property
    def codes(self) -> np.ndarray:
        """Targets (n, N) int64, -1 = not annotated."""
        return np.stack([self.frame[task].cat.codes.to_numpy(np.int64) for task in self.tasks], axis=1)

    @property
    def has_coordinates(self) -> bool:
        """Whether ``lon`` and ``lat`` are there."""
        return "lon" in self.frame

    @property
    def split(self) -> pd.Series | None:
        """The table's own split of its rows (train, val or test), None if it has none or it is not used."""
        return self.frame.get("split")

    @cached_property
    def digest(self) -> str:
        """SHA-256 of what is used: tasks, names of images, labels, coordinates, blocks and split.

        It does not depend on how the table's path, or a name of an image, is spelt.
        """
        digest = hashlib.sha256(json.dumps(self.tasks.to_dict()).encode())
        root = str(self.image_root)
        names = [unicodedata.normalize("NFC", name.replace("\\", "/").strip()) for name in self.frame["image"]]
        names = [os.path.relpath(name, root) if os.path.isabs(name) else os.path.normpath(name) for name in names]
        digest.update(json.dumps(["image", *names]).encode())
        for column in ("block", "split"):
            if column in self.frame:
                digest.update(json.dumps([column, *self.frame[column].fillna("")]).encode())
        for column in ("lon", "lat"):
            if column in self.frame:
                digest.update(self.frame[column].to_numpy("<f8").tobytes())
        digest.update(np.ascontiguousarray(self.codes, "<i8").tobytes())
        return digest.hexdigest()

    def blocks(self, cell: float = 500.0) -> pd.Series | None:
        """Blocks of the rows: the ``block`` column, else a grid of ``cell`` metres, else None (no coordinates)."""
        if "block" in self.frame:
            return self.frame["block"]
        return grid_blocks(self.frame["lon"], self.frame["lat"], cell) if self.has_coordinates else None


def read_table(
    path: str | Path,
    tasks: Tasks | Mapping[str, Sequence[str]] | str | Path | None = None,
    require_images: bool = True,
    require_labels: bool = True,
    image_root: str | Path | None = None,
    na_values: Iterable[str] | None = None,
    use_split: bool = True,
) -> Table:
    """Read and check a table of images of any kind that `mtclim.data.reading.read_frame` reads.

    Parameters
    ----------
    tasks : Tasks, a mapping, or the path of a YAML, naming tasks and the order of their classes. Without it every
        column is a task that looks like one; its classes are what occurs, in natural order (1, 2, 10, 10+) or in that
        of a Parquet file's ordered categories.
    require_images : Check that every image file exists.
    require_labels : False is for prediction: task columns may be empty or absent, single rows may lack position or
        block, and a column ``split`` is left out.
    image_root : The folder that the images' names are relative to, by default the table's, which is looked into as
        well. Absolute paths to any place are allowed only if it is given.
    na_values : The texts that mean "missing" beside empty cells, by default `mtclim.data.reading.MISSING`. A class that
        ``tasks`` lists is never missing.
    use_split : Use a column ``split`` that holds train, val and test.

    Raises
    ------
    TableError
        For whatever cannot be read as meant.
    """
    source = read_frame(path)
    path = source.path = Path(os.path.realpath(source.path.parent), source.path.name)
    one = isinstance(na_values, str | int | float)
    source.missing = MISSING if na_values is None else [na_values] if one else list(na_values)
    given = None if tasks is None else _as_tasks(source, tasks)
    listed = set(given or ())
    source.frame = frame = _renamed(source, listed)
    if "image" not in frame or not len(frame):
        found = "the table has no rows" if "image" in frame else f"no column 'image'; found {some(frame.columns)}"
        source.fail(found, "give one row an image, and its path in the column 'image'")
    frame["image"] = source.cells("image", clean=False)
    source.check(frame["image"] == "", "no image", "name an image in every row, or leave these rows out", "image")
    columns.read_positions(source, listed, require_labels)
    ordinary = columns.ordinary(source, listed)
    columns.read_bearing(source, ordinary | listed)
    columns.read_texts(source, ordinary | listed, require_labels)
    columns.read_weight(source)
    columns.read_split(source, use_split and require_labels)
    chosen = _chosen(source, given, ordinary, require_labels)
    frame = source.frame.drop(columns=list(ordinary - set(chosen)))
    for task, classes in chosen.items():
        frame[task] = _labels(source, task, classes, require_labels)
    root = Path(os.path.realpath(image_root)) if image_root else path.parent
    paths = _find_images(source, str(root), bool(image_root), require_images)
    return Table(frame, chosen, path, tuple(source.notes), root, paths)


def _as_tasks(source: Source, tasks: Any) -> Tasks:
    """Tasks, a mapping or the path of a YAML as tasks whose names and classes a table can have."""
    try:
        if isinstance(tasks, str | Path):
            tasks = Tasks.from_yaml(tasks)
        elif not isinstance(tasks, Tasks):
            tasks = Tasks(tasks)
    except (ValueError, OSError) as error:
        raise TableError(f"{source.path}: the tasks cannot be read. {error}") from error
    for task, classes in tasks.items():
        if task.lower() in RESERVED and task.lower() not in ("building", "bearing"):
            source.fail("this name cannot be a task, because it has a meaning of its own", "rename the task", task)
        if len({" ".join(name.split()) for name in classes}) < len(classes) or any(map(_CONTROL.search, classes)):
            problem = "two of its classes differ only in spaces, or one holds a line break or other control character"
            source.fail(problem, "rename the class", task)
    return tasks


def _renamed(source: Source, listed: Collection[str]) -> pd.DataFrame:
    """A copy with a RangeIndex and clean, distinct column names."""
    names = [" ".join(str(column).split()) for column in source.frame.columns]
    names = [name.lower() if name.lower() in RESERVED and name not in listed else name for name in names]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        source.fail("two columns have this name (spaces don't count)", "rename one", twice[0])
    return source.frame.set_axis(names, axis=1).reset_index(drop=True)


def _find_images(source: Source, root: str, anywhere: bool, require: bool) -> list[Path]:
    """Absolute paths of the images; ``anywhere``: whether absolute names may lead out of the root."""
    names = source.frame["image"]
    web = [bool(URL.match(name)) for name in names]
    problem = "an address on the internet (URL), not a file"
    source.check(web, problem, "download the photographs, and name the files", "image")
    paths = [_locate(name, root, str(source.path.parent)) for name in names]
    away = pd.Series([not _within(path, root) for path in paths]) & ~(names.map(os.path.isabs) & anywhere)
    problem = f"the path leaves {'image_root' if anywhere else 'the folder of the table'}"
    mend = "name the images relative to a folder above them, and give that folder as image_root"
    source.check(away, problem, mend, "image")
    repeated = pd.Series(map(os.path.normpath, paths)).duplicated(keep=False)
    source.check(repeated, "the same image more than once", "keep one row an image", "image")
    absent = [require and not os.path.exists(path) for path in paths]
    mend = f"check the paths, which are relative to {root}, leave these rows out, or give another image_root"
    source.check(absent, "no such file", mend, "image")
    return [Path(path) for path in paths]


def _locate(name: str, root: str, beside: str) -> str:
    """Where an image is, under the root or beside the table: as it stands, with slashes, recomposed, or stripped."""
    slashes = name.replace("\\", "/")
    names = [name, slashes, *(unicodedata.normalize(form, slashes) for form in ("NFC", "NFD")), slashes.strip()]
    paths = (os.path.join(folder, spelt) for folder in (root, beside) for spelt in names)
    return next(filter(os.path.exists, paths), os.path.join(root, slashes))


def _within(path: str, folder: str) -> bool:
    inside = folder.rstrip(os.sep) + os.sep
    return os.path.normpath(path).startswith(inside) or os.path.realpath(path).startswith(inside)


def _chosen(source: Source, given: Tasks | None, ordinary: Collection[str], require_labels: bool) -> Tasks:
    """The tasks: the given ones, else the columns that look like classes. The notes say what is left out and why."""
    names = list(source.frame.columns)
    for task in given or ():
        if task not in names and require_labels:
            found = f"the task has no column in the table; found {some(names)}{_like(task, names)}"
            source.fail(found, "rename the column or the task", task)
    classes, left = {}, {}
    for name in names:
        if name in ("image", "lon", "lat", *(given or ())):
            continue
        if name in RESERVED and name not in ordinary:
            reason = "the name has a meaning of its own"
        elif given:
            reason = "not among the given tasks"
        elif name.startswith(("_", "Unnamed:")):
            reason = "a name like this marks what is no task"
        else:
            found, reason = _classes(source, name)
            if not reason:
                classes[name] = found
                continue
        left.setdefault(reason, []).append(name)
    if not (given or classes):
        why = "".join(f"; {some(columns)}: {reason}" for reason, columns in left.items())[:1500]
        mend = "add one column a task, or list tasks and classes in a YAML"
        source.fail(f"no column is a task; found {some(names)}{why}", mend)
    tasks = given or _as_tasks(source, classes)
    listed = ", ".join(f"{tasks.title(task)} ({len(names)} classes)" for task, names in tasks.items())
    source.notes.insert(0, f"Tasks: {listed}.")
    source.notes += [f"Not tasks: {some(columns)} ({reason})." for reason, columns in left.items()]
    for task, names in tasks.items():
        for _, alike in pd.Series(names).groupby([_look(name) for name in names]):
            if len(alike) > 1:
                source.notes.append(f"Column {task!r}: the classes {some(alike)} look alike.")
    return tasks


def _like(name: str, names: Iterable[str]) -> str:
    names = {other.lower(): other for other in names}
    close = difflib.get_close_matches(name.lower(), names, n=1)
    return f" (did you mean {names[close[0]]!r}?)" if close else ""


def _look(name: str) -> str:
    """What the eye sees of a name: neither case, nor leading zeros, nor which space, dash or decimal mark it is."""
    plain = unicodedata.normalize("NFKC", name).casefold().replace(",", ".")
    return re.sub(r"(?<![0-9.])0+(?=[0-9])", "", re.sub(r"[\s_\-\u2010-\u2015]+", " ", plain))


def _classes(source: Source, column: str) -> tuple[list[str], str]:
    """The classes that occur in a column, in order, and the reason if they don't look like those of a task."""
    found, dates = source.cells(column), source.frame[column].map(lambda cell: isinstance(cell, date))
    if dates.any() and dates[found != ""].all():
        return [], "dates"
    mend = "write the cells as text, since spreadsheets make a date of 3-4"
    source.check(dates, "a date among other values", mend, column)
    broken = found.isin(_SPREADSHEET_ERRORS)
    source.check(broken, "a spreadsheet error", "mend the cells in the spreadsheet", column)
    found = found[found != ""]
    number = numeric(found)
    if number:
        found = _whole(found)
    if getattr(source.frame[column].dtype, "ordered", False):
        names = found.groupby(source.frame[column].cat.codes).first().drop_duplicates().tolist()
    else:
        names = sorted(found.unique(), key=_natural)
        names = [names[i] for i in np.argsort(numbers(names), kind="stable")] if number else names
    if not names:
        return names, "no row has a label"
    if len(names) == 1:
        return names, f"the only class is {names[0][:60]!r}; a task has two or more"
    if any(len(name) > 200 or _CONTROL.search(name) for name in names):
        return names, "a class name of more than 200 characters, or with control characters"
    values, rows = numbers(names), len(found)
    counted = number and not (values % 1).any() and (np.abs(values) < 100).all() and rows >= 50 * len(names)
    many = len(names) > 20 and not counted and (number or rows < 2 * len(names))
    if many or len(names) > 1000:  # a YAML that lists more is taken at its word
        what = "numbers" if number else "values"
        return names, f"{len(names)} distinct {what} in {rows} rows are no classes, for example {some(names, 3)}"
    return names, ""


def _natural(name: str) -> tuple:
    """Sorts 1, 2, 10, 10+ and H1, H2, H3-4 as a person does."""
    parts = re.split(r"([0-9]+)", name)
    return [int(part) if i % 2 else part.casefold() for i, part in enumerate(parts)], name


def _whole(texts: pd.Series) -> pd.Series:
    """Whole numbers without their decimals; 1,000 may be a thousand and stays."""
    return texts.str.replace(r"^([+-]?[0-9]+)(?:\.0+|,0{1,2}|,0{4,})$", r"\1", regex=True)


def _labels(source: Source, task: str, classes: Sequence[str], require: bool) -> pd.Categorical:
    """The column as an ordered categorical of the task's classes."""
    if task not in source.frame:
        source.frame[task] = None
    found = source.cells(task, keep=classes, means="not annotated; `na_values: []` keeps it a class")
    names = pd.Series(classes).str.split().str.join(" ")
    known = dict(zip(_whole(names)[::-1], classes[::-1], strict=True)) | dict(zip(names, classes, strict=True))
    labels = found.map(known).fillna(_whole(found).map(known))
    wrong = labels.isna() & (found != "")
    near = _like(found[wrong].iloc[0], classes) if wrong.any() else ""
    mend = f"expected one of {some(classes)}, or an empty cell; correct the cells or the tasks' YAML"
    source.check(wrong, f"unknown class{near}", mend, task)
    if require and labels.isna().all():
        source.fail("no row has a label", "annotate some rows, or leave the task out of the YAML", task)
    return pd.Categorical(labels, categories=list(classes), ordered=True)
