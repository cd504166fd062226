"""Training of one run: data, Lightning loop, best weights, run folder (sections 2.2, 2.3.6 and 3)."""

import ctypes
import logging
import os
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import lightning as L
import numpy as np
import timm
import torch
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping, TQDMProgressBar
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from mtclim import runs
from mtclim.config import Config, run_folder, to_dict
from mtclim.data.images import ImageStore
from mtclim.model import MultitaskModel, SingleTaskModel, create_model
from mtclim.prepare import Data, prepare
from mtclim.results import EVALUATION_BATCH, write_results
from mtclim.tasks import Tasks

logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # which devices there are, tips, what was reached
warnings.filterwarnings("ignore", ".*LeafSpec.* is deprecated", module="lightning")  # theirs to mend


class TrainingError(RuntimeError):
    """Training that went wrong: says at which step and task, what is kept, and what to do."""


class Batches(Sampler):
    """Index lists, one a batch, in an order that only (seed, epoch) decides; each rank takes its share of every batch.

    A last batch too small for batch normalisation on every rank is left out of that epoch.
    """

    def __init__(self, rows: np.ndarray, size: int, seed: int | None, rank: int = 0, ranks: int = 1):
        self.rows, self.size, self.seed, self.rank, self.ranks, self.epoch = rows, size, seed, rank, ranks, 0
        self.least = 1 if seed is None else 2 * ranks

    def set_epoch(self, epoch: int) -> None:
        """Lightning tells the epoch here."""
        self.epoch = epoch

    def __len__(self) -> int:
        full, rest = divmod(len(self.rows), self.size)
        return full + (rest >= self.least)

    def __iter__(self) -> Iterator[list[int]]:
        rows = self.rows
        if self.seed is not None:
            rows = np.random.default_rng((self.seed, self.epoch)).permutation(rows)
        for b in range(len(self)):
            yield rows[b * self.size : (b + 1) * self.size][self.rank :: self.ranks]


class Photographs(Dataset):
    """Decoded images and targets of the kept rows, a batch at a time."""

    def __init__(self, store: ImageStore, codes: np.ndarray):
        self.images, self.codes = store.images, torch.from_numpy(codes)

    def __getitem__(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(self.images[rows]), self.codes[rows]


# Lightning -------------------------------------------------------------------------------------------------------


class Learner(L.LightningModule):
    """One network's optimisation: Adam, L2 on the softmax kernels, plateau schedule, best weights (section 3).

    The schedule is stepped and the best weights are kept here, so that one checkpoint an epoch holds all of it.
    """

    def __init__(self, model: MultitaskModel, config: Config, network: str, seed: int):
        super().__init__()
        self.model, self.config, self.network, self.seed = model, config, network, seed
        self.register_buffer("mean", 255 * torch.tensor(model.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(model.std).view(1, 3, 1, 1), persistent=False)
        self.history: list[dict] = []
        self.best: dict = {"epoch": -1, "val_oa": -1.0, "weights": {}}
        self.times: list[list[float]] = []  # seconds in training steps, number of steps; an epoch each

    def configure_optimizers(self):
        """Adam; 1e-4 * sum(w^2) in the loss is weight_decay = 2e-4 under Adam, on the softmax kernels alone."""
        kernels = self.model.softmax_kernels()
        rest = [p for p in self.model.parameters() if all(p is not k for k in kernels)]
        groups = [{"params": rest}, {"params": kernels, "weight_decay": 2 * self.config.l2}]
        optimizer = torch.optim.Adam(groups, lr=self.config.learning_rate, fused=self.device.type == "cuda")
        self.schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer, "max", self.config.lr_factor, self.config.lr_patience, threshold=1e-4, threshold_mode="abs"
        )
        return optimizer

    def forward(self, images: Tensor):
        """images (B, H, W, 3) uint8."""
        layout = torch.channels_last if images.is_cuda else torch.contiguous_format
        x = images.permute(0, 3, 1, 2).to(torch.float32, memory_format=layout)
        return self.model((x - self.mean) / self.std)

    def on_train_epoch_start(self) -> None:
        """Random numbers depend on (seed, epoch) only, so that a resumed run is the uninterrupted one."""
        torch.manual_seed(self.seed * 100_003 + self.current_epoch)
        self.train_loss, self.began = torch.zeros((), device=self.device), time.perf_counter()
        self.unseen: list[tuple[int, Tensor]] = []  # step and losses since the last look at them

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        """The objective of one batch."""
        losses = self.model.losses(self(batch[0]), batch[1])
        loss = losses.sum()
        self.train_loss += loss.detach()
        self.unseen.append((index, losses.detach()))
        if index % 50 == 0 or not loss.is_cuda:  # looking waits for a GPU
            self._look()
        return loss

    def _look(self) -> None:
        """Stop at the first of the losses not looked at yet that isn't finite."""
        finite = torch.isfinite(self.train_loss)  # a sum: once it isn't, it stays so
        for index, losses in [] if finite else self.unseen:
            bad = (~torch.isfinite(losses)).any(0).tolist()
            if any(bad):
                tasks = [task for task, wrong in zip(self.model.tasks, bad, strict=True) if wrong]
                raise self._went_wrong(f"the loss of {', '.join(tasks)}", losses.sum().item(), f"step {index}")
        self.unseen.clear()

    def _went_wrong(self, what: str, value: float, where: str) -> TrainingError:
        best = self.best["epoch"]
        kept = f"The best weights so far, of epoch {best}, are kept" if best >= 0 else "No epoch was finished"
        return TrainingError(
            f"{self.network}: {what} became {value} at epoch {self.current_epoch}, {where}. {kept} in the run's .partial folder; "
            f"lower the learning rate (now {self.optimizers().param_groups[0]['lr']:g}) and train with another `out`, or delete it."
        )

    def on_validation_start(self) -> None:
        """The training steps of this epoch end here."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        self._look()
        steps = self.trainer.num_training_batches
        self.times.append([time.perf_counter() - self.began, steps])
        self.sums = torch.zeros(2, len(self.model.tasks), dtype=torch.float64, device=self.device)  # correct, annotated
        self.val_loss = torch.zeros(2, dtype=torch.float64, device=self.device)

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        """Counts correct final answers."""
        out, targets = self(batch[0]), batch[1]
        final = next(reversed(out.logits.values())).argmax(-1)
        annotated = targets >= 0
        self.sums += torch.stack(((final == targets) & annotated, annotated)).sum(1)
        self.val_loss += torch.stack(
            (self.model.loss(out, targets).double() * len(targets), torch.tensor(len(targets)).to(targets))
        )

    def on_validation_epoch_end(self) -> None:
        """Mean validation accuracy of the final outputs: the figure of schedule, stopping and best weights."""
        correct, annotated = self.trainer.strategy.reduce(self.sums, reduce_op="sum")
        loss = self.trainer.strategy.reduce(self.val_loss, reduce_op="sum")
        train_loss = self.trainer.strategy.reduce(self.train_loss, reduce_op="mean")
        if not torch.isfinite(loss[0]):  # the last step broke the weights: they must not be kept
            raise self._went_wrong("the loss on validation", loss[0].item(), f"after {self.times[-1][1]} steps")
        oa = (correct / annotated)[annotated > 0]
        self.log("val_oa", oa.mean() if len(oa) else torch.zeros(()), prog_bar=True, sync_dist=True)
        lr, steps = self.optimizers().param_groups[0]["lr"], self.times[-1][1]
        row = {
            "network": self.network,
            "epoch": self.current_epoch,
            "lr": lr,
            "train_loss": train_loss.item() / steps,
        }
        row |= {"val_loss": (loss[0] / loss[1]).item(), "val_oa": oa.mean().item() if len(oa) else 0.0}
        self.history.append(
            row | dict(zip((f"val_oa:{t}" for t in self.model.tasks), (correct / annotated).tolist(), strict=True))
        )

    def on_train_epoch_end(self) -> None:
        """Step the schedule; keep the weights if they are the best so far."""
        row = self.history[-1]
        self.schedule.step(row["val_oa"])
        if row["val_oa"] > self.best["val_oa"]:
            weights = {name: value.detach().cpu().clone() for name, value in self.model.state_dict().items()}
            self.best = {"epoch": row["epoch"], "val_oa": row["val_oa"], "weights": weights}

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        """What the trainer does not know."""
        checkpoint["learner"] = {
            "history": self.history,
            "best": self.best,
            "times": self.times,
            "schedule": self.schedule.state_dict(),
        }

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        """The same, back."""
        state = checkpoint["learner"]
        self.history, self.best, self.times = state["history"], state["best"], state["times"]
        self.resumed_schedule = state["schedule"]

    def on_train_start(self) -> None:
        """The optimizer exists by now."""
        if hasattr(self, "resumed_schedule"):
            self.schedule.load_state_dict(self.resumed_schedule)


class EveryEpoch(Checkpoint):
    """One checkpoint at the end of each epoch, replaced in one move: a killed run loses at most an epoch."""

    def __init__(self, path: Path):
        self.path = path

    def on_train_epoch_end(self, trainer: L.Trainer, learner: L.LightningModule) -> None:
        """Lightning calls checkpoints after every other callback."""
        beside = self.path.with_suffix(".part")
        trainer.save_checkpoint(beside, weights_only=False)
        if trainer.is_global_zero:
            os.replace(beside, self.path)


class Lines(L.Callback):
    """One line an epoch, where a moving bar would fill a log or an executed notebook."""

    def on_train_epoch_end(self, trainer: L.Trainer, learner: L.LightningModule) -> None:
        """Say how far the network is."""
        row, seconds = learner.history[-1], learner.times[-1][0]
        if trainer.is_global_zero:
            done = f"epoch {row['epoch'] + 1} of at most {trainer.max_epochs}"
            print(f"{learner.network}: {done}, validation OA {row['val_oa']:.1%}, {seconds:.0f} s", flush=True)


class Progress(TQDMProgressBar):
    """Lightning's bar without its version number."""

    def get_metrics(self, trainer: L.Trainer, learner: L.LightningModule) -> dict:
        """Only what is logged."""
        return {k: v for k, v in super().get_metrics(trainer, learner).items() if k != "v_num"}


# A run -----------------------------------------------------------------------------------------------------------


def fit(config: Config, devices: int = 1, nodes: int = 1, progress: bool = True) -> Path:
    """Train the run that ``config`` describes, or resume it, or return it if it is finished: its folder.

    Stopped at any moment, the same call goes on from the last finished epoch. Raises TableError, TrainingError,
    runs.RunError; nothing half-written stands under the run's name.
    """
    _keep_memory()
    folder = run_folder(config)
    threads = config.threads or len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    config = replace(config, threads=threads)
    data = prepare(config)
    look = timm.get_pretrained_cfg(config.timm_name)
    settings = to_dict(config) | {
        "timm_name": config.timm_name, "synthetic": config.synthetic, "tasks": data.table.tasks.to_dict(),
        "mean": list(map(float, look.mean)), "std": list(map(float, look.std)), "table": data.table.digest,
    }  # fmt: skip
    if runs.is_complete(folder):
        runs.check_settings(folder / "config.yaml", settings)
        return folder
    if _rank():
        _networks(config, data, folder.with_name(f"{folder.name}.partial"), devices, nodes, progress)
        return folder
    with runs.working(folder, settings) as partial:
        learners = _networks(config, data, partial, devices, nodes, progress)
        model = learners[0].model
        if config.variant == "stc":
            model = SingleTaskModel(data.table.tasks, [learner.model for learner in learners])
        write_results(partial, config, data, model, learners)
    return folder


def _keep_memory() -> None:
    """Have glibc keep freed memory for the next step: else each step asks the system anew for every page it touches."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:  # elsewhere, and with another allocator, nothing changes
        mallopt(-4, 0)  # M_MMAP_MAX: blocks of any size come from the heap ...
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: ... which is given back beyond 2 GiB only


def _rank() -> int:
    """This process' rank among all that train the run together (0 where it trains alone)."""
    names = ("RANK", "SLURM_PROCID", "LOCAL_RANK")
    return next((int(os.environ[name]) for name in names if os.environ.get(name, "").isdigit()), 0)


def _networks(config: Config, data: Data, partial: Path, devices: int, nodes: int, progress: bool) -> list[Learner]:
    """Train the network of a multitask variant, or STC's N networks one after another."""
    tasks = data.table.tasks
    if config.variant != "stc":
        return [_fit_network(config, data, tasks, "all", partial, devices, nodes, progress)]
    return [
        _fit_network(config, data, Tasks({task: tasks[task]}), task, partial, devices, nodes, progress)
        for task in tasks
    ]


def _fit_network(config: Config, data: Data, tasks: Tasks, network: str, partial: Path, devices: int, nodes: int,
                 progress: bool) -> Learner:  # fmt: skip
    """Train one network to early stopping, from its last finished epoch on if there is one; best weights loaded."""
    columns = [list(data.table.tasks).index(task) for task in tasks]
    codes = np.ascontiguousarray(data.codes[:, columns])
    seed = (
        int(np.random.SeedSequence((config.seed, columns[0])).generate_state(1)[0]) if network != "all" else config.seed
    )
    torch.manual_seed(seed)
    variant = "bl" if config.variant == "stc" else config.variant
    try:
        model = create_model(variant, tasks, config.timm_name, config.pretrained, config.weights or None,
                             config.clim_units, config.tlim_units)  # fmt: skip
    except RuntimeError as error:  # pretrained weights that cannot be had; the message says what to do
        raise TrainingError(str(error)) from error
    learner = Learner(model, config, network, seed)
    checkpoint = partial / f"{'network' if network == 'all' else columns[0]}.ckpt"
    if checkpoint.exists():
        learner.on_load_checkpoint(_read_checkpoint(checkpoint))
    if not _finished(learner, config):
        _optimise(learner, config, data, codes, checkpoint, devices, nodes, progress)
    model.load_state_dict(learner.best["weights"])
    return learner


def _read_checkpoint(path: Path) -> dict:
    """A checkpoint of this module's own making; whatever holds more than tensors and plain values is refused unread."""
    try:
        checkpoint = torch.load(path, weights_only=True, map_location="cpu")
        if checkpoint["learner"].keys() >= {"history", "best", "times", "schedule"}:
            return checkpoint
        reason = "entries are missing"
    except OSError:
        raise
    except Exception as error:  # damaged and foreign files raise anything
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    raise runs.RunError(
        f"{path}: not a checkpoint of this training, so nothing of it was used ({reason}); expected tensors and plain values as "
        f"training writes them. Delete {path.parent} and repeat the command."
    )


def _finished(learner: Learner, config: Config) -> bool:
    """Whether the resumed network had reached early stopping or the last epoch when it was stopped."""
    if not learner.history:
        return False
    epoch = learner.history[-1]["epoch"]
    return epoch + 1 >= config.max_epochs or epoch - learner.best["epoch"] >= config.stop_patience


def _optimise(learner: Learner, config: Config, data: Data, codes: np.ndarray, checkpoint: Path, devices: int, nodes: int,
              progress: bool) -> None:  # fmt: skip
    gpu = torch.cuda.is_available()
    bf16 = config.precision == "auto" and gpu and torch.cuda.is_bf16_supported()
    precision = "bf16-mixed" if bf16 else "32-true" if config.precision == "auto" else config.precision
    if gpu:
        learner.model.to(memory_format=torch.channels_last)
        torch.set_float32_matmul_precision("high")
    callbacks = [EarlyStopping("val_oa", mode="max", patience=config.stop_patience), EveryEpoch(checkpoint)]
    bar = progress and sys.stderr.isatty()
    callbacks += [Progress(leave=True) if bar else Lines()] * progress
    trainer = L.Trainer(
        accelerator="gpu" if gpu else "cpu", devices=devices, num_nodes=nodes, strategy="ddp" if devices * nodes > 1 else "auto",
        max_epochs=config.max_epochs, precision=precision, callbacks=callbacks,
        deterministic=not gpu, num_sanity_val_steps=0, use_distributed_sampler=False, logger=False,
        enable_progress_bar=bar, enable_model_summary=False, default_root_dir=checkpoint.parent,
    )  # fmt: skip
    dataset = Photographs(data.store, codes)
    annotated = np.flatnonzero((codes >= 0).any(1))
    rank, ranks = trainer.global_rank, trainer.world_size

    def loader(split: str, size: int, seed: int | None) -> DataLoader:
        rows = np.intersect1d(data.rows(split), annotated)
        return DataLoader(dataset, sampler=Batches(rows, size, seed, rank, ranks), batch_size=None, pin_memory=gpu)

    loaders = loader("train", config.batch_size, learner.seed), loader("val", EVALUATION_BATCH, None)
    try:
        trainer.fit(learner, *loaders, ckpt_path=checkpoint if checkpoint.exists() else None, weights_only=True)
    except torch.OutOfMemoryError as error:
        raise TrainingError(
            f"{learner.network}: the GPU's memory is too small for batch_size {config.batch_size} at {config.image_size} px; lower "
            f"batch_size or image_size and delete {checkpoint.parent}, or give another `out`, and repeat the command."
        ) from error
    if trainer.interrupted:
        raise KeyboardInterrupt
