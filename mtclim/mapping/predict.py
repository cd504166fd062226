"""Prediction: photographs in, one row an image out (section 4.5), as a frame or streamed to GeoParquet.

Threads decode ahead while the model runs. ``predict_file`` writes shards, each whole or not at all, so that a killed
prediction goes on where it stopped, and it never holds all images in memory. geopandas is not needed.
"""

import hashlib
import json
import os
import shutil
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tqdm.auto import tqdm

from mtclim import __version__
from mtclim.files import whole_or_absent
from mtclim.mapping.ensemble import Ensemble, Run, listed_runs, load_ensemble, make_consistent
from mtclim.mapping.photographs import CARRIED, decoded_batches, read_source, write_csv

ANSWERS = {
    False: "the networks' own probabilities; each label is the most probable class of its task",
    True: "the joint over training labelsets; labels are the most probable labelset, probabilities its marginals",
}
"""What a prediction holds, by whether it was made ``consistent``; the metadata of a file say it."""

# ---------------------------------------------------------------- the frame of predictions


class Answers(NamedTuple):
    """The predictions of some photographs, [image, reason] of those that cannot be read, and names of panoramas."""

    frame: pd.DataFrame
    listed: list[list[str]]
    panoramas: list[str]


def _answers(
    batches: Sequence[pd.DataFrame], ensemble: Ensemble, batch_size: int, workers: int | None, bar: tqdm
) -> Iterator[Answers]:
    paths = [batch["path"].tolist() for batch in batches]
    for batch, (pixels, found) in zip(
        batches, decoded_batches(paths, ensemble.sizes, batch_size, workers), strict=True
    ):
        p, good = ensemble.probabilities(pixels)[: len(batch)], np.array([one.reason == "" for one in found])
        bar.update(len(batch))
        digests = np.array([one.digest for one in found], object)
        listed = [[name, one.reason] for name, one in zip(batch["image"], found, strict=True) if one.reason]
        panoramas = [name for name, one in zip(batch["image"], found, strict=True) if one.panorama]
        yield Answers(_frame(batch[good], p[good], digests[good], ensemble), listed, panoramas)


def _joined(parts: Iterable[Answers], nothing: pd.DataFrame) -> Answers:
    parts = list(parts)
    frame = pd.concat([part.frame for part in parts if len(part.frame)] or [nothing], ignore_index=True)
    return Answers(
        frame, [own for part in parts for own in part.listed], [own for part in parts for own in part.panoramas]
    )


def _frame(rows: pd.DataFrame, p: np.ndarray, digests: np.ndarray, ensemble: Ensemble) -> pd.DataFrame:
    """One row a photograph: what is known of it, then the columns of each task."""
    carried = [name for name in CARRIED if name in rows]
    frame = rows[["image", "lon", "lat", "bearing", "block", *carried]].copy()
    frame["doubtful"] = rows["reason"].where(rows["reason"].str.startswith("doubtful"), None)
    columns: dict[str, object] = {}
    if ensemble.splits is not None:
        split = pd.Series(digests, frame.index, dtype=object).map(ensemble.splits)
        columns |= {"split": split, "in_training": (split == "train").to_numpy(bool)}
    start = 0
    for task, classes in ensemble.tasks.items():
        if f"{task}:true" in rows:
            columns[f"{task}:true"] = rows[f"{task}:true"].astype(object)
        block = p[:, start : start + len(classes)]
        start += len(classes)
        columns[f"{task}:pred"] = np.asarray(classes, object)[block.argmax(1)]
        columns |= {f"{task}:p:{name}": block[:, k] for k, name in enumerate(classes)}
    frame = frame.assign(**columns)
    return make_consistent(frame, ensemble.tasks, ensemble.joint) if ensemble.joint and len(frame) else frame


def _batches(rows: pd.DataFrame, size: int) -> list[pd.DataFrame]:
    return [rows.iloc[start : start + size] for start in range(0, len(rows), size)]


def predict(
    model_or_runs: torch.nn.Module | Run | Sequence[Run],
    source: str | Path | Sequence[str | Path],
    calibrated: bool = False,
    consistent: bool = False,
    batch_size: int = 64,
    workers: int | None = None,
    image_root: str | Path | None = None,
    device: str | None = None,
    progress: bool = False,
) -> pd.DataFrame:
    """Predict photographs and return one row for each that can be read.

    Parameters
    ----------
    model_or_runs, calibrated, consistent, device : as in :func:`mtclim.mapping.ensemble.load_ensemble`.
    source : files, a folder of photographs, or a table of images. No position is required.
    batch_size, workers : images of one forward pass, and threads that decode.
    image_root : the folder that the names in a table are relative to; by default the table's.
    progress : whether a bar is shown.

    Returns
    -------
    DataFrame
        image; lon, lat, bearing, block and so on where there are any; then for each task ``<task>:true`` (where the
        table has it), ``<task>:pred`` and ``<task>:p:<class>``. ``attrs["listed"]`` has [image, reason] of each
        photograph that cannot be read, of which a warning tells; ``attrs["panoramas"]`` names the 360° panoramas, which
        are squeezed into the square; ``attrs["others"]`` counts the files of a folder that are not photographs.

    Raises
    ------
    ValueError
        Where no photograph can be read, for settings out of their range, and for models and sources that cannot be
        used.
    """
    _check(batch_size=batch_size, workers=workers)
    ensemble = load_ensemble(model_or_runs, calibrated, consistent, device)
    found = read_source(source, ensemble.tasks, False, image_root)
    with tqdm(total=len(found.frame), unit="img", desc="predict", disable=not progress) as bar:
        answers = _answers(_batches(found.frame, batch_size), ensemble, batch_size, workers, bar)
        frame, listed, panoramas = _joined(answers, found.frame[:0])
    first = "; ".join(": ".join(entry) for entry in listed[:5])
    if not len(frame):
        raise ValueError(f"predict: none of {len(listed)} photographs can be read ({first}).")
    if listed:
        warnings.warn(f"{len(listed)} of {len(found.frame)} photographs cannot be read: {first}", stacklevel=2)
    if panoramas:
        warnings.warn(f"{len(panoramas)} panoramas are squeezed: {', '.join(panoramas[:5])}", stacklevel=2)
    optional = ["lon", "lat", "bearing", "block", "doubtful", "split"]
    empty = [name for name in optional if name in frame and frame[name].isna().all()]
    frame = frame.drop(columns=empty)
    frame.attrs |= {"listed": listed, "panoramas": panoramas, "others": dict(found.others)}
    return frame


# ---------------------------------------------------------------- shards and the file


def predict_file(
    runs: Run | Sequence[Run],
    source: str | Path | Sequence[str | Path],
    out: str | Path,
    calibrated: bool = False,
    consistent: bool = False,
    shard_rows: int = 8192,
    batch_size: int = 64,
    workers: int | None = None,
    part: tuple[int, int] = (0, 1),
    require_position: bool = True,
    image_root: str | Path | None = None,
    limit: int | None = None,
    device: str | None = None,
    progress: bool = True,
) -> Path:
    """Predict every photograph of a source into a GeoParquet file; killed and repeated, it goes on where it was.

    Parameters
    ----------
    runs : one or several run folders of the same tasks, whose probabilities are averaged. A folder that holds finished
        runs stands for the one that is best on validation.
    source, calibrated, consistent, batch_size, workers, image_root, device, progress : as in :func:`predict`.
    out : the file to write. Beside the columns of :func:`predict` it has the point, and split and in_training of
        photographs whose content a run has used. Its metadata say what made it and which answer it holds. The companion
        ``<out>.listed.csv`` has what could not be read, or placed, with the reason.
    shard_rows : images between two files of progress: what a kill can cost.
    part : (i, n) predicts every n-th shard only, for n machines that share the folder of ``out``, and returns the
        folder of shards. The same call without ``part`` joins them.
    require_position : whether a photograph without a position is listed and not predicted.
    limit : predict a fixed random sample of so many images.

    Returns
    -------
    Path
        ``out``.

    Raises
    ------
    ValueError
        For settings out of their range, and for runs and sources that cannot be used.
    """
    started, out, (index, count) = time.perf_counter(), Path(out), part
    _check(shard_rows=shard_rows, batch_size=batch_size, workers=workers, limit=limit or None)
    if not 0 <= index < count:
        raise ValueError(f"part: found {index} of {count}; expected 0 <= i < n.")
    ensemble = load_ensemble(listed_runs(runs), calibrated, consistent, device)
    found = read_source(source, ensemble.tasks, require_position, image_root)
    rows = found.frame
    if limit and limit < len(rows):
        rows = rows.sample(limit, random_state=0).sort_index()
    total, unplaced = len(rows), rows[(rows["reason"] != "") & require_position]
    rows = rows.drop(unplaced.index).reset_index(drop=True)
    shard_rows = -(-shard_rows // batch_size) * batch_size
    settings = {"models_sha256": ensemble.digest, "calibrated": calibrated or consistent, "answer": ANSWERS[consistent]}
    settings |= {"batch_size": batch_size, "device": str(ensemble.device)}
    key = _key(rows, settings | {"shard_rows": shard_rows, "temperatures": ensemble.temperatures})
    if out.exists() and provenance_of(out).get("key") == key:
        return out
    folder = Path(f"{out}.shards") / key
    folder.mkdir(parents=True, exist_ok=True)
    parts = _batches(rows, shard_rows) or [rows]
    shards = [folder / f"shard-{number:06d}.parquet" for number in range(len(parts))]
    todo = [number for number in range(index, len(parts), count) if not shards[number].exists()]
    size = sum(len(parts[number]) for number in todo)
    with tqdm(total=size, unit="img", unit_scale=True, desc="predict", disable=not progress, smoothing=0.1) as bar:
        _predict_shards([(parts[number], shards[number]) for number in todo], ensemble, batch_size, workers, bar)
    if part != (0, 1):
        return folder
    provenance = {"key": key, "runs": [str(run) for run in listed_runs(runs)], "source": str(source)} | settings
    provenance |= {
        "folder": None if found.folder is None else str(found.folder), "others": dict(found.others), "images": total,
        "tasks": ensemble.tasks.to_dict(), "torch": torch.__version__, "mtclim": __version__,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(time.perf_counter() - started, 3), "predicted_now": size,
    }  # fmt: skip
    _merge(shards, out, provenance, unplaced[["image", "reason"]].to_numpy().tolist())
    shutil.rmtree(folder.parent)
    return out


def _check(**settings: int | None) -> None:
    for name, value in settings.items():
        if value is not None and value < 1:
            raise ValueError(f"{name}: found {value}; expected 1 or more.")


def _key(rows: pd.DataFrame, settings: dict) -> str:
    """What the shards depend on: the models, the rows in order, the size and time of each file, the batches."""

    def state(path: str) -> tuple[int, int]:
        try:
            return os.stat(path).st_size, os.stat(path).st_mtime_ns
        except OSError:
            return -1, -1

    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    used = rows.assign(state=[str(state(path)) for path in rows["path"]])
    digest.update(pd.util.hash_pandas_object(used.astype(str), index=False).to_numpy().tobytes())
    return digest.hexdigest()[:16]


def _predict_shards(
    shards: Sequence[tuple[pd.DataFrame, Path]], ensemble: Ensemble, batch_size: int, workers: int | None, bar: tqdm
) -> None:
    """Predict shards, each a whole number of padded batches, and write each when it is full."""
    batches = [_batches(rows, batch_size) for rows, _ in shards]
    answers = _answers([batch for own in batches for batch in own], ensemble, batch_size, workers, bar)
    for own, (rows, path) in zip(batches, shards, strict=True):
        nothing = _frame(rows[:0], np.zeros((0, ensemble.tasks.total), np.float32), np.array([], object), ensemble)
        frame, listed, panoramas = _joined((next(answers) for _ in own), nothing)
        frame["geometry"] = _points(frame["lon"].to_numpy(float), frame["lat"].to_numpy(float))
        table = pa.Table.from_pandas(frame, _schema(frame), preserve_index=False)
        notes = {"listed": json.dumps(listed), "panoramas": json.dumps(panoramas)}
        with whole_or_absent(path) as beside:
            pq.write_table(table.replace_schema_metadata(notes), beside)


def _schema(frame: pd.DataFrame) -> pa.Schema:
    """The same types in every shard, also where a shard has no value in a column."""
    kinds = dict.fromkeys(["lon", "lat", "bearing", "weight"], pa.float64())
    kinds |= {"in_training": pa.bool_(), "geometry": pa.binary()}
    probability = [name for name in frame if name.split(":")[1:2] == ["p"]]
    kinds |= dict.fromkeys(probability, pa.float32())
    return pa.schema([(name, kinds.get(name, pa.string())) for name in frame])


def _points(lon: np.ndarray, lat: np.ndarray) -> list[bytes | None]:
    """WKB points, None where a coordinate is missing."""
    wkb = np.zeros(len(lon), np.dtype([("order", "u1"), ("kind", "<u4"), ("x", "<f8"), ("y", "<f8")]))
    wkb["order"], wkb["kind"], wkb["x"], wkb["y"] = 1, 1, lon, lat
    placed = np.isfinite(lon) & np.isfinite(lat)
    return [point if ok else None for point, ok in zip(wkb.view("V21").tolist(), placed, strict=True)]


def _merge(shards: list[Path], out: Path, provenance: dict, listed: list[list[str]]) -> None:
    """Join the shards, one in memory at a time, into a GeoParquet file and the list of what was not predicted."""
    boxes, rows, panoramas = [], 0, []
    with whole_or_absent(out) as beside:
        with pq.ParquetWriter(beside, pq.read_schema(shards[0]).remove_metadata(), compression="zstd") as writer:
            for path in shards:
                shard = pq.read_table(path)
                listed += json.loads(shard.schema.metadata[b"listed"])
                panoramas += json.loads(shard.schema.metadata[b"panoramas"])
                rows += len(shard)
                position = np.column_stack([shard["lon"], shard["lat"]]).astype(float)
                position = position[np.isfinite(position).all(1)]
                if len(position):
                    boxes.append([*position.min(0), *position.max(0)])
                writer.write_table(shard.replace_schema_metadata())
            column = {"encoding": "WKB", "geometry_types": ["Point"]}  # no "crs": OGC:CRS84, lon and lat in degrees
            if boxes:
                box = np.array(boxes)
                column["bbox"] = [*box[:, :2].min(0).tolist(), *box[:, 2:].max(0).tolist()]
            geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}
            provenance = provenance | {"rows": rows, "listed": len(listed), "panoramas": panoramas}
            writer.add_key_value_metadata({"geo": json.dumps(geo), "mtclim": json.dumps(provenance)})
        if rows + len(listed) != provenance["images"]:
            raise RuntimeError(f"{out}: {provenance['images']} images went in, {rows} + {len(listed)} came out.")
        write_csv(pd.DataFrame(listed, columns=["image", "reason"]), listing_of(out))


def listing_of(out: str | Path) -> Path:
    """The companion of a prediction that lists what could not be read or placed."""
    return Path(f"{out}.listed.csv")


def provenance_of(out: str | Path) -> dict:
    """What made a prediction: the ``mtclim`` entry of its metadata ({} if it has none)."""
    return json.loads((pq.read_metadata(out).metadata or {}).get(b"mtclim", b"{}"))
