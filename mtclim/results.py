"""What a finished run writes: predictions, metrics, calibration, provenance; and how pixels reach a model."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from mtclim import machine, runs
from mtclim.data.labels import labelsets
from mtclim.files import write_json, write_text
from mtclim.metrics import fit_temperature, metrics
from mtclim.prepare import SPLITS, Data
from mtclim.tasks import Tasks

EVALUATION_BATCH = 256


def arrange(model: nn.Module, device: str | torch.device) -> nn.Module:
    """Move the model to a device, its convolutions in the memory layout that is fastest there; the same model.

    Channels last pays on every GPU, and on a CPU for depthwise convolutions (1.7 times as fast).
    """
    layers = [layer for layer in model.to(device).modules() if isinstance(layer, nn.Conv2d)]
    last = torch.device(device).type == "cuda" or any(layer.groups == layer.in_channels > 1 for layer in layers)
    model.layout = torch.channels_last if last else torch.contiguous_format
    for layer in layers:
        layer.to(memory_format=model.layout)
    return model


def normalised(images: np.ndarray | Tensor, model: nn.Module) -> Tensor:
    """Decoded images (B, H, W, 3) uint8 -> what the model reads, (B, 3, H, W) float32 on its device."""
    device = next(model.parameters()).device
    layout = getattr(model, "layout", torch.contiguous_format)
    x = torch.as_tensor(images).to(device).permute(0, 3, 1, 2).to(torch.float32, memory_format=layout)
    mean, std = (255 * torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (model.mean, model.std))
    return (x - mean) / std


def infer(model: nn.Module, images: np.ndarray, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Final probabilities of some images, task -> (n, K) float32.

    Parameters
    ----------
    images, rows : Decoded images (., H, W, 3) uint8, and which of them (n,).
    """
    arrange(model, "cuda" if torch.cuda.is_available() else "cpu").eval()
    found = {task: np.zeros((len(rows), len(names)), np.float32) for task, names in model.tasks.items()}
    with torch.inference_mode():
        for start in range(0, len(rows), EVALUATION_BATCH):
            batch = slice(start, start + EVALUATION_BATCH)
            out = model(normalised(images[rows[batch]], model))
            for task, p in out.probabilities.items():
                found[task][batch] = p.float().cpu().numpy()
    return found


def predictions(data: Data, rows: np.ndarray, probabilities: dict[str, np.ndarray], tasks: Tasks) -> pd.DataFrame:
    """One row an image: image, block, then per task ``<task>:true``, ``<task>:pred``, ``<task>:p:<class>``.

    Parameters
    ----------
    probabilities, tasks : Task -> (n, K) of the ``rows``, and the order of its columns; the frame's is the table's.
    """
    frame = data.table.frame.iloc[data.split.index[rows]]
    columns: dict[str, Any] = {"image": frame["image"].to_numpy()}
    if data.blocks is not None:
        columns["block"] = data.blocks.iloc[rows].astype(str).to_numpy()
    for task, names in data.tasks.items():
        p = probabilities[task][:, [tasks[task].index(name) for name in names]]
        columns[f"{task}:true"] = frame[task].astype(object).where(frame[task].notna(), None).to_numpy()
        columns[f"{task}:pred"] = np.asarray(names, dtype=object)[p.argmax(1)]
        columns |= {f"{task}:p:{name}": p[:, k] for k, name in enumerate(names)}
    return pd.DataFrame(columns)


def write_results(partial: Path, data: Data, model: nn.Module, networks: list[dict], about: dict[str, Any]) -> None:
    """All files of the run folder but the marker.

    Parameters
    ----------
    partial, about : The folder that the run is worked on in, and what else the provenance is to say.
    data, model : What was trained on, and the model with its best weights, whose order of tasks and classes may differ.
    networks : What is to be recorded of each network's training; its history under ``history``.
    """
    weights = {name: value.cpu().contiguous() for name, value in model.state_dict().items()}
    save_file(weights, partial / "model.safetensors")
    history = pd.DataFrame([row for network in networks for row in network.pop("history")])
    write_text(partial / "history.csv", history.to_csv(index=False))
    frames, seconds = {}, 0.0
    for split, name in (("test", "predictions"), ("val", "validation")):
        rows, began = data.rows(split), time.perf_counter()
        probabilities = infer(model, data.store.images, rows)
        seconds += time.perf_counter() - began
        frames[split] = predictions(data, rows, probabilities, model.tasks)
        frames[split].to_parquet(partial / f"{name}.parquet", index=False)
    write_json(partial / "metrics.json", {split: metrics(frame, data.tasks) for split, frame in frames.items()})
    write_json(partial / "calibration.json", _calibrate(data, frames["val"]))
    train = data.table.labels.iloc[data.split.index[data.rows("train")]]
    write_text(partial / "labelsets.csv", labelsets(train).to_csv(index=False))
    image = data.table.frame["image"].iloc[data.split.index].to_numpy()
    split = pd.DataFrame({"image": image, "split": data.split.astype(str).to_numpy(), "digest": data.store.digests})
    split.to_parquet(partial / "split.parquet", index=False)
    rate = sum(map(len, frames.values())) / seconds
    write_json(partial / "provenance.json", _provenance(data, model, networks) | about | {"images_per_second": rate})
    for checkpoint in partial.glob("*.ckpt"):
        checkpoint.unlink()


def _calibrate(data: Data, frame: pd.DataFrame) -> dict[str, dict[str, float]]:
    codes, found = data.codes[data.rows("val")], {}
    for n, (task, names) in enumerate(data.tasks.items()):
        p = frame[[f"{task}:p:{name}" for name in names]].to_numpy()
        found[task] = {"temperature": fit_temperature(np.log(np.maximum(p, 1e-30)), codes[:, n])}
    return found


def _provenance(data: Data, model: nn.Module, networks: list[dict]) -> dict[str, Any]:
    """What the run was made of and what it cost; a cost is a number of steps, to be timed on a quiet machine."""
    gpu = torch.cuda.is_available()
    peak = torch.cuda.max_memory_allocated() / 2**20 if gpu else machine.peak_memory_mb()
    return runs.provenance() | {
        "table": data.table.digest,
        **{name: sum(network[name] for network in networks) for name in ("seconds", "epochs", "steps_to_best")},
        "seconds_per_step": float(np.mean([network["seconds_per_step"] for network in networks])),
        "parameters": model.parameters_count(),
        "peak_memory_mb": peak and round(peak),
        "networks": networks,
        "rows": {split: len(data.rows(split)) for split in SPLITS},
        "counts": data.counts().to_dict("records"),
        "notes": data.notes,
        "unreadable": data.store.unreadable.to_dict("records"),
    }
