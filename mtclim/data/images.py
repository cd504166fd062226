"""Photographs decoded once: a memory-mapped uint8 store, keyed by what the files contain and the size."""

import errno
import hashlib
import json
import os
import shutil
import stat
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from filelock import FileLock
from PIL import Image, ImageOps
from tqdm import tqdm

from mtclim.data.table import Table

Image.init()
FORMATS = tuple({"JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000", "AVIF"} & Image.OPEN.keys())
MAX_PIXELS = 178_956_970  # where Pillow too calls a picture a decompression bomb: a page of 13,000 x 13,000
_SHARD = 512  # images decoded between two notes of progress: what a kill can cost
_VERSION = 1  # of the decoding; part of the key


class ImageError(ValueError):
    """An image, or too many of a table's images, cannot be read; says which, why, and what to do."""


@dataclass(frozen=True)
class ImageStore:
    """Decoded images: ``images`` (n, size, size, 3) uint8, row i = table row i; ``readable`` (n,) bool.

    ``unreadable`` lists image and reason of the others, whose pixels are zero. ``folder`` holds the store,
    ``digests`` (n,) the hexadecimal digests of the files' contents.
    """

    images: np.memmap
    readable: np.ndarray
    unreadable: pd.DataFrame
    folder: Path
    digests: np.ndarray


def same_picture(store: ImageStore) -> np.ndarray:
    """(n,) ids of groups of rows whose files have the same content; an unreadable file is a group of its own."""
    own = [f"row {row}" for row in range(len(store.readable))]
    return pd.factorize(np.where(store.readable, store.digests, own))[0]


def decode(path: str | Path, size: int) -> np.ndarray:
    """Decode one image as (size, size, 3) uint8 RGB: the whole picture squashed to the square, antialiased.

    Any suffix; rotated as EXIF says; grey, palette, CMYK and 16-bit are converted, transparency becomes white, the
    first frame of an animation counts. Raises ImageError with the reason.
    """
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):
            raise ImageError("a folder, not a file" if stat.S_ISDIR(mode) else "not a regular file")
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ImageError(f"{image.width} x {image.height} pixels are more than {MAX_PIXELS:,}")
            image.draft("RGB", (2 * size, 2 * size))  # JPEG: decode at 1/2, 1/4 or 1/8 where that is enough
            image = _rgb(_upright(image)).resize((size, size), Image.Resampling.BICUBIC, reducing_gap=3.0)
        return np.asarray(image)
    except ImageError:
        raise
    except Exception as error:  # what decoders raise on damaged files has no common type
        raise ImageError(_reason(path, error)) from error


def open_store(
    images: Table | Sequence[str | Path],
    size: int,
    cache: str | Path = Path(".cache/images"),
    workers: int | None = None,
    max_unreadable: float = 0.01,
    progress: bool = True,
    names: Sequence[str] | None = None,
) -> ImageStore:
    """The decoded images of a table (or of paths), from the cache or built there.

    The store is keyed by the content of the files in their order and by ``size``; contents are hashed again only where
    a file's size or times changed. It is built beside its place and renamed; a killed build goes on where it was; a
    second process that wants the same store waits for the first. ``workers`` threads decode (default: all processors):
    Pillow works outside Python's lock, and threads need no importable main module, in a notebook or anywhere.

    Raises ImageError if more than the share ``max_unreadable`` of the images cannot be read, and on a full disk.
    """
    names = names or (list(images.frame["image"]) if isinstance(images, Table) else [str(path) for path in images])
    paths = images.paths if isinstance(images, Table) else [Path(path).absolute() for path in images]
    if not paths or size < 1:
        raise ImageError(f"found {len(paths)} images, size {size}; expected at least one image and one pixel.")
    workers = workers or os.cpu_count() or 1
    cache = Path(cache)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        key, digests = _key(paths, size, cache, workers)
        folder = cache / key
        if not (folder / "COMPLETE").exists():
            with FileLock(f"{folder}.lock"):
                if not (folder / "COMPLETE").exists():
                    _build(paths, size, folder, workers, progress)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        need = len(paths) * size * size * 3 / 2**30
        raise ImageError(
            f"{cache}: no space left for the decoded images ({need:.1f} GiB for {len(paths)} at {size} px). "
            "Free some space, or choose another cache folder, and repeat the command."
        ) from error
    return _open(names, folder, max_unreadable, digests)


def _reason(path: str | Path, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, PermissionError):
        return "no permission to read it"
    if isinstance(error, Image.UnidentifiedImageError):
        return "the file is empty" if not os.path.getsize(path) else "not an image of a known format"
    if isinstance(error, Image.DecompressionBombError):
        return f"more than {MAX_PIXELS:,} pixels"
    return " ".join((str(error) or type(error).__name__).split())[:200]


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF is no reason to lose the picture ...
        image.load()  # ... unless the picture is damaged too
        return image


def _rgb(image: Image.Image) -> Image.Image:
    """Convert to RGB; 16-bit grey is scaled (Pillow would clip it), transparency laid over white."""
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).clip(0, 65535) / 257 + 0.5).astype(np.uint8))
    elif image.mode == "F":
        raise ImageError("floating-point pixels have no defined brightness")
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _stat(path: Path) -> tuple[int, int, int]:
    try:
        found = os.stat(path)
        return found.st_size, found.st_mtime_ns, found.st_ctime_ns
    except OSError:
        return -1, -1, -1


def _hash(path: Path) -> bytes:
    """Digest (16 bytes) of a file's content, zeros where there is none to read."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return bytes(16)
        with open(path, "rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).digest()
    except OSError:
        return bytes(16)


def _key(paths: Sequence[Path], size: int, cache: Path, workers: int) -> tuple[str, np.ndarray]:
    """Key of a store from the files' contents, remembered under their size and times, and the digests of these."""
    stats = np.array([_stat(path) for path in paths], dtype=np.int64)
    memory = cache / f"contents-{hashlib.sha256(json.dumps([str(p) for p in paths]).encode()).hexdigest()[:16]}.npz"
    digests, fresh = np.zeros((len(paths), 16), np.uint8), np.ones(len(paths), dtype=bool)
    try:
        with np.load(memory, allow_pickle=False) as known:
            same = (known["stats"] == stats).all(axis=1) & (stats[:, 0] >= 0)
            digests[same], fresh[same] = known["digests"][same], False
    except (OSError, ValueError, KeyError, EOFError):  # absent or damaged: hash everything
        pass
    if fresh.any():
        with ThreadPoolExecutor(workers) as pool:
            rows = np.flatnonzero(fresh)
            digests[rows] = np.frombuffer(b"".join(pool.map(_hash, [paths[i] for i in rows])), np.uint8).reshape(-1, 16)
        beside = memory.with_name(f"{memory.stem}.{os.getpid()}-{threading.get_ident()}.npz")
        np.savez(beside, stats=stats, digests=digests)
        os.replace(beside, memory)
    content = f"{_VERSION}:{size}:{len(paths)}:".encode() + digests.tobytes()
    return f"{size}px-{hashlib.sha256(content).hexdigest()[:24]}", np.array([row.tobytes().hex() for row in digests])


def _build(paths: Sequence[Path], size: int, folder: Path, workers: int, progress: bool) -> None:
    partial = folder.with_name(f"{folder.name}.partial")
    partial.mkdir(exist_ok=True)
    if folder.exists():  # without a marker: not ours to trust
        shutil.rmtree(folder)
    start, pixels, done = time.time(), partial / "images.npy", _finished_shards(partial / "shards.jsonl")
    offset = _reserve(pixels, (len(paths), size, size, 3), keep=bool(done))
    shards = {first: paths[first : first + _SHARD] for first in range(0, len(paths), _SHARD)}
    todo = {first: shard for first, shard in shards.items() if first not in done}
    with (
        open(pixels, "r+b", buffering=0) as file,
        open(partial / "shards.jsonl", "a", encoding="utf-8") as notes,
        ThreadPoolExecutor(workers) as pool,
        tqdm(total=len(paths), initial=sum(len(shards[f]) for f in done), disable=not progress, desc="decode") as bar,
    ):
        for first, shard in todo.items():
            block = np.zeros((len(shard), size, size, 3), np.uint8)
            reasons = list(pool.map(_decode_into, shard, block))
            os.pwrite(file.fileno(), block.data, offset + first * size * size * 3)
            unreadable = [[first + i, reason] for i, reason in enumerate(reasons) if reason]
            notes.write("\n" + json.dumps({"first": first, "unreadable": unreadable}))
            notes.flush()
            bar.update(len(shard))
        os.fsync(file.fileno())
    unreadable = sorted(row for shard in _finished_shards(partial / "shards.jsonl").values() for row in shard)
    note = {"images": len(paths), "size": size, "unreadable": unreadable, "seconds": round(time.time() - start, 1)}
    (partial / "COMPLETE").write_text(json.dumps(note), encoding="utf-8")
    os.replace(partial, folder)


def _decode_into(path: Path, out: np.ndarray) -> str:
    try:
        out[:] = decode(path, len(out))
        return ""
    except ImageError as error:
        return str(error)


def _finished_shards(notes: Path) -> dict[int, list]:
    """Shards that were noted as written; a torn last line doesn't count."""
    done = {}
    for line in notes.read_text(encoding="utf-8").splitlines() if notes.exists() else ():
        try:
            note = json.loads(line)
            done[int(note["first"])] = note["unreadable"]
        except (ValueError, KeyError, TypeError):
            continue
    return done


def _reserve(path: Path, shape: tuple[int, ...], keep: bool) -> int:
    """Allocate the array's file, so that a full disk shows now; returns the offset of its data."""
    if not keep or not path.exists():
        np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    array = np.load(path, mmap_mode="r")
    if hasattr(os, "posix_fallocate"):
        with open(path, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, array.offset + array.nbytes)
    return array.offset


def _open(names: Sequence[str], folder: Path, max_unreadable: float, digests: np.ndarray) -> ImageStore:
    note = json.loads((folder / "COMPLETE").read_text(encoding="utf-8"))
    rows = [row for row, _ in note["unreadable"]]
    readable = np.ones(len(names), dtype=bool)
    readable[rows] = False
    unreadable = pd.DataFrame(
        {"image": [names[i] for i in rows], "reason": [reason for _, reason in note["unreadable"]]}
    )
    if len(rows) > max_unreadable * len(names):
        first = "; ".join(f"{image}: {reason}" for image, reason in unreadable.head(5).itertuples(index=False))
        raise ImageError(
            f"{len(rows)} of {len(names)} images cannot be read, more than the allowed share of {max_unreadable:g}: "
            f"{first}{' ...' if len(rows) > 5 else ''}. Repair them, remove their rows, or raise max_unreadable."
        )
    return ImageStore(np.load(folder / "images.npy", mmap_mode="r"), readable, unreadable, folder, digests)
