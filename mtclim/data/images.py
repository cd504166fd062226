"""Photographs decoded once: a memory-mapped uint8 store, which also knows which pictures are the same."""

import errno
import hashlib
import io
import json
import os
import shutil
import stat
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from filelock import FileLock
from PIL import Image, ImageOps, UnidentifiedImageError
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from tqdm import tqdm

from mtclim.files import write_json
from mtclim.machine import cores

_SHARD = 512  # images decoded between two notes of progress: what a kill can cost
_VERSION = 2  # of the decoding; part of the key
_NOT_PICTURES = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}  # what Pillow knows by name but leaves to other programs
_WHITES = (1, 255, 4095, 65535)  # the brightest value of pixels that are shares, or have 8, 12 or 16 bits
_HEIC = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}


class ImageError(ValueError):
    """An image, or too many of a table's images, cannot be read; says which, why, and what to do."""


@dataclass(frozen=True)
class ImageStore:
    """Decoded images: ``images`` (n, size, size, 3) uint8, row i = image i; ``readable`` (n,) bool.

    ``unreadable`` lists image and reason of the others, whose pixels are zero. ``folder`` holds the store. ``digests``
    (n,) are those of the files' contents, "" where there was none to read. ``hashes`` (n, 32) uint8 are difference
    hashes of 256 bits, see `same_picture`. ``notes`` are sentences for the user.
    """

    images: np.ndarray
    readable: np.ndarray
    unreadable: pd.DataFrame
    folder: Path
    digests: np.ndarray
    hashes: np.ndarray
    notes: Sequence[str] = ()


def __getattr__(name: str) -> Any:
    """``FORMATS`` and ``SUFFIXES``: what Pillow reads here. Its plug-ins are loaded when they are first needed."""
    if name == "FORMATS":
        return _formats()
    if name == "SUFFIXES":  # HEIC is listed too, so that such a file is named as what it is.
        read = {*_formats(), "MPO"}  # MPO is opened as JPEG.
        known = {suffix for suffix, kind in Image.registered_extensions().items() if kind in read}
        return frozenset(known | {".heic", ".heif"})
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def decode(source: str | Path | bytes, size: int) -> np.ndarray:
    """Decode one image as (size, size, 3) uint8 RGB: the whole picture squashed to the square, antialiased.

    Any suffix; rotated as EXIF says; grey, palette and CMYK are converted, deeper pixels are scaled to 8 bits,
    transparency becomes white, the first frame of an animation counts. Raises ImageError with the reason.
    """
    try:
        with _opened(_content(source)) as image:
            image.draft("RGB", (2 * size, 2 * size))  # JPEG: decode at 1/2, 1/4 or 1/8 where that is enough
            small = _rgb(_upright(image)).resize((size, size), Image.Resampling.BICUBIC, reducing_gap=3.0)
            return np.asarray(small)
    except ImageError:
        raise
    except Exception as error:  # what decoders raise on damaged files has no common type
        raise ImageError(" ".join((str(error) or type(error).__name__).split())[:200]) from error


def digest_of(source: str | Path | bytes) -> str:
    """Digest of a file's content, 32 hexadecimal digits; ImageError where it cannot be read."""
    return hashlib.blake2b(_content(source), digest_size=16).hexdigest()


def is_panorama(source: str | Path | bytes) -> bool:
    """Whether this is a 360° panorama: twice as wide as high and large, or one by Google's XMP (GPano)."""
    with _opened(_content(source)) as image:
        width, height = image.size
        xmp = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or b""
    named = b"GPano:" in (xmp.encode() if isinstance(xmp, str) else xmp)
    return named or (width >= 1000 and abs(width - 2 * height) <= 0.01 * width)


def open_store(
    paths: Sequence[str | Path],
    size: int,
    cache: str | Path = Path(".cache/images"),
    workers: int | None = None,
    max_unreadable: float = 0.01,
    progress: bool = True,
    names: Sequence[str] | None = None,
) -> ImageStore:
    """The decoded images of some paths, from the cache or built there; each file is read once.

    The store is built beside its place and renamed. A killed build goes on where it was; a second process that wants
    the same store waits for the first. Threads decode, since Pillow works outside Python's lock, and threads need no
    importable main module.

    Parameters
    ----------
    paths : sequence of paths
        The store is keyed by them, in their order, by the files' sizes and times, and by ``size``.
    size : int
        Pixels along each side of the decoded squares.
    cache : path
        The folder of all stores.
    workers : int, optional
        Decoding threads; default: all processor cores that this process may use.
    max_unreadable : float
        The share of images that may be unreadable.
    progress : bool
        Whether a progress bar is shown.
    names : sequence of str, optional
        What the images are called in messages and in ``unreadable``; default: their paths.

    Raises
    ------
    ImageError
        If more images than the allowed share cannot be read, if there are none, or if the disk is full.
    """
    if not len(paths) or size < 1:
        raise ImageError(f"found {len(paths)} images, size {size}; expected at least one image and one pixel.")
    names = [str(path) for path in (paths if names is None else names)]
    paths = [Path(path).absolute() for path in paths]
    folder = Path(cache) / _key(paths, size)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        if not (folder / "COMPLETE").exists():
            with FileLock(f"{folder}.lock"):
                if not (folder / "COMPLETE").exists():
                    _build(paths, size, folder, workers or cores(), progress)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, getattr(errno, "EDQUOT", None)):
            raise
        need = len(paths) * size * size * 3 / 2**30
        raise ImageError(
            f"{cache}: no space left for the decoded images ({need:.1f} GiB for {len(paths)} at {size} px). "
            "Free some space, or choose another cache folder, and repeat the command."
        ) from error
    return _open(names, folder, max_unreadable)


# Copies that were recompressed, resized or brightened by 5 to 10 % lie 0 to 24 bits apart (seen on leaves, groceries,
# photographed and drawn façades; more only where a picture of 64 px was halved). Different pictures lie at least 33
# apart on real façades, 40 on drawn ones, and 37 on leaves on white ground, but for leaves that were taken twice. The
# thumbnails decide where a picture is so flat that its bits say little.
_BITS = 24
_LEVEL = 2  # grey levels that must lie between neighbours for a bit to be set: more than compression leaves in a sky
_NEIGHBOURS = 16


def same_picture(store: ImageStore) -> np.ndarray:
    """Groups of rows that show the same picture: (n,) int, equal for equal contents and for nearly the same pixels.

    Nearly the same are two pictures whose hashes differ in a few bits and whose thumbnails differ by less than half
    their contrast. Candidates lie near each other in one of 16 orders of all hashes, each of which sorts by other bits
    first. So the time grows hardly faster than the number of images. Unreadable images stand alone.
    """
    rows = np.flatnonzero(store.readable)
    content, first, again = np.unique(store.digests[rows], return_index=True, return_inverse=True)
    bits = np.unpackbits(store.hashes[rows[first]], axis=1).reshape(-1, 16, 16)  # rows and columns of the picture
    bands = np.packbits(bits.transpose(0, 2, 1), axis=2).view(np.uint16)[..., 0]  # (m, 16), one a column
    words = np.ascontiguousarray(bands).view(np.uint64)
    pairs = [np.empty((0, 2), np.int64)]
    for turn in range(16):
        order = np.lexsort(np.roll(bands, turn, axis=1).T)
        for step in range(1, min(_NEIGHBOURS + 1, len(order))):
            both = np.stack([order[:-step], order[step:]], axis=1)
            apart = np.bitwise_count(words[both[:, 0]] ^ words[both[:, 1]]).sum(axis=1)
            pairs.append(np.sort(both[apart <= _BITS], axis=1))
    pairs = np.unique(np.concatenate(pairs), axis=0)
    seen, places = np.unique(pairs, return_inverse=True)
    thumbs = np.array([_thumbnail(store.images[rows[first[i]]], 8, 8, "RGB").ravel() for i in seen])
    same = np.zeros(len(pairs), dtype=bool)
    for start in range(0, len(pairs), 10_000):
        a, b = thumbs[places.reshape(-1, 2)[start : start + 10_000].T]
        contrast = np.minimum(a.std(axis=1), b.std(axis=1))
        same[start : start + 10_000] = np.sqrt(np.mean((a - b) ** 2, axis=1)) <= 2 + contrast / 2
    graph = coo_array((np.ones(same.sum()), pairs[same].T), shape=(len(content), len(content)))
    groups = len(content) + np.arange(len(store.readable))
    groups[rows] = connected_components(graph, directed=False)[1][again]
    return np.unique(groups, return_inverse=True)[1]


def _thumbnail(picture: np.ndarray, width: int, height: int, mode: str) -> np.ndarray:
    small = Image.fromarray(picture).convert(mode).resize((width, height), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float32)


def _difference_hash(picture: np.ndarray) -> np.ndarray:
    """(32,) uint8, 256 bits: whether each of 16 x 16 places is darker than its neighbour to the right."""
    grey = _thumbnail(picture, 17, 16, "L")
    return np.packbits(grey[:, 1:] > grey[:, :-1] + _LEVEL)


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    try:
        import pillow_heif

        pillow_heif.register_heif_opener()
    except ImportError:
        pass
    return tuple(sorted(Image.OPEN.keys() - _NOT_PICTURES))


def _content(source: str | Path | bytes) -> bytes:
    if isinstance(source, bytes):
        return source
    try:
        mode = os.stat(source).st_mode
        if not stat.S_ISREG(mode):
            raise ImageError("a folder, not a file" if stat.S_ISDIR(mode) else "not a regular file")
        return Path(source).read_bytes()
    except FileNotFoundError:
        raise ImageError("no such file") from None
    except PermissionError:
        raise ImageError("no permission to read it") from None
    except OSError as error:
        raise ImageError(error.strerror or str(error)) from error
    except MemoryError:
        raise ImageError("too large for the memory") from None


def _opened(content: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(content), formats=_formats())
    except UnidentifiedImageError:
        pass
    except Image.DecompressionBombError as error:
        raise ImageError(str(error)) from None
    if not content:
        raise ImageError("the file is empty")
    if content.startswith(b"version https://git-lfs.github.com/spec/"):
        raise ImageError("a Git LFS pointer, not the picture itself; run 'git lfs pull' in its repository")
    if content[4:8] == b"ftyp" and content[8:12] in _HEIC:
        raise ImageError("a HEIC picture; install the package pillow-heif, or convert it to JPEG")
    if content[:4] in (b"II*\0", b"MM\0*"):
        raise ImageError("a TIFF with a kind of pixels that Pillow cannot read; convert it to 8 bits a channel")
    raise ImageError("not an image of a known format")


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF is no reason to lose the picture ...
        image.load()  # ... unless the picture is damaged too
        return image


def _rgb(image: Image.Image) -> Image.Image:
    """Convert to RGB; deep grey pixels are scaled (Pillow would clip them), transparency is laid over white."""
    if image.mode == "F" or image.mode.startswith("I"):
        image = Image.fromarray(_scaled(np.asarray(image)))
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _scaled(pixels: np.ndarray) -> np.ndarray:
    """Pixels of more than 8 bits as uint8.

    White is the smallest of the usual brightest values that holds the largest pixel, or the largest pixel where it is
    far from any: a camera's 12 bits in a file of 16 do not become black.
    """
    least, most = float(pixels.min()), float(pixels.max())
    if not (least >= 0 and np.isfinite(most)):
        raise ImageError("pixels that are negative or not finite numbers have no defined brightness")
    white = next((white for white in _WHITES if most <= white), most)
    white = white if most > white / 16 else max(most, 1e-12)
    return (pixels * (255 / white) + 0.5).astype(np.uint8)


def _key(paths: Sequence[Path], size: int) -> str:
    key = hashlib.sha256(f"{_VERSION}:{size}".encode())
    for path in paths:
        try:
            found = os.stat(path)
            state = (found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        except OSError:
            state = ()
        key.update(repr((os.fspath(path), state)).encode("utf-8", "surrogateescape"))
    return f"{size}px-{key.hexdigest()[:24]}"


def _build(paths: Sequence[Path], size: int, folder: Path, workers: int, progress: bool) -> None:
    partial, start = folder.with_name(f"{folder.name}.partial"), time.time()
    partial.mkdir(exist_ok=True)
    if folder.exists():  # without a marker: not ours to trust
        shutil.rmtree(folder)
    pixels, notes = partial / "images.npy", partial / "rows.jsonl"
    if not pixels.exists():
        notes.unlink(missing_ok=True)
        np.lib.format.open_memmap(pixels, mode="w+", dtype=np.uint8, shape=(len(paths), size, size, 3))
    offset, image = np.load(pixels, mmap_mode="r").offset, size * size * 3
    shards = {first: paths[first : first + _SHARD] for first in range(0, len(paths), _SHARD)}
    done = _finished_shards(notes)
    left = sum(len(shard) for first, shard in shards.items() if first not in done)
    if shutil.disk_usage(partial).free < left * image:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    _formats()
    with (
        open(pixels, "r+b", buffering=0) as file,
        open(notes, "a", encoding="utf-8") as log,
        ThreadPoolExecutor(workers) as pool,
        tqdm(total=len(paths), initial=len(paths) - left, disable=not progress, desc="decode") as bar,
    ):
        for first in sorted(shards.keys() - done.keys()):
            block = np.zeros((len(shards[first]), size, size, 3), np.uint8)
            rows = list(pool.map(_row, shards[first], block))
            file.seek(offset + first * image)
            file.write(block.data)
            os.fsync(file.fileno())  # The note below says that the pixels are there.
            log.write("\n" + json.dumps({"first": first, "rows": rows}))
            log.flush()
            bar.update(len(rows))
    write_json(partial / "COMPLETE", {"images": len(paths), "size": size, "seconds": round(time.time() - start, 1)})
    os.replace(partial, folder)


def _row(path: Path, out: np.ndarray) -> list:
    """Decode one image into ``out``; digest, hash, whether it is a panorama, and why it cannot be read."""
    digest = ""
    try:
        content = _content(path)
        digest = digest_of(content)
        out[:] = decode(content, len(out))
        return [digest, _difference_hash(out).tobytes().hex(), is_panorama(content), ""]
    except ImageError as error:
        return [digest, "00" * 32, False, str(error)]


def _finished_shards(notes: Path) -> dict[int, list]:
    """Rows of the shards that were noted as written; a torn last line doesn't count."""
    done = {}
    for line in notes.read_text(encoding="utf-8").splitlines() if notes.exists() else ():
        try:
            note = json.loads(line)
            done[int(note["first"])] = note["rows"]
        except (ValueError, KeyError, TypeError):
            continue
    return done


def _open(names: Sequence[str], folder: Path, max_unreadable: float) -> ImageStore:
    shards = _finished_shards(folder / "rows.jsonl")
    digests, hashes, panoramas, reasons = zip(*(row for first in sorted(shards) for row in shards[first]), strict=True)
    found = pd.DataFrame({"image": names, "reason": reasons, "panorama": panoramas})
    readable = (found["reason"] == "").to_numpy()
    unreadable = found.loc[~readable, ["image", "reason"]].reset_index(drop=True)
    if len(unreadable) > max_unreadable * len(names):
        first = "; ".join(f"{image}: {reason}" for image, reason in unreadable.head(5).itertuples(index=False))
        raise ImageError(
            f"{len(unreadable)} of {len(names)} images cannot be read, more than the allowed share of "
            f"{max_unreadable:g}: {first}{' ...' if len(unreadable) > 5 else ''}. Repair them, remove their rows, or "
            "raise max_unreadable."
        )
    notes, wide = [], found.loc[found["panorama"], "image"]
    if len(wide):
        notes.append(
            f"{len(wide)} of {len(names)} images are 360° panoramas, squashed into the square like the others: "
            f"{', '.join(wide[:5])}{' ...' if len(wide) > 5 else ''}. Cut façades out of them first."
        )
    bits = np.frombuffer(bytes.fromhex("".join(hashes)), np.uint8).reshape(-1, 32)
    pixels = np.load(folder / "images.npy", mmap_mode="r")
    return ImageStore(pixels, readable, unreadable, folder, np.array(digests), bits, notes)
