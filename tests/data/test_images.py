"""Images of every kind are decoded or listed with a reason; the store is whole, shared, resumable and right."""

import io
import os
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mtclim.data import images
from mtclim.data.images import ImageError, decode, open_store
from mtclim.data.table import read_table


def picture(width=96, height=64, seed=0) -> np.ndarray:
    """Smooth colours (H, W, 3) uint8: hardly changed by JPEG."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(40, 216, (4, 5, 3), dtype=np.uint8))
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


def save(path: Path, array=None, mode="RGB", **options) -> Path:
    Image.fromarray(picture() if array is None else array).convert(mode).save(path, **options)
    return path


def bomb(path: Path, side: int = 20_000) -> Path:
    """A PNG of side x side black pixels in a few kilobytes."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    squeeze = zlib.compressobj(9)
    rows = squeeze.compress(bytes((side // 8 + 1) * side)) + squeeze.flush()
    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b""))
    return path


def close(got: np.ndarray, expected: np.ndarray, tolerance: float = 3) -> bool:
    return float(np.abs(got.astype(float) - expected).mean()) < tolerance


def expected(array: np.ndarray, size=32) -> np.ndarray:
    return np.asarray(Image.fromarray(array).resize((size, size), Image.Resampling.BICUBIC)).astype(float)


@pytest.mark.parametrize(
    ("name", "mode", "options"),
    [
        ("a.jpg", "RGB", {"quality": 95}),
        ("a.png", "RGB", {}),
        ("wrong-suffix.jpg", "RGB", {"format": "PNG"}),
        ("no-suffix", "RGB", {"format": "JPEG", "quality": 95}),
        ("cmyk.jpg", "CMYK", {"quality": 95}),
        ("cmyk.tif", "CMYK", {}),
        ("rgba.png", "RGBA", {}),
        ("rgba.webp", "RGBA", {"lossless": True}),
        ("a.bmp", "RGB", {}),
        ("progressive.jpg", "RGB", {"quality": 95, "progressive": True}),
    ],
)
def test_formats_are_read(tmp_path, name, mode, options):
    path = save(tmp_path / name, mode=mode, **options)
    got = decode(path, 32)
    assert got.shape == (32, 32, 3) and got.dtype == np.uint8 and close(got, expected(picture()))


def test_palette_grey_and_16_bit(tmp_path):
    flat = np.zeros((20, 20, 3), np.uint8) + np.array([200, 100, 50], np.uint8)
    palette = Image.fromarray(flat).quantize(4)
    palette.save(tmp_path / "p.png")
    assert close(decode(tmp_path / "p.png", 8), flat[:8, :8], 2)
    grey = np.tile(np.linspace(0, 255, 64).astype(np.uint8), (64, 1))
    Image.fromarray(grey).save(tmp_path / "l.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "16.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "16.tif")
    one = decode(tmp_path / "l.png", 16)
    assert (one[..., 0] == one[..., 2]).all() and int(one.max()) > 240
    assert close(decode(tmp_path / "16.png", 16), one, 1) and close(decode(tmp_path / "16.tif", 16), one, 1)


def test_transparency_becomes_white(tmp_path):
    clear = np.zeros((10, 10, 4), np.uint8)
    Image.fromarray(clear).save(tmp_path / "clear.png")
    assert (decode(tmp_path / "clear.png", 4) == 255).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation(tmp_path, orientation):
    upright = picture(96, 64)
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Image.Transpose that the camera "did"
    stored = Image.fromarray(upright)
    if orientation > 1:
        stored = stored.transpose(Image.Transpose(undo[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "a.jpg", exif=exif, quality=95)
    assert close(decode(tmp_path / "a.jpg", 32), expected(upright))


def test_damaged_exif_does_not_lose_the_picture(tmp_path):
    save(tmp_path / "a.jpg", quality=95, exif=b"Exif\0\0II*\0\xff\xff\xff\xff rubbish")
    assert close(decode(tmp_path / "a.jpg", 32), expected(picture()))


def test_first_frame_and_one_pixel(tmp_path):
    red, blue = Image.new("RGB", (20, 20), "red"), Image.new("RGB", (20, 20), "blue")
    red.save(tmp_path / "a.gif", save_all=True, append_images=[blue])
    red.save(tmp_path / "a.webp", save_all=True, append_images=[blue], lossless=True)
    for name in ("a.gif", "a.webp"):
        assert close(decode(tmp_path / name, 4), np.array([255, 0, 0]))
    Image.new("RGB", (1, 1), "red").save(tmp_path / "one.png")
    assert (decode(tmp_path / "one.png", 8) == [255, 0, 0]).all()


def test_large_photographs_are_antialiased_as_without_draft(tmp_path):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (800, 1200, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.jpg", quality=95)
    with Image.open(tmp_path / "a.jpg") as whole:
        reference = np.asarray(whole.resize((64, 64), Image.Resampling.BICUBIC)).astype(float)
    assert np.abs(decode(tmp_path / "a.jpg", 64) - reference).mean() < 4  # of a noise whose standard deviation was 74


def unreadable_files(folder: Path) -> dict[str, str]:
    """Files that cannot be read, with a part of the reason."""
    buffer = io.BytesIO()
    Image.fromarray(picture(300, 300)).save(buffer, "JPEG")
    (folder / "cut.jpg").write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.jpg").write_bytes(b"this is no picture")
    (folder / "script.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n")
    (folder / "folder.jpg").mkdir()
    (folder / "loop.jpg").symlink_to("loop.jpg")
    os.mkfifo(folder / "pipe.jpg")
    bomb(folder / "bomb.png")
    Image.fromarray(np.ones((4, 4), np.float32)).save(folder / "float.tif")
    return {
        "cut.jpg": "truncated",
        "empty.jpg": "the file is empty",
        "text.jpg": "not an image",
        "script.jpg": "not an image",
        "folder.jpg": "a folder",
        "loop.jpg": "symbolic links",
        "pipe.jpg": "not a regular file",
        "bomb.png": "pixels",
        "float.tif": "floating-point",
        "absent.jpg": "no such file",
    }


def test_unreadable_images_have_a_reason(tmp_path):
    for name, reason in unreadable_files(tmp_path).items():
        with pytest.raises(ImageError, match=reason):
            decode(tmp_path / name, 32)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_no_permission(tmp_path):
    save(tmp_path / "a.png").chmod(0)
    with pytest.raises(ImageError, match="no permission"):
        decode(tmp_path / "a.png", 32)


def test_no_permission_is_named_whoever_runs_this(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(images.Image, "open", refuse)
    with pytest.raises(ImageError, match="no permission"):
        decode(save(tmp_path / "a.png"), 32)


# --- the store ---


def folder_of(tmp_path: Path, number: int) -> list[Path]:
    folder = tmp_path / "photographs"
    folder.mkdir(exist_ok=True)
    return [save(folder / f"{i}.png", picture(24, 16, seed=i)) for i in range(number)]


def test_store_holds_what_decode_gives_and_is_reused(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "_SHARD", 7)
    paths = folder_of(tmp_path, 30)
    store = open_store(paths, 8, tmp_path / "cache", progress=False)
    assert isinstance(store.images, np.memmap) and store.images.shape == (30, 8, 8, 3) and store.readable.all()
    assert all((store.images[i] == decode(path, 8)).all() for i, path in enumerate(paths))
    assert not list((tmp_path / "cache").glob("*.partial"))
    monkeypatch.setattr(images, "decode", None)  # a second opening decodes nothing ...
    monkeypatch.setattr(images, "_hash", None)  # ... and reads no file
    assert open_store(paths, 8, tmp_path / "cache", progress=False).folder == store.folder


def test_store_is_keyed_by_content_order_and_size(tmp_path):
    paths, cache = folder_of(tmp_path, 5), tmp_path / "cache"
    first = open_store(paths, 8, cache, progress=False)
    assert open_store(paths[::-1], 8, cache, progress=False).folder != first.folder
    assert open_store(paths, 9, cache, progress=False).folder != first.folder
    os.utime(paths[0])
    assert open_store(paths, 8, cache, progress=False).folder == first.folder
    before = paths[0].stat()
    content = bytearray(paths[1].read_bytes())
    paths[0].write_bytes(content[: before.st_size].ljust(before.st_size, b"\0"))  # same size, same time, other content
    os.utime(paths[0], ns=(before.st_atime_ns, before.st_mtime_ns))
    changed = open_store(paths, 8, cache, progress=False)
    assert changed.folder != first.folder and (changed.images[0] == decode(paths[1], 8)).all()


def test_unreadable_images_are_listed_up_to_a_share(tmp_path):
    paths = folder_of(tmp_path, 20)
    reasons = unreadable_files(tmp_path)
    paths[3:3] = [tmp_path / name for name in reasons]
    store = open_store(paths, 8, tmp_path / "cache", max_unreadable=0.5, progress=False)
    assert store.readable.sum() == 20 and len(store.unreadable) == len(reasons) == (~store.readable).sum()
    assert store.unreadable["image"].tolist() == [str(path) for path in paths[3 : 3 + len(reasons)]]
    assert all(part in got for part, got in zip(reasons.values(), store.unreadable["reason"], strict=True))
    assert (store.images[3 : 3 + len(reasons)] == 0).all() and (store.images[-1] == decode(paths[-1], 8)).all()
    with pytest.raises(ImageError, match=r"10 of 30 images cannot be read.*cut.jpg: .*truncated.*raise max_unreadable"):
        open_store(paths, 8, tmp_path / "cache", progress=False)


def test_store_of_a_table_names_images_as_the_table_does(tmp_path):
    folder_of(tmp_path, 2)
    (tmp_path / "t.csv").write_text("image,a\nphotographs/0.png,b\nphotographs/1.png,c\n")
    (tmp_path / "photographs" / "1.png").write_bytes(b"")
    store = open_store(read_table(tmp_path / "t.csv"), 8, tmp_path / "cache", max_unreadable=0.5, progress=False)
    assert store.unreadable.to_dict("list") == {"image": ["photographs/1.png"], "reason": ["the file is empty"]}


BUILD = """
import sys, time
from pathlib import Path
from mtclim.data import images
images._SHARD, real = 4, images.decode
def slow(path, size):
    time.sleep(float(sys.argv[3]))
    print("decoded", flush=True)
    return real(path, size)
images.decode = slow
store = images.open_store(sorted(Path(sys.argv[1]).glob("*.png")), 8, sys.argv[2], workers=1, progress=False)
print(store.folder.name, flush=True)
"""


def start(tmp_path: Path, delay: float) -> subprocess.Popen:
    arguments = [sys.executable, "-c", BUILD, str(tmp_path / "photographs"), str(tmp_path / "cache"), str(delay)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, cwd=Path(images.__file__).parents[2])


def test_a_killed_build_goes_on_where_it_was(tmp_path):
    paths = folder_of(tmp_path, 40)
    process = start(tmp_path, 0.01)
    for _ in range(22):  # five shards of four are finished
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert len(list((tmp_path / "cache").glob("*.partial"))) == 1
    assert not list((tmp_path / "cache").glob("*/COMPLETE"))
    out = start(tmp_path, 0).communicate()[0]
    assert 4 <= out.count("decoded") <= 24
    store = open_store(sorted(paths), 8, tmp_path / "cache", progress=False)
    assert all((store.images[i] == decode(path, 8)).all() for i, path in enumerate(sorted(paths)))


def test_two_processes_build_once(tmp_path):
    folder_of(tmp_path, 20)
    both = [start(tmp_path, 0.02), start(tmp_path, 0.02)]
    outs = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sum(out.count("decoded") for out in outs) == 20
    assert len({out.splitlines()[-1] for out in outs}) == 1


def test_a_damaged_memory_of_contents_is_no_trouble(tmp_path):
    paths = folder_of(tmp_path, 3)
    store = open_store(paths, 8, tmp_path / "cache", progress=False)
    for memory in (tmp_path / "cache").glob("contents-*.npz"):
        memory.write_bytes(b"PK rubbish")
    assert open_store(paths, 8, tmp_path / "cache", progress=False).folder == store.folder


def test_a_full_disk_is_one_clear_error_and_the_same_command_finishes_later(tmp_path, monkeypatch):
    paths, whole = folder_of(tmp_path, 3), os.posix_fallocate

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(ImageError, match="no space left for the decoded images"):
        open_store(paths, 8, tmp_path / "cache", progress=False)
    monkeypatch.setattr(os, "posix_fallocate", whole)
    assert open_store(paths, 8, tmp_path / "cache", progress=False).readable.all()


def test_nothing_to_decode(tmp_path):
    with pytest.raises(ImageError, match="found 0 images"):
        open_store([], 8, tmp_path / "cache")


@pytest.mark.skipif("MTCLIM_SHARED_DATA" not in os.environ, reason="MTCLIM_SHARED_DATA is not set")
def test_real_photographs(tmp_path):
    paths = sorted((Path(os.environ["MTCLIM_SHARED_DATA"]) / "facades" / "images").glob("*.jpg"))
    store = open_store(paths, 64, tmp_path / "cache", progress=False)
    assert store.readable.all() and len(paths) == 971 and 40 < store.images.mean() < 200
    start = time.perf_counter()
    open_store(paths, 64, tmp_path / "cache", progress=False)
    assert time.perf_counter() - start < 5
