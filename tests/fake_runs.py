"""Run folders with invented predictions, for tests of the analysis: no model is trained. Not part of the package."""

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
        if task == "sbst":
            labels = np.array(classes, dtype=object)[(np.clip(kind, 0, 0.999) * len(classes)).astype(int)]
        frame[f"{task}:true"] = labels
    if {"height", "mat_llrs", "sbst"} <= set(tasks):  # SBST decides material and height, as in the paper
        material, storeys = zip(*(name.rsplit("_", 1) for name in frame["sbst:true"]), strict=True)
        fits = {h: [c for c in tasks["height"] if c[1:].split("-")[0] in h] or ["H1"] for h in set(storeys)}
        frame["height:true"], frame["mat_llrs:true"] = [fits[h][0] for h in storeys], material
    for task in tasks:
        frame.loc[rng.random(n) < missing, f"{task}:true"] = None
    return frame


def _split(truth: pd.DataFrame, tasks: Tasks, quality: float, rng: np.random.Generator) -> pd.DataFrame:
    out = truth[["image", "block"]].copy()
    for task, classes in tasks.items():
        k, true = len(classes), truth[f"{task}:true"]
        codes = np.array([classes.index(name) if isinstance(name, str) else rng.integers(0, k) for name in true])
        distance = np.abs(np.arange(k)[None, :] - codes[:, None])
        z = quality * np.maximum(3 - 1.3 * distance, 0) + rng.gumbel(0, 1.4, (len(codes), k))
        p = np.exp(1.3 * z)
        p = (p / p.sum(1, keepdims=True)).astype(np.float32)
        columns = {f"{task}:true": true, f"{task}:pred": np.array(classes, dtype=object)[p.argmax(1)]}
        out = out.assign(**columns, **{f"{task}:p:{name}": p[:, j] for j, name in enumerate(classes)})
    return out


def write_run(root: Path, tasks: Tasks, variant: str, seed: int, *, backbone: str = "densenet121", n: int = 400,
              blocks: int | None = 40, missing: float = 0.0, data_seed: int = 0, weights: bool = False,
              code: str = "c0de", table: str = "7ab1e"):  # fmt: skip
    """One complete run folder, as the trainer writes it; ``weights``: with those of a network started at random."""
    folder = root / backbone / variant / f"seed-{seed}"
    folder.mkdir(parents=True)
    truth = make_truth(tasks, 2 * n, blocks, missing, data_seed)
    rng = np.random.default_rng([seed, sum(map(ord, variant))])
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
    train = make_truth(tasks, 4 * n, blocks, missing, data_seed + 1)
    labelsets = train[[f"{task}:true" for task in tasks]].set_axis(list(tasks), axis=1)
    labelsets.value_counts(dropna=False).reset_index(name=":count").to_csv(folder / "labelsets.csv", index=False)
    epochs = 6 + seed % 3
    networks = list(tasks) if variant == "stc" else ["all"]
    rows = [{"network": net, "epoch": e, "lr": 1e-3, "train_loss": 2 / e, "val_loss": 2.2 / e, "val_oa": 1 - 0.5 / e}
            for net in networks for e in range(1, epochs + 1)]  # fmt: skip
    pd.DataFrame(rows).to_csv(folder / "history.csv", index=False)
    config = {"variant": variant, "backbone": backbone, "seed": seed, "tasks": tasks.to_dict(), "titles": tasks.titles}
    config |= {"image_size": 64, "mean": [0.5] * 3, "std": [0.2] * 3, "data": "city", "synthetic": True, "threads": 1}
    config |= {"timm_name": backbone, "clim_units": 32, "tlim_units": 12, "max_epochs": 8, "batch_size": 10}
    config |= {"table": table}
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True), encoding="utf-8")
    if weights:
        save_file(create_model(variant, tasks, backbone).state_dict(), folder / "model.safetensors")
    origin = {"date": "2026-01-01", "device": "CPU", "hardware": "2 cores", "threads": 1, "commit": "0",
              "parameters": 1000 * len(networks), "peak_memory_mb": 800.0, "code": code, "table": table,
              "counts": [{"task": t, "class": c, "train": int((train[f"{t}:true"] == c).sum()),
                          "val": int((validation[f"{t}:true"] == c).sum()), "test": int((test[f"{t}:true"] == c).sum())}
                         for t, names in tasks.items() for c in names],
              "steps_to_best": 16 * (epochs - 1) * len(networks),
              "networks": [{"network": name, "epochs": epochs, "best_epoch": epochs - 2}
                           for name in networks]}  # fmt: skip
    _json(folder / "provenance.json", origin)
    (folder / "COMPLETE").touch()
    return folder


def _json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, allow_nan=False))


def write_study(root: Path, variants=("stc", "bl", "bl_ms", "clim", "lim_ms_all"), seeds=3, tasks: Tasks = SANTIAGO,
                **options) -> Path:  # fmt: skip
    """A folder of runs: every variant with seeds 0, 1, ..."""
    for seed in range(seeds):
        for variant in variants:
            write_run(root, tasks, variant, seed, **options)
    return root
