"""The model against torch.nn.GRU with copied weights, the paper's parameter counts, and its own definition of variants."""

import math

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

import mtclim
from mtclim.model import CONTROLS, VARIANT_TABLE, StackedGRU, create_model
from mtclim.tasks import SANTIAGO, Tasks

SMALL = Tasks({"height": ["H1", "H2"], "roof": ["FLT", "PIT_GAB", "PIT_MON"], "use": ["a", "b", "c", "d"]})
ALL = [*mtclim.VARIANTS, *CONTROLS]


@pytest.mark.parametrize(
    ("backbone", "variant", "count"),
    [
        ("densenet121", "stc", 34_805_155),
        ("densenet121", "bl", 6_989_731),
        ("densenet121", "lim_ms_all", 7_136_151),
        ("tf_efficientnetv2_b3", "stc", 64_160_825),
        ("tf_efficientnetv2_b3", "bl", 12_875_201),
        ("tf_efficientnetv2_b3", "lim_ms_all", 13_039_541),
    ],
)
def test_parameters_are_those_of_table_1(backbone, variant, count):
    model = create_model(variant, SANTIAGO, backbone)
    assert model.parameters_count() == count
    assert sum(p.numel() for p in model.parameters()) == count


def plain_gru(module: StackedGRU, z: torch.Tensor) -> tuple[torch.Tensor, list]:
    """One stack of torch.nn.GRU a task with the module's weights: states (B, N, H), and (nn parameter, ours, index)."""
    states, pairs = [], []
    for n in range(module.tasks):
        first = nn.GRU(module.w_ih_0.shape[-1], module.w_hh_0.shape[-1], bidirectional=True, dtype=z.dtype)
        second = nn.GRU(module.w_ih_1.shape[-1], module.w_hh_1.shape[-1], dtype=z.dtype)
        for layer, gru, suffixes in ((0, first, ("", "_reverse")), (1, second, ("",))):
            for direction, suffix in enumerate(suffixes):
                for ours, theirs in (
                    ("w_ih", "weight_ih"),
                    ("w_hh", "weight_hh"),
                    ("b_ih", "bias_ih"),
                    ("b_hh", "bias_hh"),
                ):
                    parameter = getattr(gru, f"{theirs}_l0{suffix}")
                    source = getattr(module, f"{ours}_{layer}")
                    with torch.no_grad():
                        parameter.copy_(source[n, direction].reshape(parameter.shape))
                    pairs.append((parameter, source, (n, direction)))
        states.append(second(first(z)[0])[0][-1])
    return torch.stack(states, dim=1), pairs


@pytest.mark.parametrize(("steps", "width", "units"), [(35, 1, 32), (5, 14, 12), (1, 3, 2), (40, 1, 7)])
@pytest.mark.parametrize("batch", [1, 5])
def test_batched_recurrence_is_torch_gru(steps, width, units, batch):
    torch.manual_seed(steps)
    module = StackedGRU(5, width, units).double()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    z = torch.rand(steps, batch, width, dtype=torch.float64, requires_grad=True)
    if width > 1:
        z.data[:, :, width // 2 :] = 0  # zero padding
    ours = module(z)
    theirs, pairs = plain_gru(module, z)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)
    weight = torch.randn_like(ours)
    grad_ours = torch.autograd.grad((ours * weight).sum(), [z, *module.parameters()])
    grad_z, *rest = torch.autograd.grad((theirs * weight).sum(), [z, *(pair[0] for pair in pairs)])
    torch.testing.assert_close(grad_ours[0], grad_z, rtol=0, atol=1e-10)
    by_parameter = dict(zip(map(id, module.parameters()), grad_ours[1:], strict=True))
    for (parameter, source, index), grad in zip(pairs, rest, strict=True):
        torch.testing.assert_close(by_parameter[id(source)][index].reshape(parameter.shape), grad, rtol=0, atol=1e-10)


@pytest.mark.parametrize("variant", [name for name in ALL if name != "stc"])
def test_modules_are_wired_as_table_2_says(variant):
    """Every module and the feature vector rebuilt in float64 from plain torch.nn parts."""
    torch.manual_seed(1)
    model = create_model(variant, SMALL, "test_resnet", clim_units=6, tlim_units=4).double().eval()
    x = model.features(torch.randn(4, 3, 64, 64, dtype=torch.float64))
    spec, out = VARIANT_TABLE[variant], model.classify(x)
    p_bl = [F.softmax(part, -1) for part in F.linear(x, model.bl.kernel, model.bl.bias).split(SMALL.sizes, 1)]
    vectors = {"x_bl": x, "p_bl": torch.cat(p_bl, 1)}
    sequences = {
        "clim": torch.cat(p_bl, 1).T.unsqueeze(-1),
        "tlim": torch.stack([F.pad(p, (0, SMALL.largest - p.shape[1])) for p in p_bl]),
    }
    for name in {"clim", "tlim"} & set(spec.modules):
        module = model.get_submodule(name)
        states, _ = plain_gru(module["rnn"], sequences[name])
        kernels, biases = module["head"].kernel.split(SMALL.sizes), module["head"].bias.split(SMALL.sizes)
        p = [F.softmax(states[:, n] @ k.T + b, -1) for n, (k, b) in enumerate(zip(kernels, biases, strict=True))]
        for task, expected in zip(SMALL, p, strict=True):
            torch.testing.assert_close(out.interim[name][task], expected, rtol=0, atol=1e-10)
        vectors |= {f"x_{name}": states.flatten(1), f"p_{name}": torch.cat(p, 1)}
    final = p_bl
    if "fc" in spec.modules:
        fused = torch.cat([vectors[name] for name in spec.features], 1)
        final = [F.softmax(part, -1) for part in F.linear(fused, model.fc.kernel, model.fc.bias).split(SMALL.sizes, 1)]
    for task, expected in zip(SMALL, final, strict=True):
        torch.testing.assert_close(out.probabilities[task], expected, rtol=0, atol=1e-10)
    assert tuple(out.logits) == spec.modules
    assert list(out.interim) == [name for name in spec.modules if name != "fc" and len(spec.modules) > 1]


@pytest.mark.parametrize("variant", ALL)
def test_gradient_reaches_every_parameter(variant):
    torch.manual_seed(0)
    model = create_model(variant, SMALL, "test_resnet")
    for parameter in model.parameters():
        if (parameter == 0).all():  # timm starts residual branches at zero, which cuts off what lies before
            nn.init.constant_(parameter, 0.5)
    out = model(torch.randn(6, 3, 64, 64))
    model.loss(out, torch.tensor([[0, 1, 3], [1, 2, 0], [0, 0, 1], [1, 1, -1], [0, 2, 2], [-1, -1, -1]])).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name
    for p in out.probabilities.values():
        torch.testing.assert_close(p.sum(1), torch.ones(6))


def test_detach_stops_gradients_of_the_later_losses_at_the_interim_probabilities():
    torch.manual_seed(0)
    x = torch.randn(4, 128)
    for detach in (False, True):
        model = create_model("lim_ms_all", SMALL, "test_resnet", detach=detach)
        x = torch.randn(4, model.bl.kernel.shape[1])
        model.classify(x).logits["tlim"][:, 0, 0].sum().backward()
        assert (model.bl.kernel.grad is None) == detach


@pytest.mark.parametrize("variant", ["stc", "bl", "lim_ms_all"])
def test_loss_is_cross_entropy_over_annotated_rows(variant):
    torch.manual_seed(0)
    model = create_model(variant, SMALL, "test_resnet").double().eval()
    out = model(torch.randn(5, 3, 64, 64, dtype=torch.float64))
    targets = torch.tensor([[0, -1, 3], [1, -1, -1], [-1, -1, 1], [1, -1, 2], [0, -1, 0]])  # no row has a roof
    expected = 0.0
    for logits in out.logits.values():
        for n, size in enumerate(SMALL.sizes):
            if (targets[:, n] >= 0).any():
                expected += F.cross_entropy(logits[:, n, :size], targets[:, n], ignore_index=-1)
    torch.testing.assert_close(model.loss(out, targets), expected)
    assert model.losses(out, targets).shape == (len(out.logits), 3)
    assert (model.losses(out, targets)[:, 1] == 0).all()


def test_final_replaces_interim_probabilities_of_the_tasks_given():
    torch.manual_seed(0)
    model = create_model("tlim_ms_bl", SMALL, "test_resnet").eval()
    x = model.features(torch.randn(3, 3, 64, 64))
    own = model.classify(x)
    same = model.final(x, own.interim["bl"])
    other = model.final(x, {"height": torch.tensor([[1.0, 0.0]]).expand(3, -1)})
    for task in SMALL:
        torch.testing.assert_close(same[task], own.probabilities[task])
    assert not torch.allclose(other["roof"], own.probabilities["roof"])


def test_initialisation_is_the_papers():
    torch.manual_seed(0)
    model = create_model("lim_ms_all", SANTIAGO, "densenet121")
    for kernel in model.softmax_kernels():
        assert kernel.std().item() == pytest.approx(math.sqrt(2 / kernel.shape[1]), rel=0.1)
    assert len(model.softmax_kernels()) == 4
    rnn = model.clim["rnn"]
    for name, fans in (("w_ih_0", 1 + 96), ("w_hh_0", 32 + 96), ("w_ih_1", 64 + 96), ("w_hh_1", 32 + 96)):
        weight = getattr(rnn, name)
        assert weight.abs().max().item() == pytest.approx(math.sqrt(6 / fans), rel=0.03)
    assert all((getattr(rnn, f"b_{kind}_{layer}") == 0).all() for kind in ("ih", "hh") for layer in (0, 1))


@pytest.mark.parametrize("backbone", ["mobilenetv3_small_050", "test_vit", "test_efficientnet", "resnet10t"])
def test_any_pooled_backbone(backbone):
    model = create_model("lim_ms_bl", SMALL, backbone).eval()
    size = model.backbone.pretrained_cfg["input_size"][-1]
    assert model(torch.zeros(2, 3, size, size)).probabilities["use"].shape == (2, 4)
    assert len(model.mean) == len(model.std) == 3


def test_batch_size_one_and_a_single_task():
    model = create_model("lim_ms_all", Tasks({"roof": ["FLT", "PIT"]}), "test_resnet").eval()
    assert model(torch.zeros(1, 3, 64, 64)).probabilities["roof"].shape == (1, 2)


def test_local_weights_are_loaded_and_others_refused(tmp_path):
    body = create_model("bl", SMALL, "test_resnet").backbone
    save_file(body.state_dict(), tmp_path / "own.safetensors")
    loaded = create_model("bl", SMALL, "test_resnet", weights=tmp_path / "own.safetensors").backbone
    for name, value in body.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], value)
    save_file({"stem.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises((ValueError, RuntimeError), match="lacks|size mismatch"):
        create_model("bl", SMALL, "test_resnet", weights=tmp_path / "other.safetensors")


def test_errors_list_the_valid_names(monkeypatch):
    with pytest.raises(ValueError, match="lim_ms_all, bl_fc"):
        create_model("lin", SMALL)
    with pytest.raises(ValueError, match="densenet"):
        create_model("bl", SMALL, "densenet1210")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(RuntimeError, match="local safetensors file"):
        create_model("bl", SMALL, "densenet121.tv_in1k", pretrained=True)
