"""The model against the paper's equations, torch.nn.GRU with copied weights, Table 1's counts and Table 2's wiring."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import mtclim
from mtclim.model import StackedGRU, create_model, gru_step
from mtclim.tasks import SANTIAGO, Tasks
from mtclim.variants import CONTROLS, VARIANT_TABLE

SMALL = Tasks({"height": ["H1", "H2"], "roof": ["FLT", "PIT_GAB", "PIT_MON"], "use": ["a", "b", "c", "d"]})


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
    """One stack of torch.nn.GRU a task with the module's weights, for z (T, B, I) or one sequence a task.

    Gives the states (B, N, H), and (parameter of torch's, ours, index) triples. torch's update gate is 1 - u, so the
    signs of these rows differ; its rows are in the order reset, update, candidate.
    """
    states, pairs = [], []
    for n in range(module.tasks):
        first = nn.GRU(module.w_z_0.shape[-1], module.units, bidirectional=True, dtype=module.w_z_0.dtype)
        second = nn.GRU(2 * module.units, module.units, dtype=module.w_z_0.dtype)
        for layer, gru, suffixes in ((0, first, ("", "_reverse")), (1, second, ("",))):
            for direction, suffix in enumerate(suffixes):
                names = {"w_z": "weight_ih", "w_h": "weight_hh", "b_z": "bias_ih", "b_h": "bias_hh"}
                for ours, theirs in names.items():
                    parameter = getattr(gru, f"{theirs}_l0{suffix}")
                    source = getattr(module, f"{ours}_{layer}")
                    with torch.no_grad():
                        parameter.copy_(as_torch(source[n, direction]).reshape(parameter.shape))
                    pairs.append((parameter, source, (n, direction)))
        sequence = z[n] if isinstance(z, list) else z
        states.append(second(first(sequence)[0])[0][-1])
    return torch.stack(states, dim=1), pairs


def as_torch(rows: torch.Tensor) -> torch.Tensor:
    u, r, candidate = rows.chunk(3)
    return torch.cat((r, -u, candidate))


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
    ours = module(z.unsqueeze(1))
    theirs, pairs = plain_gru(module, z)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)
    weight = torch.randn_like(ours)
    grad_ours = torch.autograd.grad((ours * weight).sum(), [z, *module.parameters()])
    grad_z, *rest = torch.autograd.grad((theirs * weight).sum(), [z, *(pair[0] for pair in pairs)])
    torch.testing.assert_close(grad_ours[0], grad_z, rtol=0, atol=1e-10)
    by_parameter = dict(zip(map(id, module.parameters()), grad_ours[1:], strict=True))
    for (parameter, source, index), grad in zip(pairs, rest, strict=True):
        found = as_torch(by_parameter[id(source)][index]).reshape(parameter.shape)
        torch.testing.assert_close(found, grad, rtol=0, atol=1e-10)


def test_recurrence_is_the_papers_equations_step_by_step():
    """Eqs 4-11 by ``gru_step``, for a sequence of each task's own."""
    torch.manual_seed(0)
    module = StackedGRU(3, 2, 4).double()
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    z = torch.rand(6, 3, 5, 2, dtype=torch.float64)
    ours = module(z)
    for n in range(3):
        weights = [
            [getattr(module, f"{name}_{layer}")[n, direction].squeeze(-1) for name in ("w_z", "w_h", "b_z", "b_h")]
            for layer, direction in ((0, 0), (0, 1), (1, 0))
        ]
        weights = [[w.reshape(12, -1), h, bz, bh] for w, h, bz, bh in weights]

        def scan(sequence, w):
            states = [torch.zeros(5, 4, dtype=torch.float64)]  # Eq. 4
            for step in sequence:
                states.append(gru_step(step, states[-1], *w))
            return torch.stack(states[1:])

        forwards, backwards = scan(z[:, n], weights[0]), scan(z[:, n].flip(0), weights[1]).flip(0)  # Eqs 9 and 10
        last = scan(torch.cat((forwards, backwards), -1), weights[2])[-1]  # Eq. 11
        torch.testing.assert_close(ours[:, n], last, rtol=0, atol=1e-12)


def test_one_step_is_keras_reset_after_gru():
    """Keras' formula (reset_after=True, its default), written with its z, which keeps what the paper's u replaces."""
    torch.manual_seed(0)
    x, h, w, k = torch.rand(5, 3), torch.rand(5, 4), torch.randn(12, 3), torch.randn(12, 4)
    b, c = torch.randn(12), torch.randn(12)
    x_u, x_r, x_h = (x @ w.T + b).split(4, 1)
    h_u, h_r, h_h = (h @ k.T + c).split(4, 1)
    keep, reset = torch.sigmoid(-x_u - h_u), torch.sigmoid(x_r + h_r)
    expected = keep * h + (1 - keep) * torch.tanh(x_h + reset * h_h)
    torch.testing.assert_close(gru_step(x, h, w, k, b, c), expected)


@pytest.mark.parametrize("variant", [*mtclim.VARIANTS[1:], "bl_fc", "lim_ms_all-detach"])
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


def test_detached_stops_gradients_of_the_later_losses_at_the_interim_probabilities():
    torch.manual_seed(0)
    for variant in ("lim_ms_all", "lim_ms_all-detach"):
        model = create_model(variant, SMALL, "test_resnet")
        for module in ("tlim", "clim", "fc"):
            model.zero_grad()
            out = model.classify(torch.randn(4, model.image_features))
            out.logits[module][:, 0, 0].sum().backward()
            assert (model.bl.kernel.grad is None) == (variant == "lim_ms_all-detach")


def test_detached_stops_the_final_loss_at_the_probabilities_of_every_module():
    for variant in ("lim_ms_all", "lim_ms_all-detach"):
        model = create_model(variant, SMALL, "test_resnet")
        model.classify(torch.randn(4, model.image_features)).logits["fc"][:, 0, 0].sum().backward()
        for module in ("clim", "tlim"):
            kernel = model.get_submodule(module)["head"].kernel
            assert (kernel.grad is None) == (variant == "lim_ms_all-detach"), module


def reads(model, task: int, images: int = 6) -> tuple[bool, bool]:
    """Whether any classifier of a task notices BL's answers of its own task, and of the other tasks, of the same image.

    Answers of image 0 are replaced; the answers of image 0 are compared. Random numbers are the same both times.
    """
    x = torch.randn(images, model.image_features, dtype=torch.float64)
    plain = model.classify(x).interim["bl"]
    noticed = []
    for others in (False, True):
        given = {name: p.clone() for name, p in plain.items()}
        for n, name in enumerate(SMALL):
            if (n != task) == others:
                given[name][0] = given[name][0].roll(1)
        answers = []
        for interim in (plain, given):
            torch.manual_seed(1)
            logits = model.classify(x, interim).logits
            answers.append(torch.stack([logits[name][0, task] for name in ("clim", "tlim", "fc")]))
        noticed.append(not torch.equal(*answers))
    return tuple(noticed)


@pytest.mark.parametrize("images", [1, 2, 3, 4, 6, 9])
@pytest.mark.parametrize("task", range(3))
@pytest.mark.parametrize("training", [False, True])
def test_controls_hide_the_other_tasks_answers_about_the_same_image(task, images, training):
    torch.manual_seed(0)
    for variant, expected in (("all", True), ("all-own", False), ("all-shuffled", False)):
        model = create_model(f"lim_ms_{variant}", SMALL, "test_resnet", clim_units=6, tlim_units=4).double()
        own, others = reads(model.train(training), task, images)
        assert own and others == expected, variant


def test_shuffled_takes_the_other_tasks_answers_from_another_image_of_the_batch():
    torch.manual_seed(0)
    model = create_model("lim_ms_all-shuffled", SMALL, "test_resnet").double().eval()
    x = torch.randn(9, model.image_features, dtype=torch.float64)
    before, interim = model.classify(x), {"roof": torch.full((9, 3), 1 / 3, dtype=torch.float64)}
    interim["roof"][1:] = before.interim["bl"]["roof"][1:]
    after = model.classify(x, interim)
    changed = (after.probabilities["height"] != before.probabilities["height"]).any(1)
    assert changed.nonzero().flatten().tolist() == [3, 6], "a third of the batch away, and twice as far through CLIM"
    shifts = {model.train()._draw_shift(8) for _ in range(200)}
    assert shifts == {1, 2, 3, 5, 6, 7}, "half the batch away would lead back to the image itself"


def test_controls_have_the_parameters_of_lim_ms_all():
    counts = {create_model(name, SMALL, "test_resnet").parameters_count() for name in VARIANT_TABLE
              if name.startswith("lim_ms_all") and (name == "lim_ms_all" or name in CONTROLS)}  # fmt: skip
    assert len(counts) == 1


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


def test_class_weights_are_those_of_torch():
    torch.manual_seed(0)
    model = create_model("bl_ms", SMALL, "test_resnet").double().eval()
    out = model(torch.randn(5, 3, 64, 64, dtype=torch.float64))
    targets = torch.tensor([[0, -1, 3], [1, -1, -1], [-1, -1, 1], [1, -1, 2], [0, -1, 0]])
    weights = torch.rand(3, 4, dtype=torch.float64) + 0.1
    plain, model.class_weights = model.losses(out, targets), weights
    weighted = model.losses(out, targets)
    for m, logits in enumerate(out.logits.values()):
        for n, size in ((0, 2), (2, 4)):
            expected = F.cross_entropy(logits[:, n, :size], targets[:, n], weights[n, :size], ignore_index=-1)
            torch.testing.assert_close(weighted[m, n], expected)
    assert (weighted[:, 1] == 0).all() and not torch.allclose(plain, weighted)
    assert "class_weights" not in model.state_dict()


def test_interim_answers_given_stand_in_for_those_of_bl():
    torch.manual_seed(0)
    model = create_model("tlim_ms_bl", SMALL, "test_resnet").eval()
    x = model.features(torch.randn(3, 3, 64, 64))
    own = model.classify(x)
    same = model.classify(x, own.interim["bl"]).probabilities
    other = model.classify(x, {"height": torch.tensor([[1.0, 0.0]]).expand(3, -1)}).probabilities
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
    for name, fans in (("w_z_0", 1 + 96), ("w_h_0", 32 + 96), ("w_z_1", 64 + 96), ("w_h_1", 32 + 96)):
        weight = getattr(rnn, name)
        assert weight.abs().max().item() == pytest.approx(math.sqrt(6 / fans), rel=0.03)
    assert all((getattr(rnn, f"b_{kind}_{layer}") == 0).all() for kind in ("z", "h") for layer in (0, 1))


@pytest.mark.parametrize("backbone", ["mobilenetv3_small_050", "test_vit", "test_efficientnet", "resnet10t"])
def test_any_pooled_backbone(backbone):
    model = create_model("lim_ms_bl", SMALL, backbone).eval()
    size = model.backbone.pretrained_cfg["input_size"][-1]
    assert model(torch.zeros(2, 3, size, size)).probabilities["use"].shape == (2, 4)
    weights = model.backbone.pretrained_cfg
    assert (model.mean, model.std) == (list(weights["mean"]), list(weights["std"]))


def test_a_backbone_without_pooling_is_refused():
    model = create_model("bl", SMALL, "test_resnet")
    model.backbone = nn.Identity()
    with pytest.raises(ValueError, match=r"found features of shape \(2, 3, 8, 8\); expected .* global pooling"):
        model(torch.zeros(2, 3, 8, 8))


def test_batch_size_one_and_a_single_task():
    model = create_model("lim_ms_all", Tasks({"roof": ["FLT", "PIT"]}), "test_resnet").eval()
    assert model(torch.zeros(1, 3, 64, 64)).probabilities["roof"].shape == (1, 2)


def test_errors_list_the_valid_names():
    with pytest.raises(ValueError, match="lim_ms_all, bl_fc"):
        create_model("lin", SMALL)
    with pytest.raises(ValueError, match="clim_units, tlim_units: found 0, 12"):
        create_model("lim", SMALL, "test_resnet", clim_units=0)
    with pytest.raises(ValueError, match="clim_units, tlim_units: found 32, 0"):
        create_model("lim", SMALL, "test_resnet", tlim_units=0)
    with pytest.raises(ValueError, match="densenet"):
        create_model("bl", SMALL, "densenet1210")
