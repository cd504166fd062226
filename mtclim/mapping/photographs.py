"""Photographs to predict: from a table or a geotagged folder, decoded ahead of the model by workers."""

import multiprocessing
import os
import re
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from mmap import mmap
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from mtclim.data.images import ImageError, decode
from mtclim.data.table import grid_blocks, read_table
from mtclim.tasks import Tasks

SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".bmp")
CARRIED = ("building", "weight", "municipality")
_GPS, _CHUNK = 0x8825, 16
_rings: dict[int, dict[int, np.ndarray]] = {}  # batches that decoding workers fill; forked workers inherit the memory

# ---------------------------------------------------------------- what is to be predicted


def exif_position(path: str | Path) -> tuple[float, float]:
    """(lon, lat) in degrees from a photograph's EXIF GPS block; ValueError says why where there is none."""
    try:
        with Image.open(path) as image:
            gps = image.getexif().get_ifd(_GPS)
    except Exception as error:  # Pillow raises many kinds for broken files; each is a photograph that can't be placed
        raise ValueError(f"cannot be read: {type(error).__name__}: {error}") from None
    try:
        degrees = [float(np.dot([float(part) for part in gps[tag]], [1, 1 / 60, 1 / 3600])) for tag in (4, 2)]
        lon, lat = degrees[0] * (-1 if gps[3] in ("W", "w") else 1), degrees[1] * (-1 if gps[1] in ("S", "s") else 1)
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        raise ValueError("no GPS position in its EXIF data") from None
    if not (np.isfinite([lon, lat]).all() and abs(lon) <= 180 and abs(lat) <= 90):
        raise ValueError(f"GPS position out of range: lon {lon}, lat {lat}")
    return lon, lat


def read_folder(folder: str | Path, cell: float = 500.0) -> pd.DataFrame:
    """The photographs of a folder, sorted: image, lon, lat, block (a grid of `cell` metres), reason, path."""
    folder = Path(folder)
    found = [Path(root, name) for root, folders, files in os.walk(folder) for name in files + folders]
    paths = sorted(path for path in found if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise FileNotFoundError(f"{folder}: found no photograph; expected files ending in {', '.join(SUFFIXES)}.")

    def place(path: Path) -> tuple[float, float, str]:
        try:
            return *exif_position(path), ""
        except ValueError as error:
            return np.nan, np.nan, str(error)

    with ThreadPoolExecutor() as pool:
        rows = list(pool.map(place, paths))
    frame = pd.DataFrame(rows, columns=["lon", "lat", "reason"])
    frame.insert(0, "image", [path.relative_to(folder).as_posix() for path in paths])
    frame["path"] = [str(path) for path in paths]
    placed = frame["lon"].notna()
    frame["block"] = None
    if placed.any():
        frame.loc[placed, "block"] = grid_blocks(frame.loc[placed, "lon"], frame.loc[placed, "lat"], cell).to_numpy()
    return frame


def read_source(source: str | Path, tasks: Tasks, cell: float = 500.0, require_position: bool = True) -> pd.DataFrame:
    """The images of a table or folder: image, path, lon, lat, block, the tasks' true labels, `CARRIED` columns, reason.

    `reason` is empty for images to predict, and says why for those that can't be placed.
    """
    if Path(source).is_dir():
        return read_folder(source, cell)
    table = read_table(source, tasks, require_images=False, require_labels=False)
    frame = table.frame.assign(path=[str(path) for path in table.paths])
    known = [name for name in dict.fromkeys((*CARRIED, *tasks)) if name in frame and frame[name].notna().any()]
    frame = frame.reindex(columns=["image", "path", "lon", "lat", "block", *known])
    placed = frame[["lon", "lat"]].notna().all(axis=1)
    if require_position and not placed.any():
        raise ValueError(f"{source}: no image has a position; add lon and lat columns, or set require_position=False.")
    if placed.any() and frame["block"].isna().all():
        frame["block"] = frame["block"].astype(object)
        frame.loc[placed, "block"] = grid_blocks(frame.loc[placed, "lon"], frame.loc[placed, "lat"], cell).to_numpy()
    frame["reason"] = np.where(placed | (not require_position), "", "no position (lon, lat) in the table")
    return frame


def safe_cell(value: object) -> object:
    """A cell that no spreadsheet runs: text that would start a formula gets a leading apostrophe (OWASP's rule)."""
    return "'" + value if isinstance(value, str) and re.match(r"[=+\-@\t\r\n]", value) else value


# ---------------------------------------------------------------- decoding, ahead of the model


def _fill(ring: int, slot: int, first: int, paths: Sequence[str]) -> list[str]:
    """Decode `paths` into a ring's slot from position `first` on, at every size; returns a reason (or "") an image."""
    reasons = []
    for position, path in enumerate(paths, first):
        try:
            for size, batches in _rings[ring].items():
                batches[slot, position] = decode(path, size)
            reasons.append("")
        except ImageError as error:
            reasons.append(str(error) or type(error).__name__)
    return reasons


def _end_with(parent: int) -> None:
    """A worker whose parent was killed ends too (nothing else tells it)."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _executor(workers: int, processes: bool) -> Executor:
    if processes and "fork" in multiprocessing.get_all_start_methods():
        context = multiprocessing.get_context("fork")
        return ProcessPoolExecutor(workers, context, initializer=_end_with, initargs=(os.getpid(),))
    return ThreadPoolExecutor(workers)


def decoded_batches(
    batches: Sequence[Sequence[str]],
    sizes: Sequence[int],
    batch_size: int,
    workers: int | None = None,
    processes: bool = True,
) -> Iterator[tuple[dict[int, np.ndarray], list[str]]]:
    """Yield ({size: (batch_size, size, size, 3) uint8}, reasons) for each batch of paths, in order, decoded ahead.

    Rows past the end of a short batch, and unreadable images, are zeros. The arrays are reused: copy what you keep.
    Beside a model on the CPU `processes` don't pay: after a fork each page that the model works on is copied once.
    """
    workers = workers or min(32, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
    slots = max(3, 2 + workers * _CHUNK // batch_size)
    # anonymous shared memory: the pages are those that workers fill, and /dev/shm (tiny in containers) isn't needed
    ring = {size: np.frombuffer(mmap(-1, slots * batch_size * size * size * 3), np.uint8) for size in sizes}
    ring = {size: memory.reshape(slots, batch_size, size, size, 3) for size, memory in ring.items()}
    key = id(ring)
    _rings[key] = ring
    waiting: deque = deque()
    ahead = iter(enumerate(batches))
    executor = _executor(workers, processes)

    def start() -> None:
        number, paths = next(ahead, (None, None))
        if paths is not None:
            slot = number % slots
            parts = [(first, list(paths[first : first + _CHUNK])) for first in range(0, len(paths), _CHUNK)]
            waiting.append((slot, [executor.submit(_fill, key, slot, *part) for part in parts]))

    try:
        for _ in range(slots - 1):
            start()
        while waiting:
            slot, parts = waiting.popleft()
            reasons = [reason for part in parts for reason in part.result()]
            for batch in ring.values():
                batch[slot, [n for n in range(batch_size) if n >= len(reasons) or reasons[n]]] = 0
            yield {size: batch[slot] for size, batch in ring.items()}, reasons
            start()
    finally:
        executor.shutdown(cancel_futures=True)
        del _rings[key]
