"""Run folders with invented predictions, for tests of the evaluation: no model is trained. Not part of the package."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from safetensors.torch import save_file

from mtclim import SANTIAGO, Tasks, create_model
from mtclim.metrics import fit_temperature, metrics

QUALITY = {"stc": 1.5, "bl": 1.6, "bl_ms": 1.65, "bl_fc": 1.6, "lim": 1.75, "lim_ms_all": 1.8}


def make_truth(tasks: Tasks, n: int, blocks: int | None, missing: float, seed: int) -> pd.DataFrame:
    """Correlated labels: a hidden "kind of building" decides each task's class, blurred."""
    rng = np.random.default_rng(seed)
    kind = rng.beta(1.2, 1.8, n)
    frame = pd.DataFrame({"image": [f"images/{i:05d}.jpg" for i in range(n)]})
    frame["block"] = [f"b{i}" for i in rng.integers(0, blocks, n)] if blocks else None
    for i, (task, classes) in enumerate(tasks.items()):
        x = np.clip((kind if i % 2 == 0 else 1 - kind) + rng.normal(0, 0.12, n), 0, 0.999)
        labels = np.array(classes, dtype=object)[(x * len(classes)).astype(int)]
        labels[rng.random(n) < missing] = None
        frame[task] = labels
    if {"height", "mat_llrs", "sbst"} <= set(tasks):
        heights = [name.rsplit("_", 1)[1] for name in tasks["sbst"]]
        frame["height"] = np.array(tasks["height"], dtype=object)[rng.integers(0, 6, n)]
        frame["sbst"] = [tasks["sbst"][int(k * 14)] for k in np.clip(kind, 0, 0.999)]
        starts = {h: [c for c in tasks["height"] if c[1:].split("-")[0] in h] or ["H1"] for h in heights}
        frame["height"] = [starts[s.rsplit("_", 1)[1]][0] for s in frame["sbst"]]
        frame["mat_llrs"] = [s.rsplit("_", 1)[0] for s in frame["sbst"]]
    return frame


def _split(truth: pd.DataFrame, tasks: Tasks, quality: float, rng: np.random.Generator) -> pd.DataFrame:
    out = truth[["image", "block"]].copy()
    for task, classes in tasks.items():
        k = len(classes)
        codes = np.array([classes.index(name) if isinstance(name, str) else rng.integers(0, k) for name in truth[task]])
        distance = np.abs(np.arange(k)[None, :] - codes[:, None])
        z = quality * np.maximum(3 - 1.3 * distance, 0) + rng.gumbel(0, 1.4, (len(codes), k))
        p = np.exp(1.3 * z)
        p = (p / p.sum(1, keepdims=True)).astype(np.float32)
        out[f"{task}:true"] = truth[task]
        out[f"{task}:pred"] = np.array(classes, dtype=object)[p.argmax(1)]
        for j, name in enumerate(classes):
            out[f"{task}:p:{name}"] = p[:, j]
    return out


def write_run(root: Path, tasks: Tasks, variant: str, seed: int, *, backbone: str = "densenet121", n: int = 400,
              blocks: int | None = 40, missing: float = 0.0, detach: bool = False, data_seed: int = 0,
              weights: bool = False):  # fmt: skip
    """One complete run folder, as the trainer writes it; ``weights``: with those of a network started at random."""
    folder = root / backbone / (variant + ("-detach" if detach else "")) / f"seed-{seed}"
    folder.mkdir(parents=True)
    truth = make_truth(tasks, 2 * n, blocks, missing, data_seed)
    rng = np.random.default_rng([seed, sum(map(ord, str(folder.parent.name)))])
    quality = QUALITY.get(variant, 1.7) + rng.normal(0, 0.02)
    test, validation = _split(truth[:n], tasks, quality, rng), _split(truth[n:], tasks, quality, rng)
    test.to_parquet(folder / "predictions.parquet", index=False)
    validation.to_parquet(folder / "validation.parquet", index=False)
    temperatures = {}
    for task, classes in tasks.items():
        p = validation[[f"{task}:p:{name}" for name in classes]].to_numpy()
        y = pd.Index(classes).get_indexer(pd.Index(validation[f"{task}:true"].to_numpy(object)))
        temperatures[task] = {"temperature": fit_temperature(np.log(p + 1e-30), y)}
    _json(folder / "calibration.json", temperatures)
    _json(folder / "metrics.json", {"test": metrics(test, tasks), "val": metrics(validation, tasks)})
    labelsets = make_truth(tasks, 4 * n, blocks, missing, data_seed + 1)[list(tasks)].value_counts(dropna=False)
    labelsets.reset_index(name=":count").to_csv(folder / "labelsets.csv", index=False)
    epochs = 6 + seed % 3
    networks = list(tasks) if variant == "stc" else ["all"]
    rows = [{"network": net, "epoch": e, "lr": 1e-3, "train_loss": 2 / e, "val_loss": 2.2 / e, "val_oa": 1 - 0.5 / e}
            for net in networks for e in range(1, epochs + 1)]  # fmt: skip
    pd.DataFrame(rows).to_csv(folder / "history.csv", index=False)
    config = {"variant": variant, "backbone": backbone, "seed": seed, "detach": detach, "tasks": tasks.to_dict()}
    config |= {"image_size": 64, "mean": [0.5] * 3, "std": [0.2] * 3, "data": "city", "synthetic": True, "threads": 1}
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    if weights:
        config |= {"timm_name": backbone, "clim_units": 32, "tlim_units": 12}
        (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
        save_file(create_model(variant, tasks, backbone).state_dict(), folder / "model.safetensors")
    step = 0.05 * (1 + 0.6 * ("lim" in variant))
    origin = {"date": "2026-01-01", "device": "cpu", "hardware": "2 cores",
              "seconds": step * 100 * epochs * len(networks),
              "seconds_per_step": step, "epochs": epochs * len(networks), "parameters": 1000 * len(networks),
              "networks": [{"network": name, "best_epoch": epochs - 2} for name in networks],
              "peak_memory_mb": 800.0, "images_per_second": 100 / len(networks),
              "commit": "0", "table": "0"}  # fmt: skip
    _json(folder / "provenance.json", origin)
    (folder / "COMPLETE").touch()
    return folder


def _json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value))


def write_study(root: Path, variants=("stc", "bl", "bl_ms", "clim", "lim_ms_all"), seeds=3, tasks: Tasks = SANTIAGO,
                detached: tuple[str, ...] = (), **options) -> Path:  # fmt: skip
    """A folder of runs: every variant with seeds 0, 1, ..."""
    for seed in range(seeds):
        for variant in variants:
            write_run(root, tasks, variant, seed, **options)
        for variant in detached:
            write_run(root, tasks, variant, seed, detach=True, **options)
    return root
