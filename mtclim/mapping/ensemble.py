"""Trained models made ready to predict: one or several, calibrated, and with answers that agree if so wished."""

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.stats import entropy

from mtclim import runs
from mtclim.analysis.joint import Joint, fit_joint
from mtclim.analysis.labelsets import labelsets_of
from mtclim.mapping.frequencies import probabilities
from mtclim.metrics import codes, rescale
from mtclim.prepare import SPLITS
from mtclim.results import arrange, normalised
from mtclim.tasks import Tasks
from mtclim.variants import VARIANTS, title

Run = str | Path


@dataclass
class Ensemble:
    """Trained models of the same tasks, with what their runs know."""

    models: list[torch.nn.Module]
    temperatures: list[dict[str, float]]  # task -> temperature; 1 where it is absent
    tasks: Tasks
    device: torch.device
    digest: str = ""
    splits: pd.Series | None = None  # digest of an image's content -> "train", "val" or "test"; None without a run
    joint: Joint | None = None
    block_cell: float = 500.0  # metres: the grid of blocks where photographs have none of their own
    limit: int | None = None  # rows of a forward pass; set once memory was short

    @property
    def sizes(self) -> list[int]:
        """The distinct image sizes in pixels."""
        return sorted({model.image_size for model in self.models})

    def probabilities(self, batch: dict[int, np.ndarray]) -> np.ndarray:
        """The models' mean probabilities (B, S) float32, classes in the order of ``tasks.columns``.

        ``batch`` holds the pictures (B, size, size, 3) uint8 at every size. On a CPU each thread takes a slice of the
        batch through the whole network: threads that share each operation would wait for one another at its end.
        """
        rows, threads = len(batch[self.sizes[0]]), torch.get_num_threads()
        if self.device.type == "cpu" and threads > 1:
            try:
                with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                    return np.concatenate(list(pool.map(self._forward, _slices(batch, rows, -(-rows // threads)))))
            finally:
                torch.set_num_threads(threads)  # threads that start later take over what was set last
        while True:
            limit = self.limit or rows
            try:
                return np.concatenate([self._forward(part) for part in _slices(batch, rows, limit)])
            except torch.cuda.OutOfMemoryError:
                if limit == 1:
                    raise
                self.limit = limit // 2
                torch.cuda.empty_cache()

    @torch.inference_mode()
    def _forward(self, batch: dict[int, np.ndarray]) -> np.ndarray:
        total = 0.0
        for model, temperature in zip(self.models, self.temperatures, strict=True):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
                p = model(normalised(batch[model.image_size], model)).probabilities
            # log p is the logits up to a constant
            scaled = [torch.softmax(p[task].float().log() / temperature.get(task, 1.0), 1) for task in model.tasks]
            columns = model.tasks.columns  # which a run may have in an order of its own
            total = total + torch.cat(scaled, 1)[:, [columns.index(name) for name in self.tasks.columns]]  # (B, S)
        return (total / len(self.models)).cpu().numpy()


def _slices(batch: dict[int, np.ndarray], rows: int, step: int) -> list[dict[int, np.ndarray]]:
    return [{size: pixels[i : i + step] for size, pixels in batch.items()} for i in range(0, rows, step)]


def listed_runs(given: Run | Sequence[Run]) -> list[Path]:
    """One or several run folders as a list; a folder that holds finished runs stands for the best of them."""
    given = [Path(run) for run in ([given] if isinstance(given, (str, Path)) else given)]
    if not given:
        raise ValueError("predict: found no run folder; name at least one.")
    return [run if runs.is_complete(run) or not runs.find(run) else choose_runs(run)[0][0] for run in given]


def choose_runs(root: Run, table: str | None = None) -> tuple[list[Path], str]:
    """The run to predict with, and a sentence that says which it is and why; RunError where there is none.

    It is the one with the best mean kappa on validation images, among the finished runs below ``root`` that were
    trained on the table with this digest, if it is given, and are of the twelve variants (or among all, if none is).
    """
    found = runs.find(root, table)
    if not found:
        raise runs.RunError(f"{root}: found no finished run of this table; train one first, or name run folders.")
    found = [run for run in found if runs.read_settings(run)["variant"] in VARIANTS] or found
    scores = [json.loads((run / "metrics.json").read_text(encoding="utf-8"))["val"]["mean"] for run in found]
    kappas = pd.Series([score["kappa"] for score in scores], found, float).fillna(-1.0)  # where nothing is annotated
    best = kappas.idxmax()
    why = f"the best of {len(found)} finished runs on validation images" if len(found) > 1 else "the only finished run"
    settings = runs.read_settings(best)
    kappa = f" (mean kappa {100 * kappas[best]:.1f} % there)" if kappas[best] > -1 else ""
    return [best], f"The network is {title(settings['variant'])}, seed {settings['seed']}: {why}{kappa}."


def load_ensemble(
    model_or_runs: torch.nn.Module | Run | Sequence[Run], calibrated: bool = False, consistent: bool = False
) -> Ensemble:
    """Make what :func:`mtclim.runs.load` returns, or one or several run folders, ready to predict.

    Parameters
    ----------
    model_or_runs : A loaded model stays on its device, and run folders go to the GPU where there is one.
    calibrated : Whether probabilities are scaled by the temperatures that were fitted on validation.
    consistent : Whether answers are the joint's over labelsets, of calibrated probabilities, which needs run folders.

    Raises
    ------
    ValueError
        Where tasks differ, and where a loaded model has no ``image_size``.
    """
    if isinstance(model_or_runs, torch.nn.Module):
        models, about, tasks = [model_or_runs], {}, model_or_runs.tasks
        if consistent:
            raise ValueError("consistent: a loaded model does not know its training labelsets; give its run folder.")
        if not hasattr(models[0], "image_size"):
            raise ValueError("predict: the model has no image_size; expected one that mtclim.load(run_folder) returns.")
        device = next(models[0].parameters()).device
    else:
        folders = listed_runs(model_or_runs)
        models, tasks = [runs.load(folder) for folder in folders], tasks_of(folders[0])
        for folder, model in zip(folders, models, strict=True):
            if set(model.tasks.columns) != set(tasks.columns):
                found, first = model.tasks.to_dict(), tasks.to_dict()
                raise ValueError(f"{folder}: found the tasks {found}; expected those of {folders[0]}, {first}.")
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        content = b"".join((folder / "model.safetensors").read_bytes() for folder in folders)
        used = pd.concat([pd.read_parquet(folder / "split.parquet", columns=["digest", "split"]) for folder in folders])
        used = used.sort_values("split", key=lambda split: split.map(SPLITS.index))  # "train" if any of the runs did
        about = {"digest": hashlib.sha256(content).hexdigest(), "splits": used.groupby("digest")["split"].first()}
        about["block_cell"] = runs.read_settings(folders[0])["block_cell"]
        about["joint"] = joint_of(validation(folders, True), folders[0], tasks) if consistent else None
    temperatures = [dict(model.temperatures) if calibrated or consistent else {} for model in models]
    return Ensemble([arrange(model, device).eval() for model in models], temperatures, tasks, device, **about)


def tasks_of(run: Run) -> Tasks:
    """The tasks of a run, in the order of its table."""
    settings = runs.read_settings(run)
    return Tasks(settings["tasks"], settings["titles"])


def validation(folders: Run | Sequence[Run], calibrated: bool = False, split: str = "validation") -> pd.DataFrame:
    """What runs of one table answer together on the validation images that all have.

    Parameters
    ----------
    calibrated, split : As in :func:`load_ensemble`, and "validation", or "predictions" for the test images.
    """
    folders = listed_runs(folders)
    frames = [pd.read_parquet(run / f"{split}.parquet").set_index("image") for run in folders]
    common = frames[0].index[np.all([frames[0].index.isin(frame.index) for frame in frames], axis=0)]
    if not len(common) or len({runs.read_settings(run).get("table") for run in folders}) > 1:
        raise ValueError(f"{', '.join(map(str, folders))}: no {split} image in common; use runs of one partition.")
    result = frames[0].loc[common].copy()
    for task, classes in tasks_of(folders[0]).items():
        names, found = [f"{task}:p:{name}" for name in classes], []
        for run, frame in zip(folders, frames, strict=True):
            temperature = json.loads((run / "calibration.json").read_text(encoding="utf-8"))[task]["temperature"]
            found.append(rescale(frame.loc[common, names], temperature if calibrated else 1.0))
        result[names] = np.mean(found, axis=0)
        result[f"{task}:pred"] = np.asarray(classes, object)[result[names].to_numpy().argmax(1)]
    return result.reset_index()


def joint_of(answers: pd.DataFrame, run: Run, tasks: Tasks) -> Joint:
    """Fit the joint over a run's training labelsets to answers on its validation images.

    Parameters
    ----------
    answers : From :func:`validation`.
    """
    p = {task: probabilities(answers, task, classes) for task, classes in tasks.items()}
    true = np.stack([codes(answers[f"{task}:true"], classes) for task, classes in tasks.items()], axis=1)
    return fit_joint(p, true, *labelsets_of(run, tasks), tasks)


def make_consistent(predictions: pd.DataFrame, tasks: Tasks, joint: Joint) -> pd.DataFrame:
    """A copy of predictions with the joint's answers in place of the networks'.

    ``<task>:pred`` are then the most probable labelset, in which the tasks agree, and ``<task>:p:<class>`` the
    consistent marginals, which are for each task alone. ``<task>:entropy`` is theirs, where the frame has it.

    Parameters
    ----------
    joint : From :func:`joint_of`.
    """
    found = joint.decode({task: probabilities(predictions, task, classes) for task, classes in tasks.items()})
    columns = {}
    for n, (task, classes) in enumerate(tasks.items()):
        columns[f"{task}:pred"] = np.asarray(classes, object)[found.labels[:, n]]
        p = found.marginals[task].astype(np.float32)
        columns |= {f"{task}:p:{name}": p[:, k] for k, name in enumerate(classes)}
        if f"{task}:entropy" in predictions:
            columns[f"{task}:entropy"] = entropy(p, base=len(classes), axis=1)
    return predictions.assign(**columns)
