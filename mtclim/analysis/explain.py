"""Looking inside a trained network: where it looks (Grad-CAM), and what it makes of interim probabilities (influence)."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from mtclim import runs
from mtclim.analysis.evidence import reads_labels
from mtclim.analysis.study import Study
from mtclim.config import Config
from mtclim.data.images import ImageError, decode
from mtclim.model import MultitaskModel, SingleTaskModel
from mtclim.prepare import load_table
from mtclim.results import normalised


def image_files(study: Study, settings: Config) -> dict[str, Path]:
    """Image name -> path of the table that the runs were trained on; empty where it is not at hand or is another one."""
    try:
        table = load_table(settings, require_images=False)
    except (OSError, ValueError):
        return {}
    if table.digest != study.runs["table"].iloc[0]:
        return {}
    return dict(zip(table.frame["image"].astype("str"), table.paths, strict=True))


def network(root: str | Path, run: str) -> nn.Module | None:
    """The trained model of a run below ``root``, None where its folder or its weights are not at hand."""
    folders = [path for path in runs.find(root) if "/".join(path.parts[-3:]) == run]
    return runs.load(folders[0]) if folders and (folders[0] / "model.safetensors").exists() else None


def read_images(paths: Sequence[str | Path], size: int) -> tuple[np.ndarray, list[int]]:
    """The readable ones of some image files as (n, size, size, 3) uint8, and their positions in ``paths``."""
    images, rows = [np.zeros((0, size, size, 3), np.uint8)], []
    for row, path in enumerate(paths):
        try:
            images.append(decode(path, size)[None])
            rows.append(row)
        except ImageError:
            continue
    return np.concatenate(images), rows


class _Logits(nn.Module):
    """One task's final logits (B, K_n)."""

    def __init__(self, network: nn.Module, task: int):
        super().__init__()
        self.network, self.task = network, task

    def forward(self, images: Tensor) -> Tensor:
        logits = next(reversed(self.network(images).logits.values()))
        return logits[:, self.task, : self.network.tasks.sizes[self.task]]


def feature_map(backbone: nn.Module, size: int, least: int = 4) -> nn.Module:
    """The module whose output Grad-CAM explains: the backbone's last feature map, as timm lists them.

    On small images the last one may have a single cell; then the last with ``least`` cells a side is taken, since a
    coarser map can't say where. ValueError for backbones without convolutional feature maps.
    """
    listed = getattr(backbone, "feature_info", None) or []
    listed = listed if isinstance(listed, list) else listed.get_dicts()
    if len({entry["reduction"] for entry in listed}) < 2:  # none, or a transformer's blocks, all of one resolution
        raise ValueError(
            f"Grad-CAM: {type(backbone).__name__} lists no convolutional feature maps of falling resolution; expected a "
            "convolutional timm backbone, such as densenet121."
        )
    fine = [entry for entry in listed if size // entry["reduction"] >= least]
    return backbone.get_submodule((fine or listed)[-1]["module"])


def attention(model: MultitaskModel | SingleTaskModel, images: np.ndarray, least: int = 4) -> dict[str, np.ndarray]:
    """Grad-CAM (Selvaraju et al., 2017) of each task's final answer: task -> heat (B, H, W) in [0, 1] per image.

    ``images`` (B, H, W, 3) uint8. The answer is the most probable class; STC is explained network by network. ValueError
    for backbones that are not convolutional (``feature_map``).
    """
    from pytorch_grad_cam import GradCAM

    x, heat = normalised(images, model), {}
    for n, task in enumerate(model.tasks):
        network, at = (model.networks[n], 0) if isinstance(model, SingleTaskModel) else (model, n)
        layer = feature_map(network.backbone, x.shape[-1], least)
        with GradCAM(model=_Logits(network, at), target_layers=[layer]) as cam:
            heat[task] = cam(input_tensor=x, targets=None)
        network.zero_grad(set_to_none=True)
    return heat


def attended(study: Study, run: str, model: nn.Module, files: Mapping[str, Path], count: int = 4) -> list[tuple]:
    """Grad-CAM of a run on some of its test images: rows (image, task -> heat, task -> answer) for ``further.attention``."""
    at, spread = list(study.runs["run"]).index(run), np.linspace(0, len(study.test) - 1, count).astype(int)
    images, read = read_images([files.get(name, "") for name in study.test["image"].iloc[spread]], model.image_size)
    heat, rows = attention(model, images) if len(images) else {}, []
    for k, i in enumerate(spread[read]):
        answers = {task: classes[study.predicted[at, i, n]] for n, (task, classes) in enumerate(study.tasks.items())}
        rows.append((images[k], {task: maps[k] for task, maps in heat.items()}, answers))
    return rows


@torch.inference_mode()
def influence(model: MultitaskModel, images: np.ndarray, batch: int = 128) -> pd.DataFrame:
    """How final probabilities move when BL's interim probabilities of one task are set to one class (S, S).

    Rows: the "task:class" that is set, with certainty, on every image; columns: the mean change of the final probability
    of each "task:class". The columns of a row sum to 0 per task. ``images`` (B, H, W, 3) uint8. ValueError for variants
    whose final classifiers read no interim probabilities: stc, bl, bl_fc.
    """
    if not reads_labels(model.variant):
        raise ValueError(
            f"influence: {model.variant}'s final classifiers read no interim probabilities; nothing can be set."
        )
    names = [f"{task}:{name}" for task, classes in model.tasks.items() for name in classes]
    total, device = np.zeros((len(names), len(names))), next(model.parameters()).device
    for start in range(0, len(images), batch):
        x = model.features(normalised(images[start : start + batch], model))
        free = torch.cat(list(model.classify(x).probabilities.values()), 1)
        ones = {task: torch.eye(size, device=device) for task, size in zip(model.tasks, model.tasks.sizes, strict=True)}
        rows = [
            torch.cat(list(model.classify(x, {task: one.expand(len(x), -1)}).probabilities.values()), 1) - free
            for task, eye in ones.items()
            for one in eye
        ]
        total += torch.stack(rows).double().sum(1).cpu().numpy()
    return pd.DataFrame(total / max(len(images), 1), index=names, columns=names)
