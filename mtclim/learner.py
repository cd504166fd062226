"""Training of one network: batches, losses, schedule, best weights, checkpoints (section 3)."""

import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from mtclim.files import whole_or_absent
from mtclim.model import MultitaskModel
from mtclim.results import EVALUATION_BATCH, arrange, normalised
from mtclim.runs import RunError


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
    """Decoded images (n, H, W, 3) uint8 and targets (n, N) int64, a batch of rows at a time."""

    def __init__(self, images: np.ndarray, codes: np.ndarray):
        self.images, self.codes = images, torch.from_numpy(np.ascontiguousarray(codes))

    def __getitem__(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(self.images[rows]), self.codes[rows]


class Learner(L.LightningModule):
    """One network's optimisation: Adam, L2 on the softmax kernels, plateau schedule, best weights (section 3).

    The settings are the configuration's; ``class_weights`` (N, Kmax) weigh the classes in the training loss.

    The schedule is stepped here and not by Lightning, which writes an epoch's checkpoint before it steps a plateau
    schedule, and leaves that step out where a run is resumed. The best weights are kept here and not by a
    ``ModelCheckpoint``, so that one file holds all of an epoch: a kill between two files would lose the best weights.
    """

    def __init__(self, model: MultitaskModel, network: str = "all", seed: int = 0, *, learning_rate: float,
                 new_layers_factor: float = 1.0, l2: float = 0.0, lr_factor: float = 0.5, lr_patience: int = 0,
                 frozen_epochs: int = 0, class_weights: Tensor | None = None):  # fmt: skip
        super().__init__()
        self.model, self.network, self.seed = model, network, seed
        self.learning_rate, self.new_layers_factor, self.l2 = learning_rate, new_layers_factor, l2
        self.lr_factor, self.lr_patience, self.frozen_epochs = lr_factor, lr_patience, frozen_epochs
        self.register_buffer("class_weights", class_weights, persistent=False)
        self.history: list[dict] = []
        self.best: dict = {"epoch": -1, "val_oa": -1.0, "weights": {}}
        self.times: list[list[float]] = []  # seconds in training steps, number of steps; an epoch each
        self.schedule_state: dict = {}

    def configure_optimizers(self):
        """Adam; l2 * sum(w^2) in the loss is weight_decay = 2 * l2 under Adam, on the softmax kernels alone."""
        kernels = self.model.softmax_kernels()
        new, apart = ({id(p) for p in layers} for layers in (self.model.new_layers(), kernels))
        fast = self.learning_rate * self.new_layers_factor
        groups = [
            {"params": [p for p in self.model.parameters() if id(p) not in new | apart]},
            {"params": [p for p in self.model.parameters() if id(p) in new - apart], "lr": fast},
            {"params": kernels, "lr": fast, "weight_decay": 2 * self.l2},
        ]
        optimizer = torch.optim.Adam(groups, lr=self.learning_rate, fused=self.device.type == "cuda")
        self.schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer, "max", self.lr_factor, self.lr_patience, threshold=1e-4, threshold_mode="abs"
        )
        self.schedule.load_state_dict(self.schedule_state)
        return optimizer

    def forward(self, images: Tensor):
        """images (B, H, W, 3) uint8."""
        return self.model(normalised(images, self.model))

    def on_train_epoch_start(self) -> None:
        """Random numbers depend on (seed, epoch) only, so that a resumed run is the uninterrupted one."""
        torch.manual_seed(self.seed * 100_003 + self.current_epoch)
        frozen = self.current_epoch < self.frozen_epochs
        self.model.backbone.requires_grad_(not frozen).train(not frozen)
        self.model.class_weights = self.class_weights
        self.sums: Tensor | float = 0.0  # of the losses, (M, N)
        self.began = time.perf_counter()
        self.unseen: list[tuple[int, Tensor]] = []  # step and losses since the last look at them

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        """The objective of one batch."""
        out = self(batch[0])
        losses = self.model.losses(out, batch[1])
        self.supervised = list(out.logits)
        self.sums = self.sums + losses.detach()
        self.unseen.append((index, losses.detach()))
        if index % 50 == 0 or not losses.is_cuda:  # looking waits for a GPU
            self._look()
        return losses.sum()

    def _look(self) -> None:
        """Stop at the first of the losses not looked at yet that isn't finite."""
        for index, losses in self.unseen:
            bad = (~torch.isfinite(losses)).any(0).tolist()
            if any(bad):
                tasks = ", ".join(task for task, wrong in zip(self.model.tasks, bad, strict=True) if wrong)
                raise self._went_wrong(f"the loss of {tasks}", losses.sum().item(), f"step {index}")
        self.unseen.clear()

    def _went_wrong(self, what: str, value: float, where: str) -> TrainingError:
        best = self.best["epoch"]
        kept = f"The best weights so far, of epoch {best}, are kept" if best >= 0 else "No epoch was finished"
        return TrainingError(
            f"{self.network}: {what} became {value} at epoch {self.current_epoch}, {where}. {kept} in the run's "
            f".partial folder; lower the learning rate (now {self.optimizers().param_groups[0]['lr']:g}) and "
            "train with another `out`, or delete it."
        )

    def on_validation_start(self) -> None:
        """The training steps of this epoch end here."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        self._look()
        self.times.append([time.perf_counter() - self.began, self.trainer.num_training_batches])
        self.model.class_weights = None
        self.right = torch.zeros(2, len(self.model.tasks), dtype=torch.float64, device=self.device)  # right, annotated
        self.val_loss = torch.zeros(2, dtype=torch.float64, device=self.device)  # sum, rows

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        """Count right final answers."""
        out, targets = self(batch[0]), batch[1]
        final = torch.stack([out.probabilities[task].argmax(-1) for task in self.model.tasks], dim=1)
        annotated = targets >= 0
        self.right += torch.stack(((final == targets) & annotated, annotated)).sum(1)
        loss = self.model.losses(out, targets).sum().double() * len(targets)
        self.val_loss += torch.stack((loss, loss.new_tensor(len(targets))))

    def on_validation_epoch_end(self) -> None:
        """Mean validation accuracy of the final outputs: the figure of schedule, stopping and best weights."""
        reduce, steps, tasks = self.trainer.strategy.reduce, self.times[-1][1], list(self.model.tasks)
        right, annotated = reduce(self.right, reduce_op="sum")
        loss, rows = reduce(self.val_loss, reduce_op="sum").tolist()
        losses = reduce(self.sums, reduce_op="mean") / steps
        if not np.isfinite(loss):  # the last step broke the weights: they must not be kept
            raise self._went_wrong("the loss on validation", loss, f"after {steps} steps")
        oa = right / annotated  # NaN for a task without a validation row, which the mean leaves out
        self.log("val_oa", oa.nanmean(), sync_dist=True)
        row = {"network": self.network, "epoch": self.current_epoch, "lr": self.optimizers().param_groups[0]["lr"]}
        row |= {"train_loss": losses.sum().item(), "val_loss": loss / rows, "val_oa": oa.nanmean().item()}
        row |= {f"val_oa:{task}": value for task, value in zip(tasks, oa.tolist(), strict=True)}
        for module, each in zip(self.supervised, losses.tolist(), strict=True):
            row |= {f"loss:{module}:{task}": value for task, value in zip(tasks, each, strict=True)}
        self.history.append(row)

    def on_train_epoch_end(self) -> None:
        """Step the schedule; keep the weights if they are the best so far."""
        row = self.history[-1]
        self.schedule.step(row["val_oa"])
        if row["val_oa"] > self.best["val_oa"]:
            weights = {name: value.detach().cpu().clone() for name, value in self.model.state_dict().items()}
            self.best = {"epoch": row["epoch"], "val_oa": row["val_oa"], "weights": weights}

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        """What the trainer does not know."""
        schedule = self.schedule.state_dict()
        checkpoint["learner"] = {"history": self.history, "best": self.best, "times": self.times, "schedule": schedule}

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        """The same, back; the schedule's part waits for the optimizer."""
        names = ("history", "best", "times", "schedule")
        self.history, self.best, self.times, self.schedule_state = (checkpoint["learner"][name] for name in names)

    def finished(self, max_epochs: int, stop_patience: int) -> bool:
        """Whether the network has reached early stopping or the last epoch."""
        epoch = self.history[-1]["epoch"] if self.history else -1
        return epoch + 1 >= max_epochs or (epoch >= 0 and epoch - self.best["epoch"] >= max(1, stop_patience))

    def account(self, max_epochs: int) -> dict[str, Any]:
        """What is recorded of the training: how long, how many steps until the best weights, why it ended."""
        best, steps = self.best["epoch"], self.times[-1][1]  # steps of an epoch
        return {
            "network": self.network, "history": self.history, "epochs": len(self.history), "best_epoch": best,
            "steps": steps, "steps_to_best": steps * (best + 1), "at_cap": len(self.history) >= max_epochs,
            "seconds": sum(seconds for seconds, _ in self.times),
            "seconds_per_step": float(np.median([seconds / n for seconds, n in self.times])),
        }  # fmt: skip


class EveryEpoch(Checkpoint):
    """One checkpoint at the end of each epoch, replaced in one move: a killed run loses at most an epoch."""

    def __init__(self, path: Path):
        self.path = path

    def on_train_epoch_end(self, trainer: L.Trainer, learner: Learner) -> None:
        """Lightning calls checkpoints after every other callback; the first process alone writes."""
        with whole_or_absent(self.path) if trainer.is_global_zero else nullcontext(self.path) as path:
            trainer.save_checkpoint(path, weights_only=False)


class Lines(L.Callback):
    """After ten steps a line that says how long it will take, then a line an epoch."""

    began: float | None = None

    def on_train_batch_end(self, trainer: L.Trainer, learner: Learner, outputs, batch, batch_idx: int) -> None:
        """Time ten steps once the first two are over."""
        if batch_idx == 1 and self.began is None:
            self.began = time.perf_counter()
        elif batch_idx == 11 and self.began:
            validation = len(trainer.val_dataloaders) * EVALUATION_BATCH / len(batch[0]) / 3  # no backward pass
            minutes = (time.perf_counter() - self.began) / 600 * (trainer.num_training_batches + validation)
            epochs, self.began = trainer.max_epochs - trainer.current_epoch, 0.0
            most = f"at most {epochs} epochs or {minutes * epochs:,.0f} minutes"
            print(f"{learner.network}: about {minutes:.1f} minutes an epoch, {most}", flush=True)

    def on_train_epoch_end(self, trainer: L.Trainer, learner: Learner) -> None:
        """Say how far the network is."""
        row, seconds = learner.history[-1], learner.times[-1][0]
        done = f"epoch {row['epoch'] + 1} of at most {trainer.max_epochs}"
        print(f"{learner.network}: {done}, validation OA {row['val_oa']:.1%}, {seconds:.0f} s", flush=True)


def optimise(learner: Learner, photographs: Photographs, rows: Mapping[str, np.ndarray], checkpoint: Path, *,
             batch_size: int, max_epochs: int, stop_patience: int, precision: str = "auto", devices: int = 1,
             nodes: int = 1, progress: bool = True) -> None:  # fmt: skip
    """Train a network to early stopping, from its checkpoint on if there is one.

    Parameters
    ----------
    learner : What is trained, in place; ``learner.best`` holds its best weights afterwards.
    photographs, rows : Images and targets, and which of their rows are "train" and "val"; rows without an annotation
        are left out.
    checkpoint : The file that is written after every epoch.

    Raises
    ------
    TrainingError, RunError
        Where a loss is not finite or the GPU's memory too small; where the checkpoint is not of this training.
    """
    if checkpoint.exists():
        _read_checkpoint(checkpoint, learner)
    if learner.finished(max_epochs, stop_patience):
        return
    gpu = torch.cuda.is_available()
    if gpu:
        torch.set_float32_matmul_precision("high")
    if precision == "auto":
        precision = "bf16-mixed" if gpu and torch.cuda.is_bf16_supported() else "32-true"
    callbacks = [EarlyStopping("val_oa", mode="max", patience=stop_patience), EveryEpoch(checkpoint)]
    callbacks += [Lines()] * progress
    several = "ddp_find_unused_parameters_true" if learner.frozen_epochs else "ddp"
    trainer = L.Trainer(
        accelerator="gpu" if gpu else "cpu", devices=devices, num_nodes=nodes,
        strategy=several if devices * nodes > 1 else "auto", max_epochs=max_epochs, precision=precision,
        callbacks=callbacks, deterministic=not gpu, num_sanity_val_steps=0, use_distributed_sampler=False, logger=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=checkpoint.parent,
    )  # fmt: skip
    arrange(learner.model, trainer.strategy.root_device)
    annotated = np.flatnonzero((photographs.codes.numpy() >= 0).any(1))

    def loader(split: str, size: int, seed: int | None) -> DataLoader:
        own = np.intersect1d(rows[split], annotated)
        batches = Batches(own, size, seed, trainer.global_rank, trainer.world_size)
        return DataLoader(photographs, sampler=batches, batch_size=None, pin_memory=gpu)

    loaders = loader("train", batch_size, learner.seed), loader("val", EVALUATION_BATCH, None)
    try:
        trainer.fit(learner, *loaders, ckpt_path=checkpoint if checkpoint.exists() else None, weights_only=True)
    except torch.OutOfMemoryError as error:
        raise TrainingError(
            f"{learner.network}: the GPU's memory is too small for batch_size {batch_size} at "
            f"{photographs.images.shape[1]} px; lower batch_size or image_size and delete {checkpoint.parent}, or give "
            "another `out`, and repeat the command."
        ) from error
    if trainer.interrupted:
        raise KeyboardInterrupt


def _read_checkpoint(path: Path, learner: Learner) -> None:
    """Read a checkpoint of this module's own; whatever holds more than tensors and plain values is refused unread."""
    try:
        learner.on_load_checkpoint(torch.load(path, weights_only=True, map_location="cpu"))
    except OSError:
        raise
    except Exception as error:  # damaged and foreign files raise anything
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise RunError(
            f"{path}: not a checkpoint of this training, so nothing of it was used ({reason}); expected tensors and "
            f"plain values as training writes them. Delete {path.parent} and repeat the command."
        ) from error
