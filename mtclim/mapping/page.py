"""The interactive map: one HTML file with tasks, classes, confidence, and each façade's photograph and answers."""

import base64
import io
import json
import os
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
from PIL import Image

from mtclim.data.images import ImageError, decode
from mtclim.files import write_text
from mtclim.mapping.areas import points
from mtclim.mapping.frequencies import probabilities
from mtclim.mapping.maps import outlines
from mtclim.metrics import codes
from mtclim.style import palette
from mtclim.tasks import Tasks

PAGE_BYTES = 4_500_000
"""About the largest size of a page; beyond it, it shows a fixed random sample of the façades."""
_THUMBNAIL = 64  # pixels


def _packed(array: np.ndarray, kind: str) -> str:
    return base64.b64encode(np.ascontiguousarray(array, dtype=kind).tobytes()).decode()


def _picture(path: Path) -> str:
    """A small JPEG in base64; "" where the photograph cannot be read."""
    try:
        jpeg = io.BytesIO()
        Image.fromarray(decode(path, _THUMBNAIL)).save(jpeg, "JPEG", quality=60)
        return base64.b64encode(jpeg.getvalue()).decode()
    except ImageError:
        return ""


def write_page(
    predictions: pd.DataFrame,
    tasks: Tasks,
    path: str | Path,
    polygons: Sequence[gpd.GeoDataFrame] = (),
    title: str = "Predicted classes",
    note: str = "",
    folder: str | Path | None = None,
    embedded: bool = False,
) -> Path:
    """Write an interactive map, an HTML file that fetches nothing from the network, with polygons beneath the points.

    Where the page would pass ``PAGE_BYTES``, it shows a fixed random sample. Text from tables travels as JSON and is
    shown with ``textContent`` only: it cannot become HTML or script.

    Parameters
    ----------
    folder : Where the photographs' names start. A click shows the photograph as long as the page finds it there.
    embedded : Whether the page holds small copies of the photographs, which a click shows instead.
    """
    frame, colours, path = points(predictions), palette(tasks), Path(path)
    size = tasks.total + 40 + frame["image"].str.len().mean() + 1800 * embedded  # bytes a façade, about
    if size * len(frame) > PAGE_BYTES:
        shown = frame.sample(int(PAGE_BYTES / size), random_state=0).sort_index()
        note = f"{note} A random sample of {len(shown):,} of {len(frame):,} façades.".strip()
        frame = shown
    x, y = frame.geometry.x.to_numpy(), frame.geometry.y.to_numpy()
    middle = x.mean(), y.mean()
    simple = [layer.set_geometry(layer.to_crs(frame.crs).simplify(2.0)) for layer in reversed(polygons)]
    rings = [(ring - middle).round().astype(int).ravel().tolist() for layer in simple for ring in outlines(layer)]
    entries = []
    for task, classes in tasks.items():
        p = probabilities(frame, task, classes)
        packed = {"codes": _packed(codes(frame[f"{task}:pred"], classes), "<u2"), "p": _packed((p * 200).round(), "u1")}
        names = [tasks.title(task, name) for name in classes]
        fills = [colours[task][name] for name in classes]
        entries.append({"name": tasks.title(task), "classes": names, "colours": fills, **packed})
    images, nothing = frame["image"].astype(str).tolist(), pd.Series(np.nan, frame.index)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "title": title, "note": note, "tasks": entries, "rings": rings,
        "x": _packed(x - middle[0], "<f4"), "y": _packed(y - middle[1], "<f4"),
        "bearing": _packed(frame.get("bearing", nothing).to_numpy(float), "<f4"), "images": images,
        "training": _packed(frame.get("in_training", nothing).eq(True), "u1"),
        "folder": None if folder is None or embedded else Path(os.path.relpath(folder, path.parent)).as_posix(),
        "pictures": [_picture(Path(folder, name)) for name in images] if embedded else [],
    }  # fmt: skip
    text = json.dumps(content, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    page = (files("mtclim.mapping") / "map.html").read_text(encoding="utf-8")
    write_text(path, page.replace("/*CONTENT*/", text))
    return path
