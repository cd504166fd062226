"""Rows 2 to 4: a training step of every network against bl's, and the trainer's throughput against a bare loop.

Row 3 is what the study's table of costs and Fig. 12 are made of: the preset "study", alone on the machine. Row 2 is the
same for the paper's backbones. A step of stc is one step of each of its networks.
"""

import contextlib
import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.common import DEVICE, GPU, in_turn, rounds, row
from mtclim.city.joint import joint
from mtclim.config import load_config
from mtclim.learner import Learner, Photographs, optimise
from mtclim.machine import cores
from mtclim.model import create_model
from mtclim.results import arrange
from mtclim.tasks import SANTIAGO
from mtclim.variants import VARIANT_TABLE, VARIANTS, ordered

PAPER = (("densenet121", 224), ("tf_efficientnetv2_b3", 300))
CPU_TARGETS = {"lim_ms_all": 1.6, "tlim": 1.15}


def train_step(variant: str, backbone: str, size: int, batch: int) -> Callable[[], None]:
    """A call that makes one training step on one batch that stays in memory: forward, loss, backward, Adam."""
    torch.manual_seed(0)
    labelsets = np.stack([joint()[task].cat.codes for task in SANTIAGO], 1).astype(np.int64)
    model = arrange(create_model(variant, SANTIAGO, backbone, labelsets=labelsets), DEVICE).train()
    images = torch.randn(batch, 3, size, size, device=DEVICE).contiguous(memory_format=model.layout)
    targets = torch.from_numpy(labelsets[np.random.default_rng(0).integers(len(labelsets), size=batch)]).to(DEVICE)
    if variant != "stc":
        return _step(model, images, targets)
    each = [_step(network, images, targets[:, [n]]) for n, network in enumerate(model.networks)]
    return lambda: [step() for step in each]


def _step(model: nn.Module, images: Tensor, targets: Tensor) -> Callable[[], None]:
    """One training step of one network, as a call."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=GPU)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cuda", torch.bfloat16) if GPU else contextlib.nullcontext():
            out = model(images)
        model.loss(out, targets).backward()
        optimizer.step()

    return step


def _against_bl(number: int, variants: Iterable[str], backbone: str, size: int, batch: int, count: int,
                targets: dict[str, float]) -> list[dict]:  # fmt: skip
    """A line a variant: the median over ``count`` rounds of its step's time by that of bl in the same round."""
    calls = {name: train_step(name, backbone, size, batch) for name in ordered({"bl", *variants})}
    times, lines = rounds(calls, count, warm=1 if count < 5 else 2), []
    bl = times.pop("bl")
    for name, seconds in times.items():
        low, ratio, high = np.quantile(seconds / bl, (0.25, 0.5, 0.75))
        what = f"training step, {name}, {backbone} {size} px, batch {batch}"
        line = row(number, what, "bl", float(ratio), targets.get(name), float(np.median(seconds)))
        lines.append(line | {"quartiles": f"{low:.3f} to {high:.3f}"})
    return lines


def run(quick: bool) -> Iterator[dict]:
    """Rows 3, 4 and 2. On a CPU row 2 is of the smaller backbone, in few steps, and has no target."""
    preset, count = load_config("study"), 5 if quick and not GPU else 30
    study = preset.timm_name, preset.image_size, preset.batch_size
    torch.set_num_threads(preset.threads)
    yield from _against_bl(3, set(VARIANT_TABLE) - {"bl"}, *study, count, {} if GPU else CPU_TARGETS)
    yield throughput(*study, 15 if quick else 40)
    torch.set_num_threads(cores())
    if not GPU and not quick:
        yield from _against_bl(2, ("stc", "tlim", "lim_ms_all"), *PAPER[0], 24, 3, {})
    for backbone, size in PAPER if GPU else ():
        yield from _against_bl(2, set(VARIANTS) - {"bl"}, backbone, size, 24, 20, {"lim_ms_all": 1.10})
        yield from _against_bl(2, ["lim_ms_all"], backbone, size, 128, 20, {"lim_ms_all": 1.05})
        torch.cuda.empty_cache()


def throughput(backbone: str, size: int, batch: int, steps: int) -> dict:
    """Row 4: one epoch of the real trainer from decoded images on disk, in turn with the bare loop."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    rng, n = np.random.default_rng(0), batch * steps
    codes = np.stack([rng.integers(0, k, n + 1) for k in SANTIAGO.sizes], 1)
    rows = {"train": np.arange(n), "val": np.array([n])}
    bare = train_step("bl", backbone, size, batch)
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/images.npy", rng.integers(0, 256, (n + 1, size, size, 3), np.uint8))
        photographs = Photographs(np.load(f"{folder}/images.npy", mmap_mode="r"), codes)

        def trainer() -> float:
            learner = Learner(create_model("bl", SANTIAGO, backbone), learning_rate=1e-4)
            checkpoint = Path(folder, "network.ckpt")
            checkpoint.unlink(missing_ok=True)
            optimise(
                learner, photographs, rows, checkpoint, batch_size=batch, max_epochs=1, stop_patience=1, progress=False
            )
            return learner.times[0][0]

        def loop() -> float:
            return in_turn({"bare": lambda: [bare() for _ in range(steps)]}, 1, warm=0)["bare"]

        trainer()
        seconds = np.array([(trainer(), loop()) for _ in range(5)])
    ratio = float(np.median(seconds[:, 1] / seconds[:, 0]))  # of neighbours in time
    return row(4, f"training throughput of the trainer, bl, {backbone} {size} px", "the bare loop on a resident batch",
               ratio, 0.95 if GPU else 0.92, float(np.median(seconds[:, 0])), least=True)  # fmt: skip
