"""Photographs decoded once: a memory-mapped uint8 store, which also knows which pictures are the same."""

import errno
import hashlib
import io
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from filelock import FileLock
from PIL import Image, ImageOps, UnidentifiedImageError
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from tqdm import tqdm

from mtclim.machine import cores

_SHARD = 512  # images that are decoded before they are written
_VERSION = 3  # of the decoding and of what is stored; part of the key
_NOT_PICTURES = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}  # what Pillow knows by name but leaves to other programs
_WHITES = (1, 255, 4095, 65535)  # the brightest value of pixels that are shares, or have 8, 12 or 16 bits
_HEIC = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}


class ImageError(ValueError):
    """An image, or too many of a table's images, cannot be read; says which, why, and what to do."""


@dataclass(frozen=True)
class ImageStore:
    """Decoded images: ``images`` (n, size, size, 3) uint8, row i = image i; ``readable`` (n,) bool.

    ``unreadable`` lists image and reason of the others, whose pixels are zero. ``folder`` holds the store. ``digests``
    (n,) are those of the files' contents, "" where there was none to read. ``thumbnails`` (n, 16, 17, 3) uint8 tell
    which pictures are the same. ``notes`` are sentences for the user.
    """

    images: np.ndarray
    readable: np.ndarray
    unreadable: pd.DataFrame
    folder: Path
    digests: np.ndarray
    thumbnails: np.ndarray
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
            return np.asarray(as_rgb(image).resize((size, size), Image.Resampling.BICUBIC, reducing_gap=3.0))
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
        named = b"GPano:" in xmp_of(image)
    return named or (width >= 1000 and abs(width - 2 * height) <= 0.01 * width)


def xmp_of(image: Image.Image) -> bytes:
    """The XMP data of an opened picture; empty where it has none."""
    found = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or b""
    return found.encode() if isinstance(found, str) else found


def as_rgb(image: Image.Image) -> Image.Image:
    """An opened picture as RGB, upright as EXIF says.

    Deep grey pixels are scaled to 8 bits (Pillow would clip them), and transparency is laid over white.
    """
    image = _upright(image)
    if image.mode == "F" or image.mode.startswith("I"):
        image = Image.fromarray(_scaled(np.asarray(image)))
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def open_store(
    paths: Sequence[str | Path],
    size: int,
    cache: str | Path = Path(".cache/images"),
    max_unreadable: float = 0.01,
    progress: bool = True,
    names: Sequence[str] | None = None,
) -> ImageStore:
    """The decoded images of some paths, from the cache or built there; each file is read once.

    The store is built beside its place and renamed; a second process that wants the same store waits for the first.
    Threads decode, since Pillow works outside Python's lock, and threads need no importable main module.

    Parameters
    ----------
    paths : The store is keyed by them, in their order, by the files' sizes and times, and by ``size``.
    size : Pixels along each side of the decoded squares.
    cache : The folder of all stores.
    max_unreadable : The share of images that may be unreadable.
    names : What the images are called in messages and in ``unreadable``; default: their paths.

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
        if not folder.exists():
            with FileLock(f"{folder}.lock"):
                if not folder.exists():
                    _build(paths, size, folder, progress)
    except OSError as error:
        need = len(paths) * size * size * 3 / 2**30
        raise ImageError(
            f"{cache}: the decoded images ({need:.1f} GiB for {len(paths)} at {size} px) cannot be kept: {error}. Free "
            "some space, or choose another cache folder, and repeat the command."
        ) from error
    return _open(names, folder, max_unreadable)


# Copies that were recompressed, resized or brightened by 5 to 10 % lie 0 to 24 bits apart (seen on leaves, groceries,
# photographed and drawn façades; more only where a picture of 64 px was halved). Different pictures lie at least 33
# apart on real façades, 40 on drawn ones, and 37 on leaves on white ground, but for leaves that were taken twice. The
# thumbnails decide where a picture is so flat that its bits say little.
_BITS = 24
_LEVEL = 2  # grey levels that must lie between neighbours for a bit to be set: more than compression leaves in a sky


def same_picture(store: ImageStore) -> np.ndarray:
    """Groups of rows that show the same picture: (n,) int, equal for equal contents and for nearly the same pixels.

    Nearly the same are two pictures whose difference hashes (256 bits: which of 16 x 16 places is darker than its
    neighbour to the right) differ in a few bits, and whose thumbnails differ by less than half their contrast. All
    pairs are compared, so the time grows with the square of their number: seconds for 30,000. Unreadable images stand
    alone.
    """
    rows = np.flatnonzero(store.readable)
    content, first, again = np.unique(store.digests[rows], return_index=True, return_inverse=True)
    thumbs = store.thumbnails[rows[first]].astype(np.float32)
    grey = thumbs @ np.array([0.299, 0.587, 0.114], np.float32)
    signs = np.where(grey[:, :, 1:] > grey[:, :, :-1] + _LEVEL, 1, -1).reshape(-1, 256).astype(np.float32)
    contrast = thumbs.std(axis=(1, 2)).mean(axis=1)  # within each colour: a plain red picture has none
    thumbs = thumbs.reshape(-1, 16 * 17 * 3)
    pairs = [np.empty((2, 0), np.int64)]
    for start in range(0, len(signs), 256):
        near = signs[start : start + 256] @ signs[: start + 256].T >= 256 - 2 * _BITS
        for i, row in enumerate(near, start):
            j = np.flatnonzero(row[:i])
            distance = np.sqrt(np.mean((thumbs[j] - thumbs[i]) ** 2, axis=1))
            j = j[distance <= 2 + np.minimum(contrast[i], contrast[j]) / 2]
            pairs.append(np.stack([np.full(len(j), i), j]))
    a, b = np.concatenate(pairs, axis=1)
    graph = coo_array((np.ones(len(a)), (a, b)), shape=(len(content), len(content)))
    groups = len(content) + np.arange(len(store.readable))
    groups[rows] = connected_components(graph, directed=False)[1][again]
    return np.unique(groups, return_inverse=True)[1]


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
    path = Path(source)
    try:
        if path.exists() and not path.is_file():  # reading a pipe would never end
            raise ImageError("a folder or a device, not a file")
        return path.read_bytes()
    except OSError as error:
        raise ImageError(error.strerror or str(error)) from error
    except MemoryError:
        raise ImageError("too large for the memory") from None


def _opened(content: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(content), formats=_formats())
    except UnidentifiedImageError:
        pass
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


def _build(paths: Sequence[Path], size: int, folder: Path, progress: bool) -> None:
    beside = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    if shutil.disk_usage(beside).free < len(paths) * size * size * 3:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    _formats()
    rows, thumbnails = [], []
    with (
        open(beside / "images.npy", "wb") as file,  # a full disk is an error here, and a signal in a memory map
        ThreadPoolExecutor(cores()) as pool,
        tqdm(total=len(paths), disable=not progress, desc="decode") as bar,
    ):
        header = {"descr": "|u1", "fortran_order": False, "shape": (len(paths), size, size, 3)}
        np.lib.format.write_array_header_1_0(file, header)
        for first in range(0, len(paths), _SHARD):
            for pixels, *row in pool.map(partial(_row, size=size), paths[first : first + _SHARD]):
                file.write(pixels.data)
                thumbnails.append(np.asarray(Image.fromarray(pixels).resize((17, 16), Image.Resampling.BOX)))
                rows.append(row)
                bar.update()
    np.save(beside / "thumbnails.npy", np.stack(thumbnails))
    pd.DataFrame(rows, columns=["digest", "panorama", "reason"]).to_parquet(beside / "rows.parquet")
    os.replace(beside, folder)


def _row(path: Path, size: int) -> tuple[np.ndarray, str, bool, str]:
    """One decoded image, its digest, whether it is a panorama, and why it cannot be read."""
    digest = ""
    try:
        content = _content(path)
        digest = digest_of(content)
        return np.ascontiguousarray(decode(content, size)), digest, is_panorama(content), ""
    except ImageError as error:
        return np.zeros((size, size, 3), np.uint8), digest, False, str(error)


def _open(names: Sequence[str], folder: Path, max_unreadable: float) -> ImageStore:
    found = pd.read_parquet(folder / "rows.parquet").assign(image=names)
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
    pixels, thumbnails = np.load(folder / "images.npy", mmap_mode="r"), np.load(folder / "thumbnails.npy")
    return ImageStore(pixels, readable, unreadable, folder, found["digest"].to_numpy(str), thumbnails, notes)
