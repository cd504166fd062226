"""Prediction: photographs in, one row an image out (section 4.5), as a frame or streamed to GeoParquet.

Threads decode ahead while the model runs. ``predict_file`` writes shards, each whole or not at all, so that a killed
prediction goes on where it stopped, and memory does not grow with the number of images. geopandas is not needed.
"""

import hashlib
import json
import os
import shutil
import struct
import time
import warnings
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

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


def _answers(
    rows: pd.DataFrame, ensemble: Ensemble, batch_size: int, workers: int | None, bar: tqdm
) -> tuple[pd.DataFrame, dict[str, list]]:
    """One row for each photograph that can be read, [image, reason] of the others, and the names of panoramas."""
    paths, found, probabilities = rows["path"].tolist(), [], []
    batches = [paths[start : start + batch_size] for start in range(0, len(paths), batch_size)]
    for pixels, decoded in decoded_batches(batches or [[]], ensemble.sizes, batch_size, workers):
        probabilities.append(ensemble.probabilities(pixels)[: len(decoded)])
        found += decoded
        bar.update(len(decoded))
    p = np.concatenate(probabilities)
    known = pd.DataFrame(found, rows.index, ["digest", "reason", "panorama"]).assign(image=rows["image"])
    columns: dict[str, object] = {"doubtful": rows["reason"].where(rows["reason"].str.startswith("doubtful"), None)}
    if ensemble.splits is not None:
        split = known["digest"].map(ensemble.splits).astype(object)
        columns |= {"split": split, "in_training": split == "train"}
    for task, classes in ensemble.tasks.items():
        if f"{task}:true" in rows:
            columns[f"{task}:true"] = rows[f"{task}:true"]
        block, p = p[:, : len(classes)], p[:, len(classes) :]
        columns[f"{task}:pred"] = np.asarray(classes, object)[block.argmax(1)]
        columns |= {f"{task}:p:{name}": block[:, k] for k, name in enumerate(classes)}
    frame = rows.filter(items=["image", "lon", "lat", "bearing", "block", *CARRIED]).assign(**columns)
    if ensemble.joint:
        frame = make_consistent(frame, ensemble.tasks, ensemble.joint)
    bad, panorama = known["reason"] != "", known["panorama"].astype(bool)
    listed = known.loc[bad, ["image", "reason"]].to_numpy().tolist()
    return frame[~bad], {"listed": listed, "panoramas": known.loc[panorama, "image"].tolist()}


def predict(
    model_or_runs: torch.nn.Module | Run | Sequence[Run],
    source: str | Path | Sequence[str | Path],
    calibrated: bool = False,
    consistent: bool = False,
    batch_size: int = 64,
    workers: int | None = None,
    image_root: str | Path | None = None,
    na_values: Sequence[str] | None = None,
    progress: bool = False,
) -> pd.DataFrame:
    """Predict photographs and return one row for each that can be read.

    Parameters
    ----------
    model_or_runs, calibrated, consistent : as in :func:`mtclim.mapping.ensemble.load_ensemble`.
    source, image_root, na_values : as in :func:`mtclim.mapping.photographs.read_source`; no position is required.
    batch_size, workers : images of one forward pass, and threads that decode.

    Returns
    -------
    DataFrame
        image; lon, lat, bearing, block and so on where there are any; for each task ``<task>:true`` (where a table has
        it), ``<task>:pred`` and ``<task>:p:<class>``. ``attrs`` have listed ([image, reason] of what cannot be read),
        panoramas (names of those that are squeezed into the square) and others (as of read_source).

    Raises
    ------
    ValueError
        For settings, runs and sources that cannot be used, and where no photograph can be read.
    """
    _check(batch_size=batch_size, workers=workers)
    ensemble = load_ensemble(model_or_runs, calibrated, consistent)
    rows = read_source(source, ensemble.tasks, False, image_root, na_values, ensemble.block_cell)
    with tqdm(total=len(rows), unit="img", desc="predict", disable=not progress) as bar:
        frame, about = _answers(rows, ensemble, batch_size, workers, bar)
    listed, panoramas = about["listed"], about["panoramas"]
    first = "; ".join(": ".join(entry) for entry in listed[:5])
    if frame.empty:
        raise ValueError(f"predict: none of {len(listed)} photographs can be read ({first}).")
    if listed:
        warnings.warn(f"{len(listed)} of {len(rows)} photographs cannot be read: {first}", stacklevel=2)
    if panoramas:
        warnings.warn(f"{len(panoramas)} panoramas are squeezed: {', '.join(panoramas[:5])}", stacklevel=2)
    frame = frame.dropna(axis=1, how="all").reset_index(drop=True)
    frame.attrs = about | {"others": rows.attrs["others"]}
    return frame


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
    na_values: Sequence[str] | None = None,
    limit: int | None = None,
    progress: bool = True,
) -> Path:
    """Predict every photograph of a source into a GeoParquet file; killed and repeated, it goes on where it was.

    Parameters
    ----------
    runs : run folders of the same tasks, as in :func:`mtclim.mapping.ensemble.listed_runs`.
    source, calibrated, consistent, batch_size, workers, image_root, na_values, progress : as in :func:`predict`.
    out : the file to write. Beside the columns of :func:`predict` it has the point, and split and in_training of
        photographs whose content a run has used. ``<out>.listed.csv`` has what could not be read, or placed.
    shard_rows : images between two files of progress: what a kill can cost.
    part : (i, n) predicts every n-th shard only, for n machines that share the folder of ``out``, and returns the
        folder of shards. The same call without ``part`` joins them.
    require_position : whether a photograph without a position is listed and not predicted.
    limit : predict a fixed random sample of so many images.

    Raises
    ------
    ValueError
        For settings, runs and sources that cannot be used.
    """
    started, out, (index, count) = time.perf_counter(), Path(out), part
    _check(shard_rows=shard_rows, batch_size=batch_size, workers=workers, limit=limit or None)
    if not 0 <= index < count:
        raise ValueError(f"part: found {index}/{count}; expected I/N with I from 0 to N - 1, for example 0/4.")
    before = _made_before(out)
    folders = listed_runs(runs)
    ensemble = load_ensemble(folders, calibrated, consistent)
    rows = read_source(source, ensemble.tasks, require_position, image_root, na_values, ensemble.block_cell)
    about = rows.attrs
    if limit and limit < len(rows):
        rows = rows.sample(limit, random_state=0).sort_index()
    total, unplaced = len(rows), rows[(rows["reason"] != "") & require_position]
    rows = rows.drop(unplaced.index).reset_index(drop=True)
    shard_rows = -(-shard_rows // batch_size) * batch_size
    settings = {"models_sha256": ensemble.digest, "calibrated": calibrated or consistent, "answer": ANSWERS[consistent]}
    settings |= {"batch_size": batch_size, "device": str(ensemble.device)}
    key = _key(rows, settings | {"shard_rows": shard_rows, "temperatures": ensemble.temperatures})
    if before.get("key") == key and Path(f"{out}.listed.csv").exists():
        return out
    folder = Path(f"{out}.shards") / key
    folder.mkdir(parents=True, exist_ok=True)
    starts = range(0, max(len(rows), 1), shard_rows)
    shards = {folder / f"shard-{n:06d}.parquet": rows[at : at + shard_rows] for n, at in enumerate(starts)}
    todo = [path for path in list(shards)[index::count] if not path.exists()]
    size = sum(len(shards[path]) for path in todo)
    with tqdm(total=size, unit="img", unit_scale=True, desc="predict", disable=not progress, smoothing=0.1) as bar:
        for path in todo:
            table = _table(*_answers(shards[path], ensemble, batch_size, workers, bar))
            with whole_or_absent(path) as beside:
                pq.write_table(table, beside)
    if part != (0, 1):
        return folder
    made = {"key": key, "runs": [str(run) for run in folders], "source": str(source)} | settings | about
    made |= {"tasks": ensemble.tasks.to_dict(), "torch": torch.__version__, "mtclim": __version__, "images": total}
    made |= {"date": datetime.now(UTC).isoformat(timespec="seconds"), "predicted_now": size}
    made |= {"seconds": round(time.perf_counter() - started, 3)}
    _merge(list(shards), out, made, unplaced[["image", "reason"]])
    shutil.rmtree(folder.parent)
    return out


def _check(**settings: int | None) -> None:
    for name, value in settings.items():
        if value is not None and value < 1:
            raise ValueError(f"{name}: found {value}; expected 1 or more.")


def _made_before(out: Path) -> dict:
    """What made the prediction that is there, {} if there is no file; ValueError for another file, which stays."""
    try:
        made = provenance_of(out) if out.exists() else {}
    except (pa.ArrowInvalid, OSError):
        made = {}
    if out.exists() and not made:
        raise ValueError(f"{out}: this file is no prediction, and it would be lost; give another name to write to.")
    return made


def _key(rows: pd.DataFrame, settings: dict) -> str:
    """What the shards depend on: the models, the rows in order, the size and time of each file, the batches."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    there = [os.path.exists(path) and (os.path.getsize(path), os.path.getmtime(path)) for path in rows["path"]]
    used = rows.assign(state=there).astype(str)
    digest.update(pd.util.hash_pandas_object(used, index=False).to_numpy().tobytes())
    return digest.hexdigest()[:16]


def _table(frame: pd.DataFrame, about: dict[str, list]) -> pa.Table:
    """The frame with its points, with the same types in every shard, also where a shard has no value in a column."""
    kinds = {
        name: pa.from_numpy_dtype(kind) if kind.kind in "fb" else pa.string() for name, kind in frame.dtypes.items()
    }
    places = zip(frame["lon"].astype(float), frame["lat"].astype(float), strict=True)
    wkb = [None if np.isnan(lon + lat) else struct.pack("<BIdd", 1, 1, lon, lat) for lon, lat in places]
    table = pa.Table.from_pandas(frame, pa.schema(kinds), preserve_index=False)
    table = table.append_column("geometry", pa.array(wkb, pa.binary()))
    return table.replace_schema_metadata({"about": json.dumps(about)})


def _merge(shards: Sequence[Path], out: Path, made: dict, unplaced: pd.DataFrame) -> None:
    """Join the shards, one in memory at a time, into a GeoParquet file and the list of what was not predicted."""
    schemas = [pq.read_schema(path) for path in shards]
    about = [json.loads(schema.metadata[b"about"]) for schema in schemas]
    listed = unplaced.to_numpy().tolist() + [entry for own in about for entry in own["listed"]]
    panoramas = [name for own in about for name in own["panoramas"]]
    made = made | {"rows": made["images"] - len(listed), "listed": len(listed), "panoramas": panoramas}
    columns = {"geometry": {"encoding": "WKB", "geometry_types": ["Point"]}}  # no "crs": OGC:CRS84, degrees
    geo = {"version": "1.1.0", "primary_column": "geometry", "columns": columns}
    metadata = {"geo": json.dumps(geo), "mtclim": json.dumps(made)}
    write_csv(pd.DataFrame(listed, columns=["image", "reason"]), f"{out}.listed.csv")
    schema = schemas[0].with_metadata(metadata)
    with whole_or_absent(out) as beside, pq.ParquetWriter(beside, schema, compression="zstd") as writer:
        for path in shards:
            writer.write_table(pq.read_table(path).replace_schema_metadata(metadata))


def provenance_of(out: str | Path) -> dict:
    """What made a prediction: the ``mtclim`` entry of its metadata ({} if it has none)."""
    return json.loads((pq.read_schema(out).metadata or {}).get(b"mtclim", b"{}"))
