"""Prediction for a city: photographs in, one GeoParquet row an image out (section 4.5).

Streams: worker processes decode into shared batches while the model runs; results leave in shards, each written whole
or not at all, so that a killed prediction goes on where it stopped. No geopandas, and never all images in memory.

    python -m mtclim.mapping.predict runs/demo/.../seed-0 data/city/images.parquet map.parquet [--part 0/4]
"""

import argparse
import csv
import hashlib
import json
import os
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tqdm.auto import tqdm

from mtclim import __version__
from mtclim.mapping.photographs import CARRIED, decoded_batches, read_source, safe_cell
from mtclim.metrics import rescale
from mtclim.tasks import Tasks

# ---------------------------------------------------------------- the models


def _slices(batch: dict[int, np.ndarray], step: int) -> list[dict[int, np.ndarray]]:
    rows = len(next(iter(batch.values())))
    return [{size: pixels[i : i + step] for size, pixels in batch.items()} for i in range(0, rows, step)]


@dataclass
class Ensemble:
    """Trained models of the same tasks, their temperatures (1 where not calibrated) and where they came from."""

    models: list[torch.nn.Module]
    temperatures: list[dict[str, float]]
    tasks: Tasks
    device: torch.device
    digest: str
    splits: pd.Series  # image -> "train", "val", "test", "" (in no split) or "unknown"
    unlisted: str  # the same for images that `splits` doesn't have: "" or "unknown"
    limit: int | None = None  # rows a forward pass; set once memory was short

    @property
    def sizes(self) -> list[int]:
        """The distinct image sizes, pixels."""
        return sorted({model.image_size for model in self.models})

    def probabilities(self, batch: dict[int, np.ndarray]) -> np.ndarray:
        """(B, S) float32: the models' mean probabilities, classes in the order of `tasks.columns`.

        On a CPU each thread takes a slice of the batch through the whole network: threads that share each operation
        would wait for one another at its end.
        """
        rows, threads = len(next(iter(batch.values()))), torch.get_num_threads()
        if self.device.type == "cpu" and threads > 1:
            with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                parts = list(pool.map(self._forward, _slices(batch, -(-rows // threads))))
            torch.set_num_threads(threads)  # for threads started later: they take over what was set last
            return np.concatenate(parts)
        while True:
            limit = self.limit or rows
            try:
                return np.concatenate([self._forward(part) for part in _slices(batch, limit)])
            except torch.cuda.OutOfMemoryError:
                if limit == 1:
                    raise
                self.limit = max(1, limit // 2)
                torch.cuda.empty_cache()

    @torch.inference_mode()
    def _forward(self, batch: dict[int, np.ndarray]) -> np.ndarray:
        total = 0.0
        for model, temperature in zip(self.models, self.temperatures, strict=True):
            pixels = torch.from_numpy(batch[model.image_size]).to(self.device).permute(0, 3, 1, 2)  # (B, 3, H, W) uint8
            mean, std = (torch.tensor(v, device=self.device).view(1, 3, 1, 1) * 255 for v in (model.mean, model.std))
            gpu = self.device.type == "cuda"
            with torch.autocast(self.device.type, torch.bfloat16, enabled=gpu):
                images = (pixels.float() - mean) / std
                out = model(images.contiguous(memory_format=torch.channels_last) if gpu else images.contiguous())
            p = {task: out.probabilities[task].float() for task in self.tasks}
            # softmax(logits / T) from probabilities: log p is the logits up to a constant
            scaled = [torch.softmax(p[t].log() / temperature[t], 1) if t in temperature else p[t] for t in self.tasks]
            total = total + torch.cat(scaled, 1)  # (B, S)
        return (total / len(self.models)).cpu().numpy()


def load_ensemble(runs: Sequence[str | Path], calibrated: bool = False, device: str | None = None) -> Ensemble:
    """Load run folders for prediction; ValueError where their tasks differ."""
    from mtclim import runs as folders

    runs = [Path(run) for run in ([runs] if isinstance(runs, (str, Path)) else runs)]
    if not runs:
        raise ValueError("predict: found no run folder; name at least one.")
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    models = [folders.load(run).to(device).eval() for run in runs]
    for run, model in zip(runs, models, strict=True):
        if model.tasks != models[0].tasks:
            raise ValueError(
                f"{run}: tasks {model.tasks.to_dict()} differ from {runs[0]}'s {models[0].tasks.to_dict()}."
            )
        if device.type == "cuda":
            model.to(memory_format=torch.channels_last)
    temperatures = [dict(model.temperatures) if calibrated else {} for model in models]
    digest = hashlib.sha256(b"".join((run / "model.safetensors").read_bytes() for run in runs)).hexdigest()
    return Ensemble(models, temperatures, models[0].tasks, device, digest, *joint_splits(runs))


def splits_of(run: str | Path) -> tuple[pd.Series, str]:
    """Image -> "train" / "val" / "test" as a run used it, and what holds for other images.

    That is "" (not used) where split.parquet lists all that were, and "unknown" in older runs: only val and test are known.
    """
    run = Path(run)
    if (run / "split.parquet").exists():
        frames, unlisted = [pd.read_parquet(run / "split.parquet", columns=["image", "split"])], ""
    else:
        files = {"val": run / "validation.parquet", "test": run / "predictions.parquet"}
        frames, unlisted = [pd.read_parquet(f, columns=["image"]).assign(split=s) for s, f in files.items()], "unknown"
    used = pd.concat(frames).set_index("image")["split"].astype(object)
    return used[~used.index.duplicated()], unlisted


def joint_splits(runs: Sequence[str | Path]) -> tuple[pd.Series, str]:
    """`splits_of` for several runs: an image that trained any of the models counts as training, and so on down."""
    order = ["train", "unknown", "val", "test", ""]
    parts = [splits_of(run) for run in runs]
    table = pd.concat([used for used, _ in parts], axis=1, keys=range(len(parts)))
    ranks = table.fillna(dict(enumerate(unlisted for _, unlisted in parts))).map(order.index).min(axis=1)
    return ranks.map(order.__getitem__).astype(object), max(unlisted for _, unlisted in parts)


def validation(runs: Sequence[str | Path], calibrated: bool = False) -> pd.DataFrame:
    """What an ensemble answers on the validation images of all its runs: the columns of validation.parquet.

    ValueError where the runs have no validation image in common.
    """
    from mtclim import runs as folders

    runs = [runs] if isinstance(runs, (str, Path)) else list(runs)
    frames = [pd.read_parquet(Path(run) / "validation.parquet").set_index("image") for run in runs]
    common = frames[0].index[np.all([frames[0].index.isin(frame.index) for frame in frames], axis=0)]
    if not len(common):
        raise ValueError(f"{', '.join(map(str, runs))}: no validation image in common; use runs of one partition.")
    result = frames[0].loc[common].copy()
    for task, classes in folders.read_settings(runs[0])["tasks"].items():
        names, total = [f"{task}:p:{name}" for name in classes], 0.0
        for run, frame in zip(runs, frames, strict=True):
            entry = json.loads((Path(run) / "calibration.json").read_text())[task]
            p = frame.loc[common, names].to_numpy(float)
            total = total + (rescale(p, entry["temperature"]) if calibrated else p)
        result[names] = total / len(runs)
        result[f"{task}:pred"] = np.asarray(classes, object)[result[names].to_numpy().argmax(1)]
    return result.reset_index()


# ---------------------------------------------------------------- shards and the file


def _points(lon: np.ndarray, lat: np.ndarray) -> pa.Array:
    """WKB points, null where a coordinate is missing."""
    placed = np.isfinite(lon) & np.isfinite(lat)
    wkb = np.zeros(len(lon), np.dtype([("order", "u1"), ("kind", "<u4"), ("x", "<f8"), ("y", "<f8")]))
    wkb["order"], wkb["kind"], wkb["x"], wkb["y"] = 1, 1, lon, lat
    return pa.array(
        [point if ok else None for point, ok in zip(wkb.view("V21").tolist(), placed, strict=True)], pa.binary()
    )


def _columns(rows: pd.DataFrame, probabilities: np.ndarray, ensemble: Ensemble) -> pa.Table:
    """One shard: the design's columns for the predicted `rows` with their (n, S) probabilities."""
    text, number = pa.string(), pa.float64()
    kinds = {"image": text, "lon": number, "lat": number, "block": text}
    kinds |= {name: number if name == "weight" else text for name in CARRIED if name in rows}
    columns = {name: pa.array(_plain(rows[name], kind), kind) for name, kind in kinds.items()}
    splits = rows["image"].map(ensemble.splits).astype(object).fillna(ensemble.unlisted)
    columns["split"] = pa.array([split if split in ("train", "val", "test") else None for split in splits], text)
    columns["in_training"] = pa.array(
        [None if split == "unknown" else split == "train" for split in splits], pa.bool_()
    )
    start = 0
    for task, classes in ensemble.tasks.items():
        block = probabilities[:, start : start + len(classes)]
        start += len(classes)
        if task in rows:
            columns[f"{task}:true"] = pa.array(_plain(rows[task], text), text)
        columns[f"{task}:pred"] = pa.array([classes[k] for k in block.argmax(1)], text)
        columns |= {f"{task}:p:{name}": pa.array(block[:, k], pa.float32()) for k, name in enumerate(classes)}
    columns["geometry"] = _points(rows["lon"].to_numpy(float), rows["lat"].to_numpy(float))
    return pa.table(columns)


def _plain(values: pd.Series, kind: pa.DataType) -> list:
    convert = float if kind == pa.float64() else str
    return [None if pd.isna(value) else convert(value) for value in values]


def _write(table: pa.Table, path: Path) -> None:
    """Whole or not at all: beside, then renamed."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        pq.write_table(table, beside)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def _predict_shards(
    todo: list[int], rows: pd.DataFrame, ensemble: Ensemble, folder: Path, plan: dict, bar: tqdm
) -> None:
    """Predict the shards `todo`, each a whole number of padded batches, and write each when it is full."""
    size, step = plan["shard_rows"], plan["batch_size"]
    batches = [
        (s, i, min(i + step, (s + 1) * size, len(rows)))
        for s in todo
        for i in range(s * size, min((s + 1) * size, len(rows)), step)
    ]
    paths = [rows["path"].iloc[first:last].tolist() for _, first, last in batches]
    done: list[tuple[np.ndarray, list[str]]] = []
    decoded = decoded_batches(paths, ensemble.sizes, step, plan["workers"], processes=ensemble.device.type != "cpu")
    for number, ((shard, _, last), (images, reasons)) in enumerate(zip(batches, decoded, strict=True)):
        done.append((ensemble.probabilities(images)[: len(reasons)], reasons))
        bar.update(len(reasons))
        if number + 1 < len(batches) and batches[number + 1][0] == shard:
            continue
        part = rows.iloc[shard * size : last]
        reasons = np.array([reason for _, batch in done for reason in batch], object)
        good = reasons == ""
        table = _columns(part[good], np.concatenate([values for values, _ in done])[good], ensemble)
        listed = [[image, reason] for image, reason in zip(part["image"][~good], reasons[~good], strict=True)]
        _write(table.replace_schema_metadata({"listed": json.dumps(listed)}), folder / f"shard-{shard:06d}.parquet")
        done = []


def _merge(shards: list[Path], out: Path, provenance: dict, unplaced: list[list[str]]) -> None:
    """Join the shards, one in memory at a time, into a GeoParquet file and the list of what was not predicted."""
    listed, boxes, rows = list(unplaced), [], 0
    beside = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        with pq.ParquetWriter(beside, pq.read_schema(shards[0]).remove_metadata(), compression="zstd") as writer:
            for path in shards:
                shard = pq.read_table(path)
                listed += json.loads(shard.schema.metadata[b"listed"])
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
            provenance = provenance | {"rows": rows, "listed": len(listed)}
            writer.add_key_value_metadata({"geo": json.dumps(geo), "mtclim": json.dumps(provenance)})
        if rows + len(listed) != provenance["images"]:
            raise RuntimeError(f"{out}: {provenance['images']} images went in, {rows} + {len(listed)} came out.")
        with open(listing := listing_of(out).with_suffix(f".{os.getpid()}"), "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([["image", "reason"], *([safe_cell(cell) for cell in row] for row in listed)])
        os.replace(listing, listing_of(out))
        os.replace(beside, out)
    finally:
        beside.unlink(missing_ok=True)


def listing_of(out: str | Path) -> Path:
    """The companion of a prediction that lists what could not be read or placed."""
    return Path(f"{out}.listed.csv")


def provenance_of(out: str | Path) -> dict:
    """What made a prediction: the `mtclim` entry of its metadata ({} if it has none)."""
    return json.loads((pq.read_metadata(out).metadata or {}).get(b"mtclim", b"{}"))


def predict(
    runs: str | Path | Sequence[str | Path],
    source: str | Path,
    out: str | Path,
    shard_rows: int = 8192,
    batch_size: int = 64,
    calibrated: bool = False,
    progress: bool = True,
    part: tuple[int, int] = (0, 1),
    workers: int | None = None,
    require_position: bool = True,
    limit: int | None = None,
    device: str | None = None,
) -> Path:
    """Predict every image of a table, or of a folder of geotagged photographs; returns the GeoParquet file.

    Several `runs` of the same tasks: their probabilities are averaged. One row an image: image, lon, lat, block, the
    `CARRIED` columns, split, in_training (null where a run doesn't say), then per task ``<task>:true`` (where the table has it), ``<task>:pred``,
    ``<task>:p:<class>``, and the point. What can't be read or placed is in ``<out>.listed.csv`` with the reason.
    `limit` predicts a fixed random sample of so many images. Killed and repeated, it goes on with the missing shards.
    `part` = (i, n) predicts every n-th shard only, for n machines that share the folder of `out`, and returns the
    folder of shards; the same call without `part` joins them. Raises ValueError for tasks that differ or a bad `part`.
    """
    started, out = time.perf_counter(), Path(out)
    index, count = part
    if not 0 <= index < count:
        raise ValueError(f"part: found {index} of {count}; expected 0 <= i < n.")
    ensemble = load_ensemble(runs, calibrated, device)
    rows = read_source(source, ensemble.tasks, require_position=require_position)
    if limit and limit < len(rows):
        rows = rows.sample(limit, random_state=0).sort_index()
    total, unplaced = len(rows), rows[rows["reason"] != ""][["image", "reason"]].to_numpy().tolist()
    rows = rows[rows["reason"] == ""].reset_index(drop=True)
    shard_rows = -(-shard_rows // batch_size) * batch_size
    plan = {"batch_size": batch_size, "shard_rows": shard_rows, "workers": workers}
    key = _key(rows, ensemble, plan, calibrated)
    if out.exists() and provenance_of(out).get("key") == key:
        return out
    root = Path(f"{out}.shards")
    folder = root / key
    folder.mkdir(parents=True, exist_ok=True)
    shards = [folder / f"shard-{s:06d}.parquet" for s in range(max(1, -(-len(rows) // shard_rows)))]
    todo = [s for s in range(index, len(shards), count) if not shards[s].exists()]
    size = sum(min(shard_rows, len(rows) - s * shard_rows) for s in todo)
    with tqdm(total=size, unit="img", unit_scale=True, desc="predict", disable=not progress, smoothing=0.1) as bar:
        if len(rows):
            _predict_shards(todo, rows, ensemble, folder, plan, bar)
        elif todo:
            _write(
                _columns(rows, np.zeros((0, ensemble.tasks.total), np.float32), ensemble).replace_schema_metadata(
                    {"listed": "[]"}
                ),
                shards[0],
            )
    if part != (0, 1):
        return folder
    names = [str(run) for run in ([runs] if isinstance(runs, (str, Path)) else runs)]
    provenance = {
        "key": key, "runs": names, "models_sha256": ensemble.digest, "calibrated": calibrated, "source": str(source),
        "images": total, "tasks": ensemble.tasks.to_dict(), "batch_size": batch_size, "device": str(ensemble.device),
        "torch": torch.__version__, "mtclim": __version__, "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(time.perf_counter() - started, 3), "predicted_now": size,
    }  # fmt: skip
    _merge(shards, out, provenance, unplaced)
    shutil.rmtree(root)
    return out


def _key(rows: pd.DataFrame, ensemble: Ensemble, plan: dict, calibrated: bool) -> str:
    """What the shards depend on: the models, the rows in order, each file's size, the batches."""

    def bytes_of(path: str) -> int:
        try:
            return os.stat(path).st_size
        except OSError:
            return -1

    settings = [
        ensemble.digest,
        calibrated,
        ensemble.device.type,
        ensemble.temperatures,
        plan["batch_size"],
        plan["shard_rows"],
    ]
    digest = hashlib.sha256(json.dumps(settings).encode())
    used = rows.assign(bytes=[bytes_of(path) for path in rows["path"]])
    digest.update(pd.util.hash_pandas_object(used.astype(str), index=False).to_numpy().tobytes())
    return digest.hexdigest()[:16]


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: ``python -m mtclim.mapping.predict RUN [RUN ...] SOURCE OUT``."""
    parser = argparse.ArgumentParser(prog="python -m mtclim.predict", description=predict.__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", help="run folders; several are averaged")
    parser.add_argument("source", help="table of images, or folder of geotagged photographs")
    parser.add_argument("out", help="GeoParquet file to write")
    parser.add_argument("--shard-rows", type=int, default=8192)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--limit", type=int, help="predict a fixed random sample of so many images")
    parser.add_argument("--calibrated", action="store_true")
    parser.add_argument("--without-position", action="store_false", dest="require_position")
    parser.add_argument("--part", default="0/1", help="i/n: every n-th shard, on one of n machines")
    options = vars(parser.parse_args(arguments))
    options["part"] = tuple(int(number) for number in options["part"].split("/"))
    print(predict(**options))


if __name__ == "__main__":
    main()
