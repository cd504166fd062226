"""The whole model in one file: BL, CLIM, TLIM and FC modules (section 2.3), and the variants of Table 2 made of them.

Shapes: B images, N tasks, K_n classes of task n, S = sum K_n, Kmax = max K_n, F image features, H units, T time steps.
R is the number of different readers: 1 where all tasks' classifiers read the same, else N. Class scores travel padded
as (B, N, Kmax): a padded logit is -inf, hence a padded probability is 0, which is TLIM's zero padding (Eq. 13).
"""

import math
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtclim.tasks import Tasks
from mtclim.variants import VARIANT_TABLE
from mtclim.weights import backbone_config, create_backbone

sigmoid_backward, tanh_backward = torch.ops.aten.sigmoid_backward, torch.ops.aten.tanh_backward


@dataclass(frozen=True)
class Output:
    """What a model says of a batch: of each supervised module, final one last, padded logits; probabilities by task."""

    logits: dict[str, Tensor]  # module -> (B, N, Kmax)
    probabilities: dict[str, Tensor]  # task -> (B, K_n), of the final classifier
    interim: dict[str, dict[str, Tensor]]  # module before it -> task -> (B, K_n)
    joint: Tensor | None = None  # log probabilities of labelsets (B, L), of a label powerset only


def gru_step(z: Tensor, h: Tensor, w_z: Tensor, w_h: Tensor, b_z: Tensor, b_h: Tensor) -> Tensor:
    """One step of a GRU -> h (B, H): the definition of what ``Scan`` does for many at once.

    Parameters
    ----------
    z, h : The input (B, I) and the state before (B, H).
    w_z, w_h, b_z, b_h : Weights and biases of 3H rows, as in ``StackedGRU``: update gate, reset gate, candidate.
    """
    (z_u, z_r, z_h), (h_u, h_r, h_h) = (z @ w_z.T + b_z).chunk(3, -1), (h @ w_h.T + b_h).chunk(3, -1)
    u = torch.sigmoid(z_u + h_u)  # Eq. 5, update gate
    r = torch.sigmoid(z_r + h_r)  # Eq. 6, reset gate
    candidate = torch.tanh(z_h + r * h_h)  # Eq. 7; the gate acts on the product, as Table 1's two biases ask for
    return (1 - u) * h + u * candidate  # Eq. 8


class Scan(torch.autograd.Function):
    """All hidden states of G independent GRUs: the group is the batch of one matrix product a step.

    Each step reads one source, [h_{s-1}; z_s; 1], and one product gives the four terms [u | r | m | c] before their
    nonlinearity. The candidate's two products stay apart, m of h_{s-1} and c of z_s, because the reset gate stands
    between them. The batch of images is the last dimension, so that each term is contiguous in memory.
    """

    @staticmethod
    def forward(ctx, z: Tensor, weight: Tensor) -> Tensor:
        """z (T, G, I, B), weight (G, 4H, H+I+1) -> states h (T, G, H, B)."""
        (steps, groups, inputs, batch), units = z.shape, weight.shape[1] // 4
        source = z.new_ones(steps + 1, groups, units + inputs + 1, batch)
        source[0, :, :units] = 0  # Eq. 4: h_0 = 0
        source[:-1, :, units:-1] = z
        terms = z.new_empty(steps, groups, 4 * units, batch)
        h, gates = source[:, :, :units].unbind(), terms[:, :, : 2 * units].unbind()
        u, r, m, c = (term.unbind() for term in terms.chunk(4, 2))
        for s in range(steps):
            torch.bmm(weight, source[s], out=terms[s])  # every product of Eqs. 5-7
            gates[s].sigmoid_()  # Eqs. 5 and 6: u and r
            c[s].addcmul_(r[s], m[s]).mul_(2).sigmoid_().mul_(2).sub_(1)  # Eq. 7; 2 sigmoid(2a) - 1 is a faster tanh(a)
            torch.lerp(h[s], c[s], u[s], out=h[s + 1])  # Eq. 8: (1 - u) h + u c
        ctx.save_for_backward(source, terms, weight)
        return source[1:, :, :units]

    @staticmethod
    def backward(ctx, d_states: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of z and of the weight, from the states' (T, G, H, B)."""
        source, terms, weight = ctx.saved_tensors
        units, transposed = weight.shape[1] // 4, weight.transpose(1, 2).contiguous()
        d_terms = torch.empty_like(terms[0])  # (G, 4H, B)
        (d_u, d_r, d_m, d_c), d_gates = d_terms.chunk(4, 1), d_terms[:, : 2 * units]
        d_source, d_weight = torch.empty_like(source[:-1]), torch.zeros_like(weight)
        h, d_h, gates = (
            source[:, :, :units].unbind(),
            d_source[:, :, :units].unbind(),
            terms[:, :, : 2 * units].unbind(),
        )
        u, r, m, c = (term.unbind() for term in terms.chunk(4, 2))
        d = torch.zeros_like(d_states[0])  # of h_s
        for s in reversed(range(len(terms))):
            d += d_states[s]
            d_candidate = d * u[s]  # Eq. 8
            tanh_backward.grad_input(d_candidate, c[s], grad_input=d_c)  # Eq. 7
            torch.mul(d_c, r[s], out=d_m)  # Eq. 7
            torch.mul(d_c, m[s], out=d_r)  # Eq. 7
            torch.mul(c[s] - h[s], d, out=d_u)  # Eq. 8
            sigmoid_backward.grad_input(d_gates, gates[s], grad_input=d_gates)  # Eqs. 5 and 6
            torch.bmm(transposed, d_terms, out=d_source[s])
            d_weight.baddbmm_(d_terms, source[s].transpose(1, 2))
            d.sub_(d_candidate).add_(d_h[s])  # Eq. 8's (1 - u) h, and what went through the products
        return d_source[:, :, units:-1], d_weight


class StackedGRU(nn.Module):
    """One RNN a task, all tasks at once: a bidirectional GRU, then a unidirectional one (section 2.3.3, Eqs. 4-11)."""

    def __init__(self, tasks: int, inputs: int, units: int):
        super().__init__()
        self.tasks, self.units = tasks, units
        for layer, (directions, width) in enumerate(((2, inputs), (1, 2 * units))):
            for name, columns in (("w_z", width), ("w_h", units)):
                limit = math.sqrt(6 / (3 * units + columns))  # Glorot uniform over the stacked matrix, as Keras does
                weight = torch.empty(tasks, directions, 3 * units, columns).uniform_(-limit, limit)
                self.register_parameter(f"{name}_{layer}", nn.Parameter(weight))
            for name in ("b_z", "b_h"):
                self.register_parameter(f"{name}_{layer}", nn.Parameter(torch.zeros(tasks, directions, 3 * units, 1)))

    def forward(self, z: Tensor) -> Tensor:
        """z (T, R, B, I), one sequence or one a task -> last states (B, N, H), the interdependency representations."""
        both = torch.stack((z, z.flip(0)), dim=2).transpose(3, 4)  # (T, R, 2, I, B), forwards and backwards
        each = both.expand(-1, self.tasks, -1, -1, -1).flatten(1, 2)  # (T, 2N, I, B)
        states = self._scan(each, 0).unflatten(1, (self.tasks, 2))  # Eqs. 9 and 10: (T, N, 2, H, B)
        h = torch.cat((states[:, :, 0], states[:, :, 1].flip(0)), dim=2)  # Eq. 11: (T, N, 2H, B)
        return self._scan(h, 1)[-1].permute(2, 0, 1)

    def _scan(self, z: Tensor, layer: int) -> Tensor:
        parts = (getattr(self, f"{name}_{layer}").flatten(0, 1) for name in ("w_h", "w_z", "b_h", "b_z"))
        (h, h_c), (x, x_c), (b_h, b_m), (b_z, b_c) = (part.split((2 * self.units, self.units), 1) for part in parts)
        gates = torch.cat((h, x, b_h + b_z), 2)
        m = torch.cat((h_c, torch.zeros_like(x_c), b_m), 2)
        c = torch.cat((torch.zeros_like(h_c), x_c, b_c), 2)
        return Scan.apply(z, torch.cat((gates, m, c), 1))


class SoftmaxLayer(nn.Module):
    """The fully connected layers before Eq. 1's softmax, one a task, as one kernel of S rows; gives padded logits."""

    def __init__(self, tasks: Tasks, inputs: int):
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(tasks.total, inputs) * math.sqrt(2 / inputs))  # He normal
        self.bias = nn.Parameter(torch.zeros(tasks.total))
        rows = torch.arange(tasks.total).split(tasks.sizes)
        pad = torch.stack([F.pad(row, (0, tasks.largest - len(row)), value=tasks.total) for row in rows])
        self.register_buffer("pad", pad, persistent=False)  # (N, Kmax), row of the kernel, S where there is no class

    def forward(self, x: Tensor) -> Tensor:
        """x (B, R, inputs), a vector for all tasks or one for each -> logits (B, N, Kmax)."""
        kernel = F.pad(self.kernel, (0, 0, 0, 1))[self.pad]  # (N, Kmax, inputs)
        bias = F.pad(self.bias, (0, 1), value=-math.inf)[self.pad]
        return torch.einsum("bni,nki->bnk", x.expand(-1, len(kernel), -1), kernel) + bias


class Classifier(nn.Module):
    """What all networks share: losses, counts, and the form of what they say."""

    def __init__(self, variant: str, tasks: Tasks):
        super().__init__()
        self.variant, self.tasks = variant, tasks
        self.register_buffer("class_weights", None, persistent=False)  # or (N, Kmax), in the losses only
        valid = torch.arange(tasks.largest) < torch.tensor(tasks.sizes).unsqueeze(1)
        self.register_buffer("valid", valid, persistent=False)  # (N, Kmax)

    def losses(self, out: Output, targets: Tensor) -> Tensor:
        """Cross-entropy of each supervised module and task (M, N): the mean over annotated rows, 0 where there is none.

        targets (B, N) int64, -1 = not annotated. With ``class_weights`` the mean is torch's weighted one.
        """
        log_p = torch.stack(list(out.logits.values())).log_softmax(-1)  # (M, B, N, Kmax)
        index = targets.clamp(min=0).expand(len(log_p), -1, -1).unsqueeze(-1)
        return self._mean(-log_p.gather(-1, index).squeeze(-1), targets)

    def _mean(self, nll: Tensor, targets: Tensor) -> Tensor:
        """The mean of nll (M, B, N) over annotated rows, weighted by their classes: (M, N)."""
        weight = (targets >= 0).to(nll.dtype)
        if self.class_weights is not None:
            weight = weight * self.class_weights.T.gather(0, targets.clamp(min=0))
        total = weight.sum(0)
        return (nll * weight).sum(1) / torch.where(total > 0, total, 1)

    def loss(self, out: Output, targets: Tensor) -> Tensor:
        """The objective without its L2 term: the sum over tasks (Eq. 14) and supervised modules (section 2.3.6)."""
        return self.losses(out, targets).sum()

    def softmax_kernels(self) -> list[nn.Parameter]:
        """The kernels that L2 regularisation applies to (section 3): those of the softmax layers."""
        return [module.kernel for module in self.modules() if isinstance(module, SoftmaxLayer)]

    def new_layers(self) -> list[nn.Parameter]:
        """The parameters outside the backbone, which no pretrained weights start."""
        return [p for name, p in self.named_parameters() if "backbone" not in name.split(".")]

    def parameters_count(self) -> int:
        """Trainable parameters (Table 1)."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    def _output(self, logits: dict[str, Tensor], p: dict[str, Tensor]) -> Output:
        """The last module is the final classifier; padding is taken off."""
        split = {name: {t: q[:, n, : len(k)] for n, (t, k) in enumerate(self.tasks.items())} for name, q in p.items()}
        *before, final = split
        return Output(logits, split[final], {name: split[name] for name in before})


class MultitaskModel(Classifier):
    """MTC-LIM (Fig. 5), its reduced variants and controls: one backbone, and what the table of variants names."""

    takes: tuple[str, ...] = ()  # which of create_model's options a network of ``mtclim.rivals`` needs besides

    def __init__(self, variant: str, tasks: Tasks, backbone: nn.Module, units: Mapping[str, int]):
        super().__init__(variant, tasks)
        spec = VARIANT_TABLE[variant]
        self.modules_used, self.features_used, self.interim_used = spec.modules, spec.features, spec.interim
        self.backbone = backbone
        self.image_features = getattr(backbone, "head_hidden_size", None) or backbone.num_features
        width = {f"p_{name}": tasks.total for name in self.modules_used}
        if "bl" in self.modules_used:
            self.bl = SoftmaxLayer(tasks, self.image_features)
        for name, inputs in (("clim", 1), ("tlim", tasks.largest)):
            if name in self.modules_used:
                rnn = StackedGRU(len(tasks), inputs, units[name])
                self.add_module(name, nn.ModuleDict({"rnn": rnn, "head": SoftmaxLayer(tasks, units[name])}))
                width[f"x_{name}"] = len(tasks) * units[name]
        if "fc" in self.modules_used:
            self.fc = SoftmaxLayer(tasks, sum(width.get(name, self.image_features) for name in self.features_used))

    def forward(self, images: Tensor) -> Output:
        """images (B, 3, H, W), float, normalised."""
        return self.classify(self.features(images))

    def features(self, images: Tensor) -> Tensor:
        """x_BL, the pooled image features (B, F), in float32 or wider whatever the autocast."""
        x = self.backbone(images)
        if x.ndim != 2 or x.shape[1] != self.image_features:
            expected = f"(B, {self.image_features}), one pooled vector an image; choose a backbone with global pooling"
            raise ValueError(f"backbone: found features of shape {tuple(x.shape)}; expected {expected}.")
        return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x

    def classify(self, x: Tensor, interim: Mapping[str, Tensor] | None = None) -> Output:
        """All modules from the features x (B, F) on; ``interim`` (task -> (B, K_n)) stands in for BL's answers."""
        with torch.autocast(x.device.type, enabled=False):  # the recurrences are tiny and want float32
            logits = {"bl": self.bl(x.unsqueeze(1))}
            p = {"bl": self._set(logits["bl"].softmax(-1), interim)}  # Eqs. 1 and 2: P(Y_T | x_BL), (B, N, Kmax)
            shift, stop = self._draw_shift(len(x)), self.interim_used == "detached"
            read = self._views(p["bl"].detach() if stop else p["bl"], shift)  # (B, R, N, Kmax)
            parts = {"x_bl": x.unsqueeze(1), "p_bl": read[:, :, self.valid]}  # (B, 1, F), (B, R, S)
            sequences = {
                "clim": parts["p_bl"].permute(2, 1, 0).unsqueeze(-1),  # Eq. 12: (S, R, B, 1)
                "tlim": read.permute(2, 1, 0, 3),  # Eq. 13: (N, R, B, Kmax)
            }
            for name in [name for name in sequences if name in self.modules_used]:
                module = self.get_submodule(name)
                h = module["rnn"](sequences[name])  # h_S of every task: (B, N, H)
                logits[name] = module["head"](h)
                p[name] = logits[name].softmax(-1)  # Eq. 1
                parts[f"x_{name}"] = self._views(h, shift).flatten(2)  # (B, R, N H)
                parts[f"p_{name}"] = self._views(p[name].detach() if stop else p[name], shift)[:, :, self.valid]
            if "fc" in self.modules_used:
                fused = [parts[name].expand(-1, read.shape[1], -1) for name in self.features_used]
                logits["fc"] = self.fc(torch.cat(fused, dim=2))  # Eq. 3, and section 2.3.5
                p["fc"] = logits["fc"].softmax(-1)
        return self._output(logits, p)

    def _draw_shift(self, batch: int) -> int:
        """How many places away in the batch the other image of "shuffled" is; 0 in a batch too small to have one.

        That image's representations hold probabilities of the image as far again, so it is never half the batch away.
        """
        shifts = [shift for shift in range(1, batch) if 2 * shift != batch]
        if not shifts or self.interim_used != "shuffled":
            return 0
        return shifts[int(torch.randint(len(shifts), ()))] if self.training else batch // 3

    def _views(self, values: Tensor, shift: int) -> Tensor:
        """What each task's classifiers read of all tasks' values (B, N, ...): (B, R, N, ...), with R = 1 in the paper.

        In "own" and "shuffled" reader n finds task n's values, and in place of the others' zeros or another image's.
        """
        if self.interim_used in ("all", "detached"):
            return values.unsqueeze(1)
        other = values.roll(shift, 0) if shift else torch.zeros_like(values)
        own = torch.eye(len(self.tasks), dtype=torch.bool, device=values.device)[..., None]  # (N, N, 1)
        return torch.where(own, values.unsqueeze(1), other.unsqueeze(1))

    def _set(self, p: Tensor, interim: Mapping[str, Tensor] | None) -> Tensor:
        if not interim:
            return p
        rows = {t: F.pad(given, (0, p.shape[-1] - given.shape[-1])) for t, given in interim.items()}
        return torch.stack([rows.get(t, p[:, n]) for n, t in enumerate(self.tasks)], dim=1)


class SingleTaskModel(Classifier):
    """STC: N separately trained networks, one a task, held in one module for loading and prediction."""

    def __init__(self, tasks: Tasks, networks: list[MultitaskModel]):
        super().__init__("stc", tasks)
        self.networks = nn.ModuleList(networks)

    def forward(self, images: Tensor) -> Output:
        """images (B, 3, H, W), float, normalised."""
        each = [network(images).logits["bl"] for network in self.networks]
        logits = torch.cat([F.pad(x, (0, self.tasks.largest - x.shape[-1]), value=-math.inf) for x in each], dim=1)
        return self._output({"stc": logits}, {"stc": logits.softmax(-1)})


def create_model(variant: str, tasks: Tasks, backbone: str = "densenet121", pretrained: bool = False,
                 weights: str | Path | None = None, clim_units: int = 32, tlim_units: int = 12,
                 labelsets: Sequence[Sequence[int]] | Tensor | None = None,
                 order: Sequence[str] | Tensor | None = None) -> MultitaskModel | SingleTaskModel:  # fmt: skip
    """A variant, control or rival over any timm backbone that yields a pooled feature vector.

    Parameters
    ----------
    variant, tasks : A name in ``VARIANT_TABLE``; the tasks and their classes.
    backbone, pretrained, weights : timm's name; whether to start from ImageNet weights, or from which local file
        (``mtclim.weights``).
    clim_units, tlim_units : H of the two recurrent modules (section 3).
    labelsets, order : For "powerset" the complete training labelsets, (L, N) class positions. For "chain" and
        "chain-random" the tasks (names or positions) from first to last; without it as they are, or at random.

    Returns
    -------
    MultitaskModel or SingleTaskModel
        With ``.mean`` and ``.std`` (of pixel values in [0, 1]) of the backbone's weights.

    Raises
    ------
    ValueError, RuntimeError
        For an unknown variant or backbone, impossible labelsets or order; where pretrained weights cannot be had.

    >>> model = create_model("lim_ms_all", Tasks({"roof": "FGM", "height": "12"}), backbone="test_resnet")
    >>> out = model(torch.zeros(2, 3, 64, 64))
    >>> out.probabilities["roof"].shape, list(out.interim)
    (torch.Size([2, 3]), ['bl', 'clim', 'tlim'])
    """
    if variant not in VARIANT_TABLE:
        raise ValueError(f"variant: found {variant!r}; expected one of {', '.join(VARIANT_TABLE)}.")
    if min(clim_units, tlim_units) < 1:
        raise ValueError(f"clim_units, tlim_units: found {clim_units}, {tlim_units}; expected numbers from 1 on.")
    tasks = tasks if isinstance(tasks, Tasks) else Tasks(tasks)
    config = backbone_config(backbone)
    if variant == "stc":
        parts = [Tasks({task: names}) for task, names in tasks.items()]
        model = SingleTaskModel(tasks, [create_model("bl", part, backbone, pretrained, weights) for part in parts])
    else:
        network, given = pkgutil.resolve_name(VARIANT_TABLE[variant].network), {"labelsets": labelsets, "order": order}
        units, options = {"clim": clim_units, "tlim": tlim_units}, {name: given[name] for name in network.takes}
        model = network(variant, tasks, create_backbone(backbone, pretrained, weights), units, **options)
    model.mean, model.std = list(config["mean"]), list(config["std"])
    return model
