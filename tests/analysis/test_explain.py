"""Looking inside: Grad-CAM against a computation by hand."""

import numpy as np
import pytest
import torch
from PIL import Image

from mtclim import Tasks, create_model
from mtclim.analysis import explain
from mtclim.results import normalised

TASKS = Tasks({"height": ["H1", "H2", "H3-4"], "roof": ["FLT", "PIT"]})


def model(variant: str, backbone: str = "test_byobnet"):
    torch.manual_seed(0)
    return create_model(variant, TASKS, backbone).eval()


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)


@pytest.mark.parametrize("variant", ["bl", "lim_ms_all", "stc"])
def test_grad_cam_is_the_weighted_feature_map(variant, images):
    """Selvaraju et al.: channel weights are mean gradients of the answer's score; the sum is cut at 0 and scaled."""
    net = model(variant)
    heat = explain.attention(net, images)
    for n, task in enumerate(TASKS):
        part, at = (net.networks[n], 0) if variant == "stc" else (net, n)
        kept = {}
        layer = explain.feature_map(part.backbone, 64)
        hook = layer.register_forward_hook(lambda module, given, out, kept=kept: kept.update(map=out))
        logits = list(part(normalised(images, net)).logits.values())[-1][:, at]
        hook.remove()
        (grad,) = torch.autograd.grad(logits.max(1).values.sum(), kept["map"])
        cam = (grad.mean((2, 3), keepdim=True) * kept["map"]).sum(1).clamp(min=0).detach().numpy()
        assert heat[task].shape == (3, 64, 64) and 0 <= heat[task].min() and heat[task].max() <= 1
        for ours, theirs in zip(heat[task], cam, strict=True):
            theirs = theirs / (1e-7 + theirs.max())
            coarse = np.asarray(Image.fromarray(ours).resize(theirs.shape[::-1], Image.Resampling.BOX))
            if theirs.max() > 0.1:
                assert np.corrcoef(coarse.ravel(), theirs.ravel())[0, 1] > 0.95
    assert all(p.grad is None for p in net.parameters()), "explaining leaves no gradients behind"


@pytest.mark.parametrize("backbone, size, module", [
    ("test_byobnet", 64, "stages.2"), ("test_byobnet", 160, "final_conv"), ("densenet121", 224, "features.norm5"),
    ("resnet18", 224, "layer4"), ("resnet18", 16, "layer1"), ("resnet18", 2, "layer4"),
])  # fmt: skip
def test_the_last_feature_map_that_is_fine_enough(backbone, size, module):
    import timm

    body = timm.create_model(backbone, num_classes=0)
    assert explain.feature_map(body, size) is body.get_submodule(module)


def test_transformers_are_refused_in_words(images):
    with pytest.raises(ValueError, match="VisionTransformer.*expected a convolutional timm backbone"):
        explain.attention(model("bl", "test_vit"), np.zeros((1, 160, 160, 3), np.uint8))


def test_unreadable_images_are_passed_over(tmp_path):
    Image.new("RGB", (10, 10), "red").save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    images, rows = explain.read_images([tmp_path / "bad.png", tmp_path / "good.png", tmp_path / "absent.png"], 8)
    assert images.shape == (1, 8, 8, 3) and rows == [1] and (images[0, 0, 0] == (255, 0, 0)).all()
    assert explain.read_images([], 8)[0].shape == (0, 8, 8, 3)
