"""Row 5: prediction, JPEG files to GeoParquet, against the slower of decoding alone and forward alone."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file

from benchmarks.common import GPU, in_turn, row
from mtclim import runs
from mtclim.city import draw
from mtclim.config import load_config, to_dict
from mtclim.files import write_json
from mtclim.machine import cores
from mtclim.mapping.ensemble import load_ensemble
from mtclim.mapping.photographs import decoded_batches
from mtclim.mapping.predict import predict_file
from mtclim.model import create_model
from mtclim.tasks import SANTIAGO

BATCH = 64


def write_run(folder: Path, config) -> None:
    """A run folder with a network started at random: what prediction reads of one."""
    model = create_model(config.variant, SANTIAGO, config.timm_name)
    settings = to_dict(config) | {"timm_name": config.timm_name, "tasks": SANTIAGO.to_dict(), "titles": {}}
    settings |= {"mean": model.mean, "std": model.std}
    with runs.working(folder, settings) as partial:
        save_file(model.state_dict(), partial / "model.safetensors")
        write_json(partial / "calibration.json", {task: {"temperature": 1.0} for task in SANTIAGO})
        pd.DataFrame({"image": [], "split": [], "digest": []}, dtype=str).to_parquet(partial / "split.parquet")


def measure(preset: str, size: int, images: int, target: float | None) -> dict:
    """One line: photographs of ``size`` px, the network of a preset (``lim_ms_all``, started at random)."""
    config = load_config(preset, {"variant": "lim_ms_all", "pretrained": False})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_run(folder / "run", config)
        pictures = [draw("H1", "CR", "FLT", "DET_SP", k, size) for k in range(64)]
        for k in range(images):
            (folder / f"{k}.jpg").write_bytes(pictures[k % len(pictures)])
        names = [f"{k}.jpg" for k in range(images)]
        pd.DataFrame({"image": names, "lon": -70.6, "lat": -33.4}).to_csv(folder / "images.csv", index=False)
        ensemble = load_ensemble(folder / "run")
        paths = [str(folder / name) for name in names]
        batches = [paths[k : k + BATCH] for k in range(0, images, BATCH)]
        pixels = {config.image_size: np.zeros((BATCH, config.image_size, config.image_size, 3), np.uint8)}

        def whole() -> None:
            predict_file(
                folder / "run", folder / "images.csv", folder / "map.parquet", batch_size=BATCH, progress=False
            )
            (folder / "map.parquet").unlink()

        alone = {
            "decoding": lambda: [None for _ in decoded_batches(batches, ensemble.sizes, BATCH)],
            "forward": lambda: [ensemble.probabilities(pixels) for _ in batches],
        }
        t = in_turn({"whole": whole, **alone}, 3, warm=1)
    slower = max(alone, key=t.__getitem__)
    what = f"prediction, JPEG to GeoParquet, {images:,} façades of {size} px, {config.backbone} {config.image_size} px"
    line = row(5, what, f"{slower} alone (the slower)", t[slower] / t["whole"], target, t["whole"], least=True)
    return line | ({"seconds for 204,030": round(t["whole"] * 204_030 / images, 1)} if GPU else {})


def run(quick: bool) -> Iterator[dict]:
    """The paper's DenseNet121 on façades of 300 px; on a CPU on few of them, and the demo preset too.

    The demo preset has no target: decoding takes a part of the small network's time, and where both want the same cores
    the whole cannot take less than the sum of the two.
    """
    torch.set_num_threads(cores())
    if GPU:
        yield measure("paper", 300, 8192 if quick else 32_768, 0.9)
        return
    yield measure("demo", 64, 1024 if quick else 16_384, None)
    yield measure("paper", 300, BATCH if quick else 4 * BATCH, 0.9)
