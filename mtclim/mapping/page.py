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


def _packed(array: np.ndarray, kind: str) -> str:
    return base64.b64encode(np.asarray(array).astype(kind).tobytes()).decode()


def _picture(path: Path) -> str:
    """A small JPEG in base64; "" where the photograph cannot be read."""
    try:
        jpeg = io.BytesIO()
        Image.fromarray(decode(path, 64)).save(jpeg, "JPEG", quality=60)
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

    Where the page would pass ``PAGE_BYTES``, it shows a fixed random sample. A click shows the photograph as long as
    the page finds it in ``folder``, where the photographs' names start, or a small copy that is ``embedded``. Text from
    tables travels as JSON and is shown with ``textContent`` only: it cannot become HTML or script.
    """
    frame, colours, path = points(predictions), palette(tasks), Path(path)
    size = tasks.total + 40 + frame["image"].str.len().mean() + 1800 * embedded  # bytes a façade, about
    if size * len(frame) > PAGE_BYTES:
        total, frame = len(frame), frame.sample(int(PAGE_BYTES / size), random_state=0).sort_index()
        note = f"{note} A random sample of {len(frame):,} of {total:,} façades.".strip()
    middle = frame.geometry.x.mean(), frame.geometry.y.mean()
    simple = [layer.to_crs(frame.crs).simplify(2.0) for layer in reversed(polygons)]
    rings = [(ring - middle).round().astype(int).ravel().tolist() for layer in simple for ring in outlines(layer)]
    entries = []
    for task, classes in tasks.items():
        names, fills = [tasks.title(task, name) for name in classes], [colours[task][name] for name in classes]
        p = _packed((200 * probabilities(frame, task, classes)).round(), "u1")
        labels = _packed(codes(frame[f"{task}:pred"], classes), "<u2")
        entries.append({"name": tasks.title(task), "classes": names, "colours": fills, "codes": labels, "p": p})
    known, images = frame.reindex(columns=["bearing", "in_training"]), frame["image"].astype(str).tolist()
    content = {"title": title, "note": note, "tasks": entries, "rings": rings, "images": images}
    content |= {"x": _packed(frame.geometry.x - middle[0], "<f4"), "y": _packed(frame.geometry.y - middle[1], "<f4")}
    content |= {"bearing": _packed(known["bearing"], "<f4"), "training": _packed(known["in_training"].eq(True), "u1")}
    content["folder"] = None if folder is None or embedded else Path(os.path.relpath(folder, path.parent)).as_posix()
    content["pictures"] = [_picture(Path(folder, name)) for name in images] if embedded else []
    text = json.dumps(content, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    page = (files("mtclim.mapping") / "map.html").read_text(encoding="utf-8")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, page.replace("/*CONTENT*/", text))
    return path
