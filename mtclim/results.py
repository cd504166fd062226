"""What a finished run writes: predictions, metrics, calibration, provenance."""

import os
import resource
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file
from torch import nn

from mtclim import runs
from mtclim.config import Config
from mtclim.data.labels import labelsets
from mtclim.files import write_json
from mtclim.metrics import fit_temperature, metrics
from mtclim.prepare import SPLITS, Data
from mtclim.tasks import Tasks

EVALUATION_BATCH = 256


def infer(
    learner_or_model: nn.Module, data: Data, rows: np.ndarray, mean: list[float], std: list[float]
) -> dict[str, np.ndarray]:
    """Final probabilities, task -> (n, K) float32, of the store's rows."""
    model = learner_or_model
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model.to(device).eval()
    shift, scale = (255 * torch.tensor(v, device=device).view(1, 3, 1, 1) for v in (mean, std))
    parts: dict[str, list[np.ndarray]] = {task: [] for task in model.tasks}
    with torch.inference_mode():
        for start in range(0, len(rows), EVALUATION_BATCH):
            images = torch.from_numpy(data.store.images[rows[start : start + EVALUATION_BATCH]]).to(device)
            out = model((images.permute(0, 3, 1, 2).float().contiguous() - shift) / scale)
            for task, p in out.probabilities.items():
                parts[task].append(p.float().cpu().numpy())
    return {
        task: np.concatenate(p) if p else np.zeros((0, len(model.tasks[task])), np.float32) for task, p in parts.items()
    }


def predictions(data: Data, rows: np.ndarray, probabilities: dict[str, np.ndarray]) -> pd.DataFrame:
    """One row an image: image, block, then per task ``<task>:true``, ``<task>:pred``, ``<task>:p:<class>``."""
    frame = data.table.frame.iloc[data.split.index[rows]]
    columns: dict[str, object] = {"image": frame["image"].to_numpy()}
    if data.blocks is not None:
        columns["block"] = data.blocks.iloc[rows].astype(str).to_numpy()
    for task, names in data.table.tasks.items():
        columns[f"{task}:true"] = frame[task].astype(object).where(frame[task].notna(), None).to_numpy()
        columns[f"{task}:pred"] = np.asarray(names, dtype=object)[probabilities[task].argmax(1)]
        columns |= {f"{task}:p:{name}": probabilities[task][:, k] for k, name in enumerate(names)}
    return pd.DataFrame(columns)


def write_results(partial: Path, config: Config, data: Data, model: nn.Module, learners: list) -> None:
    """All files of the run folder but the marker."""
    tasks = data.table.tasks
    mean, std = learners[0].model.mean, learners[0].model.std
    save_file(
        {name: value.cpu().contiguous() for name, value in model.state_dict().items()}, partial / "model.safetensors"
    )
    pd.DataFrame([row for learner in learners for row in learner.history]).to_csv(partial / "history.csv", index=False)
    frames, seconds = {}, 0.0
    for split in ("test", "val"):
        rows, began = data.rows(split), time.perf_counter()
        probabilities = infer(model, data, rows, mean, std)
        seconds += time.perf_counter() - began
        frames[split] = predictions(data, rows, probabilities)
    frames["test"].to_parquet(partial / "predictions.parquet", index=False)
    frames["val"].to_parquet(partial / "validation.parquet", index=False)
    write_json(partial / "metrics.json", {split: metrics(frame, tasks) for split, frame in frames.items()})
    write_json(partial / "calibration.json", _calibrate(data, tasks, frames["val"]))
    train = data.table.labels.iloc[data.split.index[data.rows("train")]]
    labelsets(train).to_csv(partial / "labelsets.csv", index=False)
    image = data.table.frame["image"].iloc[data.split.index]
    pd.DataFrame({"image": image.to_numpy(), "split": data.split.to_numpy()}).to_parquet(
        partial / "split.parquet", index=False
    )
    rows = sum(map(len, frames.values()))
    write_json(partial / "provenance.json", _provenance(config, data, model, learners, rows / seconds))
    for checkpoint in partial.glob("*.ckpt"):
        checkpoint.unlink()


def _calibrate(data: Data, tasks: Tasks, frame: pd.DataFrame) -> dict[str, dict[str, float]]:
    codes = data.codes[data.rows("val")]
    p = {task: frame[[f"{task}:p:{name}" for name in names]].to_numpy() for task, names in tasks.items()}
    return {
        task: {"temperature": fit_temperature(np.log(np.maximum(p[task], 1e-30)), codes[:, n])}
        for n, task in enumerate(tasks)
    }


def _provenance(config: Config, data: Data, model: nn.Module, learners: list, rate: float) -> dict:
    peak = (
        torch.cuda.max_memory_allocated() / 2**20
        if torch.cuda.is_available()
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    )
    networks = [{
        "network": learner.network, "seconds": sum(s for s, _ in learner.times), "epochs": len(learner.history),
        "best_epoch": learner.best["epoch"], "seconds_per_step": float(np.median([s / n for s, n in learner.times])),
    } for learner in learners]  # fmt: skip
    return runs.provenance() | {
        "seed": config.seed, "split_seed": config.split_seed, "synthetic": config.synthetic, "table": data.table.digest,
        "seconds": sum(n["seconds"] for n in networks), "epochs": sum(n["epochs"] for n in networks),
        "seconds_per_step": float(np.mean([n["seconds_per_step"] for n in networks])),
        "parameters": model.parameters_count(), "peak_memory_mb": round(peak), "images_per_second": rate, "networks": networks,
        "rows": {split: int(len(data.rows(split))) for split in SPLITS},
        "unreadable": [
            {"image": os.path.relpath(image, data.table.path.parent), "reason": reason}
            for image, reason in data.store.unreadable.itertuples(index=False)
        ],
    }  # fmt: skip
