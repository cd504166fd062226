"""Images of every kind are decoded or listed with a reason; the store is whole, shared, resumable and right."""

import io
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from mtclim.city import make_city
from mtclim.data import images
from mtclim.data.images import FORMATS, SUFFIXES, ImageError, decode, digest_of, is_panorama, open_store, same_picture

SHARED = Path(os.environ.get("MTCLIM_SHARED_DATA", "absent"))


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


@pytest.mark.parametrize("suffix", [".jfif", ".jpe", ".gif", ".avif", ".jp2", ".mpo"])
def test_suffixes_are_pillows_own(tmp_path, suffix):
    if suffix == ".avif" and "AVIF" not in FORMATS:
        pytest.skip("this Pillow has no AVIF")
    assert suffix in SUFFIXES and suffix in Image.registered_extensions()
    kind = Image.registered_extensions()[suffix]
    path = save(tmp_path / f"a{suffix}", format=kind, **({"quality": 95} if kind in ("JPEG", "MPO", "AVIF") else {}))
    assert close(decode(path, 32), expected(picture()), 6)


def test_what_is_no_picture_is_not_a_suffix_of_one():
    assert not SUFFIXES & {".pdf", ".eps", ".mpg", ".h5", ".txt", ".svg", ""} and {".heic", ".heif"} <= SUFFIXES


def test_a_plug_in_for_heic_is_used_where_it_is_installed(monkeypatch):
    called = []
    monkeypatch.setitem(sys.modules, "pillow_heif", SimpleNamespace(register_heif_opener=lambda: called.append(1)))
    images._formats.cache_clear()
    assert images.FORMATS and called


def test_pillow_is_left_alone_at_import():
    code = "import mtclim.data.images; from PIL import Image; print(Image._initialized)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "0"


@pytest.mark.parametrize(
    ("scale", "kind"),
    [(257, np.uint16), (16, np.uint16), (1, np.uint16), (257, np.int32), (8_000_000, np.int32), (1, np.int32)]
    + [(1 / 255, np.float32), (1, np.float32), (257, np.float32), (0.0001, np.float32)],
)
def test_deep_pixels_are_scaled_by_their_range(tmp_path, scale, kind):
    grey = np.asarray(Image.fromarray(picture()).convert("L")).astype(float)
    grey[0, 0] = 255
    Image.fromarray((grey * scale).astype(kind)).save(tmp_path / "deep.tif")
    Image.fromarray(grey.astype(np.uint8)).save(tmp_path / "l.png")
    assert close(decode(tmp_path / "deep.tif", 16), decode(tmp_path / "l.png", 16), 2)


def test_black_stays_black_and_colours_of_16_bits_are_read(tmp_path):
    Image.fromarray(np.zeros((8, 8), np.float32)).save(tmp_path / "black.tif")
    assert (decode(tmp_path / "black.tif", 4) == 0).all()
    deep_colours(tmp_path / "deep.tif")
    assert close(decode(tmp_path / "deep.tif", 8), np.array([200, 100, 50]), 2)


def deep_colours(path: Path):
    """A TIFF of 8 x 8 pixels of 3 x 16 bits, which Pillow doesn't write."""
    tags = [(256, 3, 1, 8), (257, 3, 1, 8), (258, 3, 3, 134), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 1, 140)]
    tags += [(277, 3, 1, 3), (278, 3, 1, 8), (279, 4, 1, 384)]
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags)
    head = (head + bytes(4)).ljust(134, b"\0") + struct.pack("<3H", 16, 16, 16)
    path.write_bytes(head + struct.pack("<3H", 200 * 257, 100 * 257, 50 * 257) * 64)


def test_bytes_and_paths_are_the_same_picture(tmp_path):
    path = save(tmp_path / "a.png")
    assert (decode(path.read_bytes(), 16) == decode(path, 16)).all()
    assert digest_of(path) == digest_of(path.read_bytes()) != digest_of(b"") and len(digest_of(path)) == 32


def test_panoramas_are_recognised(tmp_path):
    xmp = (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><GPano:ProjectionType>equirectangular</GPano:ProjectionType></x:xmpmeta>'
    )
    paths = [
        save(tmp_path / "wide.jpg", picture(1000, 500)),
        save(tmp_path / "named.jpg", picture(400, 300), xmp=xmp),
        save(tmp_path / "small.jpg", picture(400, 200)),
        save(tmp_path / "photograph.jpg", picture(1600, 1200)),
    ]
    assert [is_panorama(path) for path in paths] == [True, True, False, False]
    store = open_store(paths, 8, tmp_path / "cache", progress=False, names=list("abcd"))
    assert store.readable.all() and len(store.notes) == 1 and store.notes[0].startswith("2 of 4 images are 360°")
    assert ": a, b." in store.notes[0]


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
    Image.fromarray(np.full((4, 4), np.nan, np.float32)).save(folder / "float.tif")
    (folder / "pointer.jpg").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
    (folder / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    return {
        "cut.jpg": "truncated",
        "empty.jpg": "the file is empty",
        "text.jpg": "not an image",
        "script.jpg": "not an image",
        "folder.jpg": "a folder",
        "loop.jpg": "symbolic links",
        "pipe.jpg": "a device",
        "bomb.png": "pixels",
        "float.tif": "not finite",
        "pointer.jpg": "a Git LFS pointer",
        "phone.heic": "a HEIC picture; install the package pillow-heif",
        "absent.jpg": "No such file",
    }


def test_unreadable_images_have_a_reason(tmp_path):
    for name, reason in unreadable_files(tmp_path).items():
        with pytest.raises(ImageError, match=reason):
            decode(tmp_path / name, 32)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_no_permission(tmp_path):
    save(tmp_path / "a.png").chmod(0)
    with pytest.raises(ImageError, match="Permission denied"):
        decode(tmp_path / "a.png", 32)


def test_no_permission_is_named_whoever_runs_this(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(ImageError, match="Permission denied"):
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
    assert store.digests.tolist() == [digest_of(path) for path in paths] and store.thumbnails.shape == (30, 16, 17, 3)
    monkeypatch.setattr(images, "_content", None)  # a second opening reads no file
    assert open_store(paths, 8, tmp_path / "cache", progress=False).folder == store.folder


def test_a_file_is_read_once(tmp_path, monkeypatch):
    paths, read, whole = folder_of(tmp_path, 5), [], Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path) or whole(path))
    open_store(paths, 8, tmp_path / "cache", progress=False)
    assert sorted(path for path in read if path.suffix == ".png") == paths


def test_store_is_keyed_by_files_order_and_size(tmp_path):
    paths, cache = folder_of(tmp_path, 5), tmp_path / "cache"
    first = open_store(paths, 8, cache, progress=False)
    assert open_store(paths[::-1], 8, cache, progress=False).folder != first.folder
    assert open_store(paths, 9, cache, progress=False).folder != first.folder
    before = paths[0].stat()
    content = bytearray(paths[1].read_bytes())
    paths[0].write_bytes(content[: before.st_size].ljust(before.st_size, b"\0"))  # same size, same time, other content
    os.utime(paths[0], ns=(before.st_atime_ns, before.st_mtime_ns))
    changed = open_store(paths, 8, cache, progress=False)
    assert changed.folder != first.folder and (changed.images[0] == decode(paths[1], 8)).all()


def test_without_what_only_some_systems_have(tmp_path, monkeypatch):
    for name in ("pwrite", "posix_fallocate", "sched_getaffinity"):
        monkeypatch.delattr(os, name, raising=False)
    monkeypatch.setitem(sys.modules, "resource", None)
    paths = folder_of(tmp_path, 5)
    store = open_store(paths, 8, tmp_path / "cache", progress=False)
    assert all((store.images[i] == decode(path, 8)).all() for i, path in enumerate(paths))


def test_half_a_store_is_never_taken_for_a_whole_one(tmp_path):
    paths = folder_of(tmp_path, 5)
    store = open_store(paths, 8, tmp_path / "cache", progress=False)
    expected = store.images.copy()
    partial = store.folder.rename(f"{store.folder}.partial")  # as if killed before the new name
    (partial / "images.npy").write_bytes(b"half")
    assert (open_store(paths, 8, tmp_path / "cache", progress=False).images == expected).all() and not partial.exists()


def test_unreadable_images_are_listed_up_to_a_share(tmp_path):
    paths = folder_of(tmp_path, 20)
    reasons = unreadable_files(tmp_path)
    paths[3:3] = [tmp_path / name for name in reasons]
    store = open_store(paths, 8, tmp_path / "cache", max_unreadable=0.5, progress=False)
    assert store.readable.sum() == 20 and len(store.unreadable) == len(reasons) == (~store.readable).sum()
    assert store.unreadable["image"].tolist() == [str(path) for path in paths[3 : 3 + len(reasons)]]
    assert all(part in got for part, got in zip(reasons.values(), store.unreadable["reason"], strict=True))
    assert (store.images[3 : 3 + len(reasons)] == 0).all() and (store.images[-1] == decode(paths[-1], 8)).all()
    with pytest.raises(ImageError, match=r"12 of 32 images cannot be read.*cut.jpg: .*truncated.*raise max_unreadable"):
        open_store(paths, 8, tmp_path / "cache", progress=False)


def test_images_have_the_names_that_were_given(tmp_path):
    paths = folder_of(tmp_path, 2)
    paths[1].write_bytes(b"")
    store = open_store(
        paths, 8, tmp_path / "cache", max_unreadable=0.5, progress=False, names=["a", "photographs/1.png"]
    )
    assert store.unreadable.to_dict("list") == {"image": ["photographs/1.png"], "reason": ["the file is empty"]}
    assert store.digests[1] == digest_of(b"")


BUILD = """
import sys, time
from pathlib import Path
from mtclim.data import images
images._SHARD, images.cores, real = 4, lambda: 1, images.decode
def slow(path, size):
    time.sleep(float(sys.argv[3]))
    print("decoded", flush=True)
    return real(path, size)
images.decode = slow
store = images.open_store(sorted(Path(sys.argv[1]).glob("*.png")), 8, sys.argv[2], progress=False)
print(store.folder.name, flush=True)
"""


def start(tmp_path: Path, delay: float) -> subprocess.Popen:
    arguments = [sys.executable, "-c", BUILD, str(tmp_path / "photographs"), str(tmp_path / "cache"), str(delay)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, cwd=Path(images.__file__).parents[2])


def test_a_killed_build_leaves_no_store(tmp_path):
    paths = folder_of(tmp_path, 40)
    process = start(tmp_path, 0.01)
    for _ in range(22):
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert [path.suffix for path in (tmp_path / "cache").iterdir() if path.is_dir()] == [".partial"]
    store = open_store(sorted(paths), 8, tmp_path / "cache", progress=False)
    assert all((store.images[i] == decode(path, 8)).all() for i, path in enumerate(sorted(paths)))


def test_two_processes_build_once(tmp_path):
    folder_of(tmp_path, 20)
    both = [start(tmp_path, 0.02), start(tmp_path, 0.02)]
    outs = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sum(out.count("decoded") for out in outs) == 20
    assert len({out.splitlines()[-1] for out in outs}) == 1


def test_a_full_disk_is_one_clear_error_and_the_same_command_finishes_later(tmp_path, monkeypatch):
    paths = folder_of(tmp_path, 3)
    with monkeypatch.context() as now:
        now.setattr(images.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 100, 0))
        with pytest.raises(ImageError, match="decoded images .* cannot be kept: .*No space left"):
            open_store(paths, 8, tmp_path / "cache", progress=False)

    def full(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as now:
        now.setattr(images.np.lib.format, "write_array_header_1_0", full)
        with pytest.raises(ImageError, match="decoded images .* cannot be kept: .*No space left"):
            open_store(paths, 8, tmp_path / "cache", progress=False)
    assert open_store(paths, 8, tmp_path / "cache", progress=False).readable.all()


def test_nothing_to_decode(tmp_path):
    with pytest.raises(ImageError, match="found 0 images"):
        open_store([], 8, tmp_path / "cache")


# --- the same picture twice ---


def copies(path: Path, folder: Path) -> list[Path]:
    """A photograph copied, recompressed, resized and slightly brightened."""
    image = Image.open(path).convert("RGB")
    made = {
        "coarse": image,
        "large": image.resize((2 * image.width, 2 * image.height), Image.Resampling.BICUBIC),
        "uneven": image.resize((int(image.width * 1.3), int(image.height * 1.1)), Image.Resampling.LANCZOS),
        "bright": ImageEnhance.Brightness(image).enhance(1.05),
    }
    paths = [folder / f"{path.stem}-{name}.jpg" for name in ("same", *made)]
    shutil.copy(path, paths[0])
    for copy, picture in zip(paths[1:], made.values(), strict=True):
        picture.save(copy, quality=80)
    return paths


def test_copies_are_found_and_neighbours_in_the_drawn_city_are_not_taken_for_one(tmp_path):
    make_city(tmp_path / "city", facades=1500, labelled=1500, size=64, seed=0, progress=False)
    paths = sorted((tmp_path / "city" / "images").rglob("*.jpg"))
    again = [copies(path, tmp_path) for path in paths[::100]]
    store = open_store([*paths, *sum(again, [])], 64, tmp_path / "cache", progress=False)
    groups = same_picture(store)
    assert len(np.unique(groups[: len(paths)])) == len(paths) == 1500
    found = groups[len(paths) :].reshape(len(again), -1) == groups[: len(paths) : 100, None]
    assert found[:, 0].all() and found.mean() > 0.97


def test_ten_photographs_under_many_names_are_ten_groups(tmp_path):
    rng, base = np.random.default_rng(0), []
    for k in range(10):
        base.append(save(tmp_path / f"base{k}.png", rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)))
    paths = [Path(shutil.copy(base[i % 10], tmp_path / f"{i:03}.png")) for i in range(120)]
    for name in ("broken-1.png", "broken-2.png"):
        paths.append(tmp_path / name)
        paths[-1].write_bytes(b"the same, yet no picture")
    groups = same_picture(open_store(paths, 32, tmp_path / "cache", max_unreadable=0.1, progress=False))
    assert (groups[:120] == groups[np.arange(120) % 10]).all() and len(np.unique(groups)) == 12


def test_flat_pictures_of_different_brightness_are_different(tmp_path):
    paths = [save(tmp_path / f"{level}.png", np.full((20, 20, 3), level, np.uint8)) for level in (40, 60, 200, 220)]
    assert len(np.unique(same_picture(open_store(paths, 16, tmp_path / "cache", progress=False)))) == 4


def test_twenty_thousand_images_are_compared_in_seconds():
    rng, n = np.random.default_rng(0), 20_000
    thumbnails = rng.integers(0, 256, (n, 16, 17, 3), dtype=np.uint8)
    thumbnails[n // 2 :] = thumbnails[: n // 2] // 8 * 8  # as if compressed
    digests = np.array([f"{i:032x}" for i in range(n)])
    store = images.ImageStore(None, np.ones(n, bool), None, Path(), digests, thumbnails)
    start = time.process_time()
    groups = same_picture(store)
    assert time.process_time() - start < 20
    assert (groups[: n // 2] == groups[n // 2 :]).mean() > 0.99 and len(np.unique(groups)) >= n // 2


@pytest.mark.skipif(not SHARED.exists(), reason="MTCLIM_SHARED_DATA is not set")
def test_leaves_on_white_ground_are_not_taken_for_one(tmp_path):
    paths = sorted((SHARED / "coffee_leaves").rglob("*.jpg"))
    groups = same_picture(open_store(paths, 64, tmp_path / "cache", progress=False))
    assert len(paths) == 1685 and 1679 <= len(np.unique(groups)) < 1685  # six leaves were taken twice


@pytest.mark.skipif(not (SHARED.parent / "cases").exists(), reason="MTCLIM_SHARED_DATA is not set")
def test_every_file_of_a_folder_is_read_or_named(tmp_path):
    for path in (SHARED.parent / "cases" / "folder_suffixes" / "photos").iterdir():
        assert path.suffix.lower() in SUFFIXES
        if path.suffix == ".heic":
            with pytest.raises(ImageError, match="HEIC"):
                decode(path, 16)
        else:
            assert decode(path, 16).shape == (16, 16, 3)


@pytest.mark.skipif(not SHARED.exists(), reason="MTCLIM_SHARED_DATA is not set")
def test_real_photographs(tmp_path):
    paths = sorted((SHARED / "facades" / "images").glob("*.jpg"))
    store = open_store(paths, 64, tmp_path / "cache", progress=False)
    assert store.readable.all() and len(paths) == 971 and 40 < store.images.mean() < 200
    start = time.perf_counter()
    open_store(paths, 64, tmp_path / "cache", progress=False)
    assert time.perf_counter() - start < 5


def test_plain_pictures_of_different_colours_are_different_pictures(tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(60)]
    for i, path in enumerate(paths):
        Image.new("RGB", (8, 8), (4 * i, 90, 200 - 3 * i)).save(path)
    store = images.open_store(paths, 32, tmp_path / "cache", progress=False)
    assert len(np.unique(images.same_picture(store))) == 60
