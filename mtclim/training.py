"""Training of one run: data, networks, run folder (sections 2.2, 2.3.6 and 3)."""

import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from scipy.stats import entropy
from torch import Tensor

from mtclim import runs
from mtclim.config import Config, resolve, run_folder, to_dict
from mtclim.learner import Learner, Photographs, TrainingError, optimise
from mtclim.metrics import codes as codes_of
from mtclim.metrics import confusion
from mtclim.model import SingleTaskModel, backbone_config, create_model
from mtclim.prepare import prepare, settled
from mtclim.results import write_results
from mtclim.tasks import Tasks


def fit(config: Config, devices: int = 1, nodes: int = 1, progress: bool = True) -> Path:
    """Train the run that ``config`` describes, or resume it, or take it as it is if it is finished; its folder.

    Stopped at any time, the same call goes on from the last finished epoch. Nothing half-written has the folder's name.

    Parameters
    ----------
    devices, nodes : Devices of each node, and nodes; ``batch_size`` is that of all devices together.
    progress : Whether to print a line an epoch.

    Raises
    ------
    ValueError, TrainingError, RunError
        For a table or a setting that cannot work (before training), for training that goes wrong, and for a run folder
        that belongs to something else, is in use, or whose disk is full.
    """
    for name, count in (("devices", devices), ("nodes", nodes)):
        if count < 1:
            raise ValueError(f"{name}: found {count!r}; expected a number from 1 on.")
    config = settled(config)
    with _host(config.threads):
        return _conduct(config, {"devices": devices, "nodes": nodes, "progress": progress and not rank()})


@contextmanager
def _host(threads: int) -> Iterator[None]:
    """So many threads, and Lightning quiet about devices and tips; afterwards the process is as it was."""
    log, before = logging.getLogger("lightning.pytorch"), torch.get_num_threads()
    level = log.level
    torch.set_num_threads(threads)
    log.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*LeafSpec.* is deprecated", module="lightning")  # theirs to mend
            yield
    finally:
        log.setLevel(level)
        torch.set_num_threads(before)


def _conduct(config: Config, host: dict) -> Path:
    """Prepare, train every network of the variant, write the results."""
    folder, data, look = run_folder(config), prepare(config), backbone_config(config.timm_name)
    tasks, rows = reordered(data.tasks, config.order_seed), {split: data.rows(split) for split in ("train", "val")}
    labels = data.table.labels.iloc[data.split.index]
    codes = np.stack([codes_of(labels[task], names) for task, names in tasks.items()], axis=1)
    settings = to_dict(config) | {
        "timm_name": config.timm_name, "synthetic": config.synthetic, "tasks": data.tasks.to_dict(),
        "titles": data.tasks.titles, "mean": list(map(float, look["mean"])), "std": list(map(float, look["std"])),
        "table": data.table.digest, "pictures": runs.digest(data.store.digests),
    }  # fmt: skip
    if config.order_seed:
        settings["model_tasks"] = tasks.to_dict()

    def chosen(names: str) -> dict:
        return {name: getattr(config, name) for name in names.split()}

    built = chosen("pretrained clim_units tlim_units")
    built["weights"] = resolve(config.weights) if config.weights else None
    if config.variant.startswith("chain"):
        drawn = np.random.default_rng(config.seed).permutation(list(tasks)).tolist()
        built["order"] = drawn if config.variant == "chain-random" else chain_order(tasks, codes[rows["train"]])
        settings["order"] = built["order"]
    if config.variant == "powerset":
        complete = codes[rows["train"]]
        built["labelsets"] = np.unique(complete[(complete >= 0).all(1)], axis=0)
    if runs.is_complete(folder):
        runs.check_settings(folder / "config.yaml", settings)
        return folder
    optimisation = chosen("learning_rate new_layers_factor l2 lr_factor lr_patience frozen_epochs")
    trainer = chosen("batch_size max_epochs stop_patience precision") | host

    def train(partial: Path) -> list[Learner]:
        """Every network, from its last finished epoch on if there is one, with its best weights."""
        learners = []
        for network, variant, own, columns, seed, checkpoint in _networks(config.variant, tasks, config.seed):
            torch.manual_seed(seed)
            try:
                model = create_model(variant, own, config.timm_name, **built)
            except RuntimeError as error:  # pretrained weights that cannot be had; the message says what to do
                raise TrainingError(str(error)) from error
            weights = class_weights(config.class_weights, own, codes[rows["train"]][:, columns])
            learner = Learner(model, network, seed, class_weights=weights, **optimisation)
            optimise(learner, Photographs(data.store.images, codes[:, columns]), rows, partial / checkpoint, **trainer)
            model.load_state_dict(learner.best["weights"])
            learners.append(learner)
        return learners

    if rank():
        train(folder.with_name(f"{folder.name}.partial"))
        return folder
    with runs.working(folder, settings) as partial:
        learners = train(partial)
        model = learners[0].model
        if config.variant == "stc":
            model = SingleTaskModel(tasks, [learner.model for learner in learners])
            model.mean, model.std = learners[0].model.mean, learners[0].model.std
        about = {"seed": config.seed, "split_seed": config.split_seed, "synthetic": config.synthetic}
        write_results(partial, data, model, [learner.account(config.max_epochs) for learner in learners], about)
    return folder


def _networks(variant: str, tasks: Tasks, seed: int) -> list[tuple]:
    """Each network's name, variant, tasks, columns of targets, seed and checkpoint: one, or for STC one a task."""
    if variant != "stc":
        return [("all", variant, tasks, slice(None), seed, "network.ckpt")]
    seeds = [int(np.random.SeedSequence((seed, n)).generate_state(1)[0]) for n in range(len(tasks))]
    return [
        (task, "bl", Tasks({task: names}), [n], seeds[n], f"{n}.ckpt") for n, (task, names) in enumerate(tasks.items())
    ]


def reordered(tasks: Tasks, seed: int) -> Tasks:
    """The tasks and the classes of each in a random order; 0 leaves them as they are."""
    if not seed:
        return tasks
    rng = np.random.default_rng(seed)
    names = rng.permutation(list(tasks)).tolist()
    return Tasks({task: rng.permutation(tasks[task]).tolist() for task in names})


def chain_order(tasks: Tasks, codes: np.ndarray) -> list[str]:
    """The tasks by descending mean mutual information of their labels (n, N) with the other tasks', -1 = missing.

    A chain thus begins with the task that says most about those after it.
    """

    def information(a: int, b: int) -> float:
        joint = confusion(codes[:, a], codes[:, b], tasks.largest)
        return entropy(joint.ravel(), np.outer(joint.sum(1), joint.sum(0)).ravel()) if joint.any() else 0.0

    places = range(len(tasks))
    mean = {task: np.mean([information(a, b) for b in places if b != a] or [0]) for a, task in enumerate(tasks)}
    return sorted(tasks, key=lambda task: -mean[task])


def class_weights(setting: str | Mapping, tasks: Tasks, codes: np.ndarray) -> Tensor | None:
    """Weights of classes (N, Kmax) from the configuration's setting and the training rows' codes (n, N), or None.

    Parameters
    ----------
    setting : "balanced" weighs the K classes of a task that occur by n / (K * n_k), so that each has the same part in
        its loss; a mapping task -> {class: weight} is taken as it is. All other classes have 1.
    """
    if not setting:
        return None
    weights = torch.ones(len(tasks), tasks.largest)
    for n, (task, names) in enumerate(tasks.items()):
        if setting == "balanced":
            counts = np.bincount(codes[codes[:, n] >= 0, n], minlength=len(names))
            each = np.where(counts > 0, counts.sum() / np.maximum(1, (counts > 0).sum() * counts), 1.0)
        else:
            given = {str(name): float(weight) for name, weight in setting.get(task, {}).items()}
            each = np.array([given.get(name, 1.0) for name in names])
        weights[n, : len(names)] = torch.from_numpy(each)
    return weights


def rank() -> int:
    """This process' rank among all that train the run together (0 where it trains alone)."""
    names = ("RANK", "SLURM_PROCID", "LOCAL_RANK")
    return next((int(os.environ[name]) for name in names if os.environ.get(name, "").isdigit()), 0)
