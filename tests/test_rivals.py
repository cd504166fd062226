"""Every variant, control and rival: gradients, missing labels, few and many tasks, loading; and what each rival is."""

import itertools

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from mtclim.model import Output, StackedGRU, create_model
from mtclim.rivals import Encoder
from mtclim.tasks import SANTIAGO, Tasks
from mtclim.variants import VARIANT_TABLE

SMALL = Tasks({"height": ["H1", "H2"], "roof": ["FLT", "PIT_GAB", "PIT_MON"], "use": ["a", "b", "c", "d"]})
TARGETS = torch.tensor([[0, 1, 3], [1, 2, 0], [0, 0, 1], [1, 1, -1], [0, 2, 2], [-1, -1, -1]])
LABELSETS = TARGETS[(TARGETS >= 0).all(1)]


def build(variant: str, tasks: Tasks = SMALL, labelsets=LABELSETS, **more) -> nn.Module:
    torch.manual_seed(0)
    return create_model(variant, tasks, "test_resnet", clim_units=6, tlim_units=4, labelsets=labelsets, **more)


def many(tasks: int, rows: int) -> tuple[Tasks, torch.Tensor]:
    """So many tasks of 2 to 4 classes, and complete labels."""
    made = Tasks({f"t{n}": [f"c{k}" for k in range(2 + n % 3)] for n in range(tasks)})
    rng = np.random.default_rng(0)
    return made, torch.tensor(np.stack([rng.integers(0, size, rows) for size in made.sizes], 1))


@pytest.mark.parametrize("variant", VARIANT_TABLE)
def test_gradient_reaches_every_parameter(variant):
    model = build(variant)
    for parameter in model.parameters():
        if (parameter == 0).all():  # timm starts residual branches at zero, which cuts off what lies before
            nn.init.constant_(parameter, 0.5)
    out = model(torch.randn(6, 3, 64, 64))
    model.loss(out, TARGETS).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name
    for p in out.probabilities.values():
        torch.testing.assert_close(p.sum(1), torch.ones(6))
    spec = VARIANT_TABLE[variant]
    assert tuple(out.logits) == (spec.modules or ("stc",))
    assert tuple(out.interim) == spec.modules[:-1]
    new = {id(parameter) for parameter in model.new_layers()}
    assert {id(kernel) for kernel in model.softmax_kernels()} < new
    assert len(new) == sum("backbone" not in name for name, _ in model.named_parameters())


@pytest.mark.parametrize("variant", VARIANT_TABLE)
def test_missing_labels_change_no_other_tasks_loss(variant):
    model = build(variant).eval()
    out = model(torch.randn(6, 3, 64, 64))
    none = model.losses(out, torch.full_like(TARGETS, -1))
    assert none.shape == (len(out.logits), 3) and (none == 0).all()
    hidden = TARGETS.clone()
    hidden[:, 2] = -1
    torch.testing.assert_close(model.losses(out, hidden)[:, :2], model.losses(out, TARGETS)[:, :2])
    assert (model.losses(out, hidden)[:, 2] == 0).all()


@pytest.mark.parametrize("variant", VARIANT_TABLE)
@pytest.mark.parametrize("tasks", [2, 20])
def test_two_tasks_and_twenty_saved_and_loaded_and_in_half_precision(variant, tasks, tmp_path):
    made, labels = many(tasks, 4)
    model = build(variant, made, labels)
    images = torch.randn(4, 3, 64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.loss(model(images), labels)
    loss.backward()
    assert loss.isfinite() and all(p.grad.isfinite().all() for p in model.parameters())
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    saved = load_file(tmp_path / "model.safetensors")
    again = build(variant, made, labels.flip(0), order=saved.get("order"))
    again.load_state_dict(saved)
    before, after = model.eval()(images), again.eval()(images)
    assert before.logits.keys() == after.logits.keys() and before.interim.keys() == after.interim.keys()
    for task in made:
        torch.testing.assert_close(after.probabilities[task], before.probabilities[task])


@pytest.mark.parametrize("variant", ["bl", "lim_ms_all"])
def test_uncertainty_weighting_is_kendalls(variant):
    weighted, plain = build(f"{variant}-weighted").eval(), build(variant).eval()
    plain.load_state_dict({k: v for k, v in weighted.state_dict().items() if k != "log_variances"})
    assert weighted.parameters_count() - plain.parameters_count() == 3 * len(VARIANT_TABLE[variant].modules)
    with torch.no_grad():
        weighted.log_variances.normal_()
    x = torch.randn(6, weighted.image_features)
    losses, s = plain.losses(plain.classify(x), TARGETS), weighted.log_variances
    sigma = torch.exp(s / 2)
    expected = losses / sigma**2 + sigma.log()
    torch.testing.assert_close(weighted.losses(weighted.classify(x), TARGETS), expected)
    assert (weighted.losses(weighted.classify(x), torch.full_like(TARGETS, -1)) == 0).all()


@pytest.mark.parametrize("order", [["height", "roof", "use"], ["use", "height", "roof"]])
def test_a_chain_reads_the_tasks_before_it_only(order):
    model = build("chain", order=order).double().eval()
    x = torch.randn(4, model.image_features, dtype=torch.float64)
    plain = model.classify(x).probabilities
    for position, task in enumerate(order):
        given = {task: plain[task].roll(1, 1)}
        changed = model.classify(x, given).probabilities
        different = [name for name in order if not torch.equal(changed[name], plain[name])]
        assert different == order[position + 1 :]
    sizes = [len(SMALL[task]) for task in order]
    expected = sum(size * (model.image_features + sum(sizes[:i]) + 1) for i, size in enumerate(sizes))
    assert sum(parameter.numel() for parameter in model.new_layers()) == expected


def test_the_order_of_a_chain():
    assert build("chain").order.tolist() == [0, 1, 2]
    assert (
        build("chain", order=[2, 0, 1]).order.tolist() == build("chain", order=["use", "height", "roof"]).order.tolist()
    )
    drawn = {tuple(create_model("chain-random", SMALL, "test_resnet").order.tolist()) for _ in range(20)}
    assert len(drawn) > 1
    for wrong in (["use", "height"], ["use", "use", "roof"], ["use", "height", "roofs"], [0, 1, 3], [0, 1, 2, 2]):
        with pytest.raises(ValueError, match="order: found .*expected each of the tasks"):
            build("chain", order=wrong)


def test_a_powerset_is_a_distribution_over_the_training_labelsets():
    model = build("powerset").double().eval()
    out = model.classify(torch.randn(6, model.image_features, dtype=torch.float64))
    joint = out.joint.exp()
    assert len(model.labelsets) == len(LABELSETS) and joint.sum(1).allclose(torch.ones(6, dtype=torch.float64))
    for n, (task, classes) in enumerate(SMALL.items()):
        for k in range(len(classes)):
            marginal = joint[:, model.labelsets[:, n] == k].sum(1)
            torch.testing.assert_close(out.probabilities[task][:, k], marginal, atol=1e-5, rtol=0)
    for missing in ([], [0], [2], [0, 1]):
        labels = LABELSETS[:1].clone()
        labels[:, missing] = -1
        fits = ((model.labelsets == labels) | (labels < 0)).all(1)
        one = Output({}, {}, {}, joint=out.joint[:1])
        torch.testing.assert_close(model.loss(one, labels), -joint[0, fits].sum().log(), atol=1e-3, rtol=0)
    unseen = [
        labels for labels in itertools.product(range(2), range(3), range(4)) if list(labels) not in LABELSETS.tolist()
    ]
    losses = model.losses(Output({}, {}, {}, joint=out.joint[:1].expand(len(unseen), -1)), torch.tensor(unseen))
    assert losses.isfinite().all() and losses.sum() > 3


@pytest.mark.parametrize(
    ("labelsets", "words"),
    [
        (None, "found 0 complete ones"),
        ([[0, 1, 2], [0, 1, 2]], "found 1 complete ones"),
        ([[0, 1], [1, 1]], r"found shape \(2, 2\)"),
        ([[0, 1, 2], [1, 1, -1]], "no class"),
        ([[0, 1, 2], [2, 1, 1]], "no class"),
    ],
)
def test_impossible_labelsets_are_refused(labelsets, words):
    with pytest.raises(ValueError, match=f"labelsets: .*{words}"):
        build("powerset", labelsets=labelsets)
    assert build("powerset", labelsets=LABELSETS.numpy()).labelsets.equal(build("powerset").labelsets)


def test_attention_has_about_the_parameters_of_the_grus_and_no_order_but_the_tokens_identities():
    for tasks, steps, inputs, units in (
        (5, 35, 1, 32),
        (5, 5, 14, 12),
        (2, 5, 1, 32),
        (20, 60, 1, 32),
        (20, 20, 4, 12),
    ):
        counts = [sum(p.numel() for p in module.parameters())
                  for module in (Encoder(tasks, steps, inputs, units), StackedGRU(tasks, inputs, units))]  # fmt: skip
        assert counts[0] == pytest.approx(counts[1], rel=0.08), (tasks, steps)
    with_gru, with_attention = (create_model(f"lim_ms_all{end}", SANTIAGO, "test_resnet") for end in ("", "-attention"))
    assert with_attention.parameters_count() == pytest.approx(with_gru.parameters_count(), rel=0.02)
    encoder = Encoder(3, 9, 2, 6).double()
    z, order = torch.rand(9, 1, 4, 2, dtype=torch.float64), torch.randperm(9)
    before = encoder(z)
    assert not torch.allclose(encoder(z[order]), before)
    encoder.identity.data = encoder.identity.data[order]
    torch.testing.assert_close(encoder(z[order]), before)
    encoder.representation.weight.data *= 100
    assert encoder(z).abs().max() <= 1, "as the states of a GRU"


def test_pad_needs_another_task():
    with pytest.raises(ValueError, match="pad: found one task"):
        create_model("pad", Tasks({"roof": ["flat", "gable"]}), "test_byobnet")


def test_pad_gates_a_tasks_features_by_the_other_tasks_answers():
    model = build("pad").double().eval()
    x = torch.randn(4, model.image_features, dtype=torch.float64)
    plain = model.classify(x)
    for task in SMALL:
        changed = model.classify(x, {task: plain.interim["bl"][task].roll(1, 1)}).probabilities
        unchanged = [name for name in SMALL if torch.equal(changed[name], plain.probabilities[name])]
        assert unchanged == [task]
    p = plain.interim["bl"]
    gate = torch.sigmoid(F.linear(torch.cat((p["height"], p["use"]), 1), model.gates[1].weight, model.gates[1].bias))
    expected = F.linear(x * (1 + gate), model.fc.kernel[2:5], model.fc.bias[2:5]).softmax(1)
    torch.testing.assert_close(plain.probabilities["roof"], expected)
