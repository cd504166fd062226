"""Looking inside a trained network: where in a photograph each of its answers comes from (Grad-CAM)."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from mtclim import runs
from mtclim.analysis.study import Study
from mtclim.config import Config
from mtclim.data.images import ImageError, decode
from mtclim.model import MultitaskModel, SingleTaskModel
from mtclim.prepare import load_table
from mtclim.results import normalised

SHOWN = 6  # tasks that are looked into, the first ones
CELLS = 4  # a side that a feature map needs to say where; on small images the last one may have a single cell


def image_files(study: Study, settings: Config) -> dict[str, Path]:
    """Image name -> path of the table that the runs were trained on; empty where that table is not at hand."""
    try:
        table = load_table(settings, require_images=False)
    except (OSError, ValueError):
        return {}
    same = table.digest == study.runs["table"].iloc[0]
    return dict(zip(table.frame["image"].astype("str"), table.paths, strict=True)) if same else {}


def network(root: str | Path, run: str) -> nn.Module | None:
    """The trained model of a run below ``root``, None where its folder or its weights are not at hand."""
    folders = [path for path in runs.find(root) if "/".join(path.parts[-3:]) == run]
    return runs.load(folders[0]) if folders and (folders[0] / "model.safetensors").exists() else None


def read_images(paths: Sequence[str | Path], size: int) -> tuple[np.ndarray, list[int]]:
    """The readable ones of some image files as (n, size, size, 3) uint8, and their positions in ``paths``."""
    images = {}
    for row, path in enumerate(paths):
        with suppress(ImageError):
            images[row] = decode(path, size)
    return np.array(list(images.values()), np.uint8).reshape(-1, size, size, 3), list(images)


class _Logits(nn.Module):
    """One task's final logits (B, K_n)."""

    def __init__(self, network: nn.Module, task: int):
        super().__init__()
        self.network, self.task = network, task

    def forward(self, images: Tensor) -> Tensor:
        logits = next(reversed(self.network(images).logits.values()))
        return logits[:, self.task, : self.network.tasks.sizes[self.task]]


def feature_map(backbone: nn.Module, size: int) -> nn.Module:
    """The module whose output Grad-CAM explains: the last feature map, as timm lists them, of ``CELLS`` cells or more.

    Raises ValueError for backbones without convolutional feature maps.
    """
    listed = getattr(backbone, "feature_info", None) or []
    listed = listed if isinstance(listed, list) else listed.get_dicts()
    if len({entry["reduction"] for entry in listed}) < 2:  # none, or a transformer's blocks, all of one resolution
        found = f"{type(backbone).__name__} lists no convolutional feature maps of falling resolution"
        raise ValueError(f"Grad-CAM: {found}; expected a convolutional timm backbone, such as densenet121.")
    fine = [entry for entry in listed if size // entry["reduction"] >= CELLS]
    return backbone.get_submodule((fine or listed)[-1]["module"])


def attention(model: MultitaskModel | SingleTaskModel, images: np.ndarray) -> dict[str, np.ndarray]:
    """Grad-CAM (Selvaraju et al., 2017) of a task's most probable class: task -> heat (B, H, W) in [0, 1].

    ``images`` (B, H, W, 3) uint8; at most ``SHOWN`` tasks. STC is explained network by network.
    """
    from pytorch_grad_cam import GradCAM

    x, heat = normalised(images, model), {}
    for n, task in enumerate(list(model.tasks)[:SHOWN]):
        network, at = (model.networks[n], 0) if isinstance(model, SingleTaskModel) else (model, n)
        layer = feature_map(network.backbone, x.shape[-1])
        with GradCAM(model=_Logits(network, at), target_layers=[layer]) as cam:
            heat[task] = cam(input_tensor=x, targets=None)
        network.zero_grad(set_to_none=True)
    return heat


def attended(study: Study, run: str, model: nn.Module, files: Mapping[str, Path]) -> list[tuple]:
    """Grad-CAM of a run on four test images: rows (image, task -> heat, task -> answer) for ``further.attention``.

    Parameters
    ----------
    run, model, files : The run's name, its trained network, and its ``image_files``. Unreadable images are left out.
    """
    at, spread = list(study.runs["run"]).index(run), np.linspace(0, len(study.test) - 1, 4).astype(int)
    images, read = read_images([files.get(name, "") for name in study.test["image"].iloc[spread]], model.image_size)
    heat, rows = attention(model, images) if len(images) else {}, []
    for k, i in enumerate(spread[read]):
        answers = {task: classes[study.predicted[at, i, n]] for n, (task, classes) in enumerate(study.tasks.items())}
        rows.append((images[k], {task: maps[k] for task, maps in heat.items()}, answers))
    return rows
