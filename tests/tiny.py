"""A project in a folder of its own: a table of generated pictures, a preset, the notebooks. Synthetic."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from PIL import Image

from mtclim.config import load_config, run_folder

ROOT = Path(__file__).parent.parent
PRESET = {
    "variant": "bl", "backbone": "test_byobnet", "image_size": 32, "data": "table.csv", "keep": 1.0, "threads": 1,
    "batch_size": 16, "learning_rate": 0.003, "max_epochs": 4, "stop_patience": 4, "max_unreadable": 0.1,
    "study": {"variants": ["bl", "bl_ms"], "controls": [], "realisations": 1},
}  # fmt: skip
TASKS = {"shade": ["dark", "light"], "tint": ["blue", "green", "red"]}


def make_project(folder: Path, images: int = 120, tasks: dict | None = None, **settings) -> Path:
    """A folder that the package takes for its project: runs and decoded images land in it, not in the checkout."""
    tasks, rng = tasks or TASKS, np.random.default_rng(0)
    (folder / "configs").mkdir(parents=True)
    (folder / "configs" / "tiny.yaml").write_text(yaml.safe_dump(PRESET | settings), encoding="utf-8")
    shutil.copytree(ROOT / "notebooks", folder / "notebooks", ignore=shutil.ignore_patterns(".*"))
    (folder / "images").mkdir()
    codes = np.stack([rng.integers(0, len(classes), images) for classes in tasks.values()], 1)
    for i, row in enumerate(codes):
        pixels = rng.integers(0, 60, (24, 24, 3)) + 120 * row[0] % 240
        pixels[..., row[-1] % 3] += 70
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / "images" / f"{i}.png")
    frame = pd.DataFrame(
        {"image": [f"images/{i}.png" for i in range(images)], "block": [f"b{i % 12}" for i in range(images)]}
    )
    for n, (task, classes) in enumerate(tasks.items()):
        frame[task] = np.array(classes, dtype=object)[codes[:, n]]
    frame.to_csv(folder / "table.csv", index=False)
    return folder


def study_root(folder: Path, table: str = "table.csv", preset: str = "tiny") -> Path:
    """The folder of a project's runs on a table: its name holds a digest of the table's path and bytes."""
    here = Path.cwd()
    os.chdir(folder)
    try:
        return run_folder(load_config(preset, data=table)).parents[2]
    finally:
        os.chdir(here)


def environment(**more: str) -> dict[str, str]:
    """One thread a process, no GPU, and this interpreter's programs first."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    return os.environ | threads | {"PATH": path, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""} | more


def start(folder: Path, *arguments: str, **options) -> subprocess.Popen:
    """A Python process of its own process group in the project's folder, its output together in one pipe."""
    command = [sys.executable, *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "start_new_session": True}
    return subprocess.Popen(command, cwd=folder, env=environment(), **(pipes | options))


def told(notebook: Path) -> str:
    """What an executed notebook tells: its outputs, without what is marked as code or does not reach the book."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    shown = [cell for cell in cells if "remove-output" not in cell["metadata"].get("tags", [])]
    parts = []
    for output in (output for cell in shown for output in cell.get("outputs", [])):
        data = output.get("data", {})
        kind = next((kind for kind in ("text/html", "text/markdown", "text/plain") if kind in data), None)
        text = "".join(data[kind] if kind else output.get("text", ""))
        parts.append(re.sub(r"(?s)<style.*?</style>|<code>.*?</code>|`[^`]*`", "", text))
    return "\n".join(parts).replace("\\", "")


def contents(run: Path) -> dict[str, bytes]:
    """What must not differ between two runs of the same settings."""
    names = ("metrics.json", "model.safetensors", "predictions.parquet")
    return {name: (run / name).read_bytes() for name in names}
