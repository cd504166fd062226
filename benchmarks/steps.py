"""Rows 2 to 4: training steps of the variants against bl, and the trainer's throughput against a bare loop."""

import contextlib
import tempfile
from pathlib import Path

import numpy as np
import torch

from benchmarks.common import DEVICE, GPU, in_turn, row
from mtclim.config import load_config
from mtclim.learner import Learner, Photographs, optimise
from mtclim.model import create_model
from mtclim.results import arrange
from mtclim.tasks import SANTIAGO
from mtclim.variants import VARIANTS

PAPER = (("densenet121", 224), ("tf_efficientnetv2_b3", 300))


def train_step(variant: str, backbone: str, size: int, batch: int):
    """A call that makes one training step on one resident batch: forward, loss, backward, Adam."""
    torch.manual_seed(0)
    model = arrange(create_model(variant, SANTIAGO, backbone), DEVICE).train()
    images = torch.randn(batch, 3, size, size, device=DEVICE).contiguous(memory_format=model.layout)
    targets = torch.stack([torch.randint(k, (batch,), device=DEVICE) for k in SANTIAGO.sizes], 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=GPU)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cuda", torch.bfloat16) if GPU else contextlib.nullcontext():
            out = model(images)
        model.loss(out, targets).backward()
        optimizer.step()

    return step


def run(quick: bool) -> list[dict]:
    """Rows 2 (only on a GPU), 3 with every variant, and 4."""
    lines = []
    for backbone, size in PAPER if GPU else ():
        for batch, target in ((24, 1.10), (128, 1.05)):
            t = in_turn({v: train_step(v, backbone, size, batch) for v in ("bl", "lim_ms_all")}, 20, warm=5)
            what = f"training step, lim_ms_all, {backbone} {size} px, batch {batch}"
            lines.append(row(2, what, "bl", t["lim_ms_all"] / t["bl"], target, t["lim_ms_all"]))
            torch.cuda.empty_cache()
    preset = load_config("demo")
    torch.set_num_threads(preset.threads)
    body, size, batch = preset.timm_name, preset.image_size, preset.batch_size
    t = in_turn({v: train_step(v, body, size, batch) for v in VARIANTS}, 5 if quick else 30)
    for variant in (v for v in VARIANTS if v != "bl"):
        target = None if GPU else {"lim_ms_all": 1.6, "tlim": 1.15}.get(variant)
        what = f"training step, {variant}, {body} {size} px, batch {batch}"
        lines.append(row(3, what, "bl", t[variant] / t["bl"], target, t[variant]))
    return [*lines, throughput(body, size, batch, steps=15 if quick else 40)]


def throughput(body: str, size: int, batch: int, steps: int) -> dict:
    """Row 4: one epoch of the real trainer from decoded images on disk, in turn with the bare loop."""
    rng, n = np.random.default_rng(0), batch * steps
    codes = np.stack([rng.integers(0, k, n + 1) for k in SANTIAGO.sizes], 1)
    rows = {"train": np.arange(n), "val": np.array([n])}
    seconds: dict[str, list[float]] = {"trainer": [], "bare": []}
    bare = train_step("bl", body, size, batch)
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/images.npy", rng.integers(0, 256, (n + 1, size, size, 3), np.uint8))
        photographs = Photographs(np.load(f"{folder}/images.npy", mmap_mode="r"), codes)

        def trainer() -> float:
            learner = Learner(create_model("bl", SANTIAGO, body), learning_rate=1e-4)
            checkpoint = Path(folder, "network.ckpt")
            checkpoint.unlink(missing_ok=True)
            optimise(
                learner, photographs, rows, checkpoint, batch_size=batch, max_epochs=1, stop_patience=1, progress=False
            )
            return learner.times[0][0]

        trainer()
        for _ in range(5):
            seconds["trainer"].append(trainer())
            seconds["bare"].append(in_turn({"loop": lambda: [bare() for _ in range(steps)]}, 1, warm=0)["loop"])
    ratio = float(np.median(np.divide(seconds["bare"], seconds["trainer"])))  # of neighbours in time
    return row(4, f"training throughput of the trainer, bl, {body} {size} px", "the bare loop on a resident batch",
               ratio, 0.95 if GPU else 0.92, float(np.median(seconds["trainer"])), least=True)  # fmt: skip
