"""Photographs to predict: the files of a list, a folder or a table, where each was taken, and decoding ahead."""

import os
import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice, repeat
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import ExifTags, Image, UnidentifiedImageError

from mtclim import machine
from mtclim.data import images
from mtclim.data.reading import URL, TableError, row_count
from mtclim.data.table import grid_blocks, read_table
from mtclim.files import whole_or_absent
from mtclim.tasks import Tasks

CARRIED = ("building", "weight", "municipality")
"""Columns of a table that predictions keep."""
_NO_UTF8 = re.compile("[\ud800-\udfff]")  # what stands in a name for bytes that are no UTF-8

# ---------------------------------------------------------------- where a photograph was taken


def exif_place(path: str | Path) -> tuple[float, float, float, str]:
    """Longitude, latitude and bearing of a photograph in degrees, from its EXIF data, and why it has no position.

    A bearing from magnetic north is taken as it is.

    A position is doubtful where its reference is unknown or empty, where degrees, minutes or seconds are impossible,
    and where it is exactly (0, 0).
    """
    try:
        if not os.path.isfile(path):
            raise FileNotFoundError("no such file, or not a file")
        try:
            with Image.open(path, formats=images.FORMATS) as picture:
                gps = picture.getexif().get_ifd(ExifTags.IFD.GPSInfo)
        except UnidentifiedImageError:
            images.is_panorama(path)  # its error says what the file is
            raise
    except Exception as error:  # Pillow raises many kinds of error for damaged files
        return np.nan, np.nan, np.nan, f"cannot be read: {str(error) or type(error).__name__}"
    direction = pd.to_numeric(str(gps.get(17)), errors="coerce")  # GPSImgDirection
    bearing = direction % 360 if 0 <= direction <= 360 else np.nan
    try:
        if 2 not in gps or 4 not in gps:
            raise ValueError("no GPS position in its EXIF data")
        lat = _degrees(gps[2], gps.get(1), {"N": 1, "S": -1}, 90)
        lon = _degrees(gps[4], gps.get(3), {"E": 1, "W": -1}, 180)
        if lon == lat == 0:
            raise ValueError("doubtful GPS position: 0, 0 is what a receiver without a fix writes")
        return lon, lat, bearing, ""
    except (TypeError, ZeroDivisionError):
        return np.nan, np.nan, bearing, "doubtful GPS position: it is not made of numbers"
    except ValueError as error:
        return np.nan, np.nan, bearing, str(error)


def _degrees(value: object, reference: object, signs: Mapping[str, int], most: float) -> float:
    """Signed degrees from degrees, minutes and seconds, or from decimal degrees; ValueError where they are doubtful."""
    text = reference.decode("ascii", "replace") if isinstance(reference, bytes) else str(reference or "")
    name = text.strip("\0 \t\r\n").upper()
    if name[:1] not in signs:  # "S" may also be "South"
        raise ValueError(f"doubtful GPS position: its reference is {name!r}, expected {' or '.join(signs)}")
    parts = np.atleast_1d(np.asarray(value, float))
    degrees = float(parts @ 60.0 ** -np.arange(len(parts)))
    if not ((parts >= 0).all() and (parts[1:] <= 60).all() and degrees <= most):
        raise ValueError(f"doubtful GPS position: {' '.join(f'{part:g}' for part in parts)} {name} is impossible")
    return signs[name[0]] * degrees


def mean_longitude(lon: pd.Series, group: Any) -> pd.Series:
    """The mean longitude of each group in degrees, also of one that lies on both sides of 180 degrees.

    Parameters
    ----------
    lon, group : Degrees (n,), and what they are grouped by, as pandas' groupby takes it.
    """
    first = lon.groupby(group).transform("first")
    near = first + (lon - first + 180) % 360 - 180
    return (near.groupby(group).mean() + 180) % 360 - 180


def check_placed(predictions: pd.DataFrame) -> None:
    """ValueError where no row has a position."""
    if not predictions.reindex(columns=["lon", "lat"]).notna().all(axis=1).any():
        raise ValueError(f"found no position in {row_count(len(predictions))}; add lon and lat to the table.")


# ---------------------------------------------------------------- what is to be predicted


def read_source(
    source: str | Path | Sequence[str | Path],
    tasks: Tasks,
    require_position: bool = True,
    image_root: str | Path | None = None,
    na_values: Iterable[str] | None = None,
    block_cell: float = 500.0,
) -> pd.DataFrame:
    """Find the photographs of a list of files, of a folder (with its sub-folders), or of a table.

    Parameters
    ----------
    require_position : Whether it is an error that no row of a table has a position.
    image_root, na_values : As in :func:`mtclim.data.table.read_table`.
    block_cell : Where no block is known, blocks are those of a grid of so many metres.

    Returns
    -------
    DataFrame
        One row each: image (the name), path, lon, lat and bearing in degrees (those of files from EXIF data), block,
        what a table has of ``CARRIED`` and as ``<task>:true`` of ``tasks``, and reason: why there is no position, else
        "". ``attrs`` have folder, which names are relative to, and others: how many of a folder's files are not
        photographs, by suffix, and how many folders were not looked into.
    """
    if isinstance(source, pd.DataFrame):
        raise ValueError("source: found a DataFrame; expected files, such as list(frame['image']), or a saved table.")
    given = [source] if isinstance(source, (str, Path)) else list(source)
    web = [str(name) for name in given if URL.match(str(name))]
    if web or not given:
        found = f"an address on the internet (URL), {web[0]!r}" if web else "an empty list"
        raise ValueError(f"source: found {found}; expected photographs, a folder or a table on this machine.")
    paths = [Path(path) for path in given]
    if isinstance(source, (str, Path)) and paths[0].is_dir():
        frame = _read_folder(paths[0])
    elif isinstance(source, (str, Path)) and paths[0].suffix.lower() not in images.SUFFIXES:
        frame = _read_rows(paths[0], tasks, require_position, image_root, na_values)
    else:
        frame = _read_files(paths, [str(path) for path in given])
    placed = frame.dropna(subset=["lon", "lat"])
    if len(placed) and frame["block"].isna().all():
        frame["block"] = grid_blocks(placed["lon"], placed["lat"], block_cell)
    frame["block"] = frame["block"].astype(object)
    frame.attrs = {"folder": None, "others": {}} | frame.attrs
    return frame


def _read_files(paths: Sequence[Path], names: Sequence[str]) -> pd.DataFrame:
    with ThreadPoolExecutor(machine.cores()) as pool:
        frame = pd.DataFrame(list(pool.map(exif_place, paths)), columns=["lon", "lat", "bearing", "reason"])
    frame.insert(0, "image", names)
    return frame.assign(path=[str(path) for path in paths], block=None)


def _read_folder(folder: Path) -> pd.DataFrame:
    paths, others = [], Counter()

    def unreadable(error: OSError) -> None:
        others["unreadable folder"] += 1

    for root, folders, names in os.walk(folder, onerror=unreadable):
        others["linked folder"] += sum(os.path.islink(os.path.join(root, name)) for name in folders)  # not followed
        for path in (Path(root, name) for name in names):
            if _NO_UTF8.search(str(path)):
                others["name that is no UTF-8"] += 1
            elif path.suffix.lower() in images.SUFFIXES:
                paths.append(path)
            else:
                others[path.suffix.lower() or "no suffix"] += 1
    paths.sort()
    others = +others  # without what is counted 0 times
    if not paths:
        found = ", ".join(f"{count} x {suffix}" for suffix, count in others.most_common(5)) or "no file"
        raise FileNotFoundError(f"{folder}: found no photograph ({found}); expected files such as .jpg, .png or .tif.")
    frame = _read_files(paths, [path.relative_to(folder).as_posix() for path in paths])
    frame.attrs = {"folder": str(folder), "others": dict(others)}
    return frame


def _read_rows(path: Path, tasks: Tasks, require_position: bool, image_root, na_values) -> pd.DataFrame:
    table = read_table(path, tasks, False, False, image_root, na_values)
    known = table.frame.drop(columns=list(tasks))  # a task may be called building or bearing
    frame = known.reindex(columns=["image", "lon", "lat", "bearing", "block", *(c for c in CARRIED if c in known)])
    frame["path"] = [str(path) for path in table.paths]
    frame = frame.join(table.labels.dropna(axis=1, how="all").astype(object).add_suffix(":true"))
    placed = frame[["lon", "lat"]].notna().all(axis=1)
    if require_position and not placed.any():
        mend = "add lon and lat columns, or predict with --without-position (require_position=False)"
        raise TableError(f"{path}: no image has a position; {mend}.")
    frame["reason"] = np.where(placed, "", "no position (lon, lat) in the table")
    frame.attrs = {"folder": str(table.image_root)}
    return frame


# ---------------------------------------------------------------- decoding, ahead of the model


def _decode(path: str, row: int, batch: dict[int, np.ndarray]) -> tuple[str, str, bool]:
    """Decode a photograph into its row of a batch, at every size; what :func:`decoded_batches` says of it."""
    try:
        content = Path(path).read_bytes() if os.path.isfile(path) else path  # what is no file has its own reason
        for size, pixels in batch.items():
            pixels[row] = images.decode(content, size)
        return images.digest_of(content), "", images.is_panorama(content)
    except (images.ImageError, OSError) as error:
        return "", str(error) or type(error).__name__, False


def decoded_batches(
    batches: Sequence[Sequence[str]], sizes: Sequence[int], batch_size: int, workers: int | None = None
) -> Iterator[tuple[dict[int, np.ndarray], list[tuple[str, str, bool]]]]:
    """Decode batches of paths in threads, a few batches ahead of their use (Pillow works outside Python's lock).

    Parameters
    ----------
    batch_size, workers : The most paths in a batch, and the threads that decode, by default one a core.

    Yields
    ------
    tuple
        ``{size: (batch_size, size, size, 3) uint8}``, zeros where there is no picture, and of each photograph the
        digest, the reason why it cannot be read, else "", and whether it is a panorama.
    """

    def start(paths: Sequence[str]) -> tuple[dict[int, np.ndarray], Iterator]:
        batch = {size: np.zeros((batch_size, size, size, 3), np.uint8) for size in sizes}
        return batch, pool.map(_decode, paths, range(len(paths)), repeat(batch))

    with ThreadPoolExecutor(workers or machine.cores()) as pool:
        started = map(start, batches)
        waiting = deque(islice(started, 2))  # batches that are decoded while one is predicted; this bounds the memory
        while waiting:
            batch, found = waiting.popleft()
            waiting.extend(islice(started, 1))
            yield batch, list(found)


# ---------------------------------------------------------------- files that people open


def write_csv(frame: pd.DataFrame, path: str | Path, exact: bool = False) -> Path:
    """Write a CSV, whole or not at all, in which no cell is run as a formula.

    Parameters
    ----------
    exact : For a table that a program reads again: its cells stay as they are, for example names of images.
    """
    if not exact:
        # A text that begins so gets a leading apostrophe (OWASP's rule), but a number such as -4711 stays one.
        formula = r"^(?=[=+\-@\t\r\n])(?![+-]?\d+(?:\.\d+)?$)"
        frame = frame.set_axis(frame.columns.astype(str).str.replace(formula, "'", regex=True), axis=1)
        texts = frame.select_dtypes(["object", "string", "category"]).astype(object)
        frame = frame.assign(**texts.replace(formula, "'", regex=True))
    with whole_or_absent(path) as beside:
        frame.to_csv(beside, index=False, encoding="utf-8")
    return Path(path)
