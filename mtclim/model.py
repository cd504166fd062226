"""The whole model in one file: BL, CLIM, TLIM and FC modules (section 2.3), and the twelve variants of Table 2.

Shapes: B images, N tasks, K_n classes of task n, S = sum K_n, Kmax = max K_n, F image features, H units, T time steps.
Class scores travel padded as (B, N, Kmax): a padded logit is -inf, hence a padded probability 0, which is TLIM's zero
padding (Eq. 13); its valid entries in order are CLIM's sequence (Eq. 12).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from mtclim.tasks import Tasks
from mtclim.variants import CONTROLS, VARIANT_TABLE, VARIANTS

sigmoid_backward, tanh_backward = torch.ops.aten.sigmoid_backward, torch.ops.aten.tanh_backward
__all__ = ["CONTROLS", "VARIANTS", "VARIANT_TABLE", "MultitaskModel", "Output", "SingleTaskModel", "create_model"]


@dataclass(frozen=True)
class Output:
    """What a model says of a batch.

    ``logits`` maps each supervised module, the final one last, to padded logits (B, N, Kmax); ``probabilities`` maps each
    task to (B, K_n) of the final classifier, ``interim[module][task]`` to those of the modules before it.
    """

    logits: dict[str, Tensor]
    probabilities: dict[str, Tensor]
    interim: dict[str, dict[str, Tensor]]


class Scan(torch.autograd.Function):
    """All hidden states of G independent GRUs at once: the group is the batch of one bmm a step.

    Every step reads one source, [h; x; 1], and gives all four terms [r | z | u | n]: the n gate's two products, u of h
    and n of x, stay apart because the reset gate stands between them. The batch of images is last, so that each gate is
    a contiguous run, and a step is finished while its few hundred kilobytes are in cache.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, last: bool) -> Tensor:
        """x (T, G, I, B), weight (G, 4H, H+I+1) -> states (T, G, H, B), or the ``last`` one (G, H, B)."""
        (steps, groups, inputs, batch), units = x.shape, weight.shape[1] // 4
        source = x.new_ones(steps + 1, groups, units + inputs + 1, batch)
        source[0, :, :units], source[:-1, :, units:-1] = 0, x
        gates = x.new_empty(steps, groups, 4 * units, batch)
        h, rz = source[:, :, :units].unbind(), gates[:, :, : 2 * units].unbind()
        r, z, u, n = (gate.unbind() for gate in gates.chunk(4, 2))
        minus_one = x.new_full((), -1)
        for s in range(steps):
            torch.bmm(weight, source[s], out=gates[s])
            rz[s].sigmoid_()
            n[s].addcmul_(r[s], u[s]).mul_(2).sigmoid_()  # tanh(a) = 2 sigmoid(2a) - 1: half the time of tanh on a CPU
            torch.lerp(torch.add(minus_one, n[s], alpha=2, out=n[s]), h[s], z[s], out=h[s + 1])  # (1 - z) n + z h
        ctx.save_for_backward(source, gates, weight)
        ctx.last = last
        return h[-1].clone() if last else source[1:, :, :units]

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x and of the weight, for grad of the states' shape."""
        source, gates, weight = ctx.saved_tensors
        units, back = weight.shape[1] // 4, weight.transpose(1, 2).contiguous()
        delta = torch.empty_like(gates[0])  # (G, 4H, B)
        (d_r, d_z, d_u, d_n), d_rz = delta.chunk(4, 1), delta[:, : 2 * units]
        d_source, d_weight = torch.empty_like(source[:-1]), torch.zeros_like(weight)
        h, d_h, rz = source[:, :, :units].unbind(), d_source[:, :, :units].unbind(), gates[:, :, : 2 * units].unbind()
        r, z, u, n = (gate.unbind() for gate in gates.chunk(4, 2))
        d = grad.clone() if ctx.last else torch.zeros_like(grad[0])
        for s in reversed(range(len(gates))):
            if not ctx.last:
                d += grad[s]
            tanh_backward.grad_input(torch.addcmul(d, d, z[s], value=-1), n[s], grad_input=d_n)
            torch.mul(d_n, u[s], out=d_r)
            torch.mul(h[s] - n[s], d, out=d_z)
            sigmoid_backward.grad_input(d_rz, rz[s], grad_input=d_rz)
            torch.mul(d_n, r[s], out=d_u)
            torch.bmm(back, delta, out=d_source[s])
            d_weight.baddbmm_(delta, source[s].transpose(1, 2))
            torch.addcmul(d_h[s], d, z[s], out=d)
        return d_source[:, :, units:-1], d_weight, None


class StackedGRU(nn.Module):
    """One RNN a task: a bidirectional GRU followed by a unidirectional one (section 2.3.3, Eqs. 4-11), tasks batched.

    The gates follow torch.nn.GRU (order r, z, n; z = 1 - u of Eq. 8; reset gate after the recurrent product, which is
    what Table 1's two biases mean). The states of the last time step are the interdependency representations.
    """

    def __init__(self, tasks: int, width: int, units: int):
        super().__init__()
        self.tasks = tasks
        for layer, (directions, inputs) in enumerate(((2, width), (1, 2 * units))):
            for name, shape in (("w_ih", (3 * units, inputs)), ("w_hh", (3 * units, units))):
                limit = math.sqrt(6 / sum(shape))  # Glorot uniform over the stacked gate matrix, as Keras does
                weight = torch.empty(tasks, directions, *shape).uniform_(-limit, limit)
                self.register_parameter(f"{name}_{layer}", nn.Parameter(weight))
            for name in ("b_ih", "b_hh"):
                self.register_parameter(f"{name}_{layer}", nn.Parameter(torch.zeros(tasks, directions, 3 * units, 1)))

    def forward(self, z: Tensor) -> Tensor:
        """z (T, B, I), one sequence for all tasks -> last states (B, N, H)."""
        both = torch.stack((z, z.flip(0)), dim=1).transpose(2, 3)  # (T, 2, I, B): both directions scan in one loop
        each = both.unsqueeze(1).expand(-1, self.tasks, -1, -1, -1)  # (T, N, 2, I, B)
        states = self._scan(each.flatten(1, 2), 0).unflatten(1, (self.tasks, 2))  # (T, N, 2, H, B)
        y = torch.cat((states[:, :, 0], states[:, :, 1].flip(0)), dim=2)  # (T, N, 2H, B)
        return self._scan(y, 1, last=True).permute(2, 0, 1)

    def _scan(self, x: Tensor, layer: int, last: bool = False) -> Tensor:
        w = [getattr(self, f"{name}_{layer}").flatten(0, 1) for name in ("w_hh", "w_ih", "b_hh", "b_ih")]
        (h, h_n), (i, i_n), (b_h, b_u), (b_i, b_n) = (w.split((2 * w.shape[1] // 3, w.shape[1] // 3), 1) for w in w)
        rows = (h, i, b_h + b_i), (h_n, torch.zeros_like(i_n), b_u), (torch.zeros_like(h_n), i_n, b_n)  # r, z | u | n
        return Scan.apply(x, torch.cat([torch.cat(row, 2) for row in rows], 1), last)


class SoftmaxLayer(nn.Module):
    """The N fully connected softmax layers of a module (Eq. 1), as one kernel of S rows; gives padded logits.

    ``shared``: every task reads the same vector (B, F); else task n reads row n of (B, N, H).
    """

    def __init__(self, tasks: Tasks, inputs: int, shared: bool):
        super().__init__()
        self.shared = shared
        self.kernel = nn.Parameter(torch.randn(tasks.total, inputs) * math.sqrt(2 / inputs))  # He normal
        self.bias = nn.Parameter(torch.zeros(tasks.total))
        task_of_class = [n for n, size in enumerate(tasks.sizes) for _ in range(size)]
        starts = [sum(tasks.sizes[:n]) for n in range(len(tasks))]
        pad = [[a + k if k < size else tasks.total for k in range(tasks.largest)]
               for a, size in zip(starts, tasks.sizes, strict=True)]  # fmt: skip
        self.register_buffer("task_of_class", torch.tensor(task_of_class), persistent=False)
        self.register_buffer("pad", torch.tensor(pad), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, F) or (B, N, H) -> logits (B, N, Kmax), -inf where a task has no such class."""
        if self.shared:
            flat = F.linear(x, self.kernel, self.bias)
        else:
            flat = (x[:, self.task_of_class] * self.kernel).sum(-1) + self.bias  # (B, S)
        return F.pad(flat, (0, 1), value=-math.inf)[:, self.pad]


class MultitaskModel(nn.Module):
    """MTC-LIM (Fig. 5) and its reduced variants: one backbone, the modules and the feature vector of ``variant``.

    ``detach`` stops gradients through the interim probabilities (a control: the paper lets them flow).
    """

    def __init__(self, variant: str, tasks: Tasks, backbone: nn.Module, clim_units: int, tlim_units: int, detach: bool):
        super().__init__()
        self.variant, self.tasks = variant, tasks
        self.detach = detach or VARIANT_TABLE[variant].interim == "detached"
        self.modules_used, self.features_used = VARIANT_TABLE[variant].modules, VARIANT_TABLE[variant].features
        self.backbone = backbone
        image_features = getattr(backbone, "head_hidden_size", None) or backbone.num_features
        self.bl = SoftmaxLayer(tasks, image_features, shared=True)
        width = {"x_bl": image_features, "x_clim": len(tasks) * clim_units, "x_tlim": len(tasks) * tlim_units}
        for name, inputs, units in (("clim", 1, clim_units), ("tlim", tasks.largest, tlim_units)):
            if name in self.modules_used:
                rnn, head = StackedGRU(len(tasks), inputs, units), SoftmaxLayer(tasks, units, shared=False)
                self.add_module(name, nn.ModuleDict({"rnn": rnn, "head": head}))
        if "fc" in self.modules_used:
            total = sum(width.get(feature, tasks.total) for feature in self.features_used)
            self.fc = SoftmaxLayer(tasks, total, shared=True)
        valid = [[k < size for k in range(tasks.largest)] for size in tasks.sizes]
        self.register_buffer("valid", torch.tensor(valid), persistent=False)  # (N, Kmax)

    def forward(self, images: Tensor) -> Output:
        """images (B, 3, H, W), float, normalised."""
        return self.classify(self.features(images))

    def features(self, images: Tensor) -> Tensor:
        """x_BL, the pooled image features (B, F), in float32 or wider whatever the autocast."""
        x = self.backbone(images)
        if x.ndim != 2 or x.shape[1] != self.bl.kernel.shape[1]:
            raise ValueError(
                f"backbone: gave features of shape {tuple(x.shape)}; expected (B, {self.bl.kernel.shape[1]}), one pooled "
                "vector an image. Choose a timm backbone with global pooling."
            )
        return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x

    def classify(self, x: Tensor, interim: Mapping[str, Tensor] | None = None) -> Output:
        """All modules from the image features x (B, F) on.

        ``interim`` (task -> (B, K_n)) takes the place of BL's probabilities for those tasks: what would the final
        answer be if BL had said so?
        """
        with torch.autocast(x.device.type, enabled=False):  # the recurrences are tiny and want float32
            logits = {"bl": self.bl(x)}
            p = {"bl": self._set(logits["bl"].softmax(-1), interim)}
            source = p["bl"].detach() if self.detach else p["bl"]
            flat = {"p_bl": source[:, self.valid]}  # (B, S)
            vectors = {"x_bl": x}
            for name, z in (("clim", flat["p_bl"].T.unsqueeze(-1)), ("tlim", source.transpose(0, 1))):
                if name in self.modules_used:
                    states = self.get_submodule(name)["rnn"](z)  # z: clim (S, B, 1), tlim (N, B, Kmax)
                    logits[name] = self.get_submodule(name)["head"](states)
                    p[name] = logits[name].softmax(-1)
                    flat[f"p_{name}"] = (p[name].detach() if self.detach else p[name])[:, self.valid]
                    vectors[f"x_{name}"] = states.flatten(1)
            if "fc" in self.modules_used:
                vectors |= flat
                logits["fc"] = self.fc(torch.cat([vectors[name] for name in self.features_used], dim=1))
                p["fc"] = logits["fc"].softmax(-1)
        final = list(p)[-1]
        interim_names = [name for name in p if name != "fc"] if "fc" in p else []
        return Output(logits, self._split(p[final]), {name: self._split(p[name]) for name in interim_names})

    def final(self, x: Tensor, interim: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Final probabilities (task -> (B, K_n)) given image features (B, F) and BL's probabilities of some tasks."""
        return self.classify(x, interim).probabilities

    def losses(self, out: Output, targets: Tensor) -> Tensor:
        """Cross-entropy of each supervised module and task (M, N): the mean over annotated rows, 0 where there is none.

        targets (B, N) int64, -1 = not annotated. Their sum is the objective (Eq. 14 and section 2.3.6).
        """
        annotated = targets >= 0
        log_p = torch.stack(list(out.logits.values())).log_softmax(-1)  # (M, B, N, Kmax)
        index = targets.clamp(min=0).expand(len(log_p), -1, -1).unsqueeze(-1)
        nll = -log_p.gather(-1, index).squeeze(-1) * annotated
        return nll.sum(1) / annotated.sum(0).clamp(min=1)

    def loss(self, out: Output, targets: Tensor) -> Tensor:
        """The sum over supervised modules and tasks of cross-entropy, without the L2 term."""
        return self.losses(out, targets).sum()

    def softmax_kernels(self) -> list[nn.Parameter]:
        """The kernels that L2 regularisation applies to (section 3): those of the softmax layers."""
        return [module.kernel for module in self.modules() if isinstance(module, SoftmaxLayer)]

    def parameters_count(self) -> int:
        """Trainable parameters (Table 1)."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    def _set(self, p: Tensor, interim: Mapping[str, Tensor] | None) -> Tensor:
        if not interim:
            return p
        rows = [F.pad(interim[t], (0, p.shape[-1] - size)) if t in interim else p[:, n]
                for n, (t, size) in enumerate(zip(self.tasks, self.tasks.sizes, strict=True))]  # fmt: skip
        return torch.stack(rows, dim=1)

    def _split(self, p: Tensor) -> dict[str, Tensor]:
        return {t: p[:, n, :size] for n, (t, size) in enumerate(zip(self.tasks, self.tasks.sizes, strict=True))}


class SingleTaskModel(nn.Module):
    """STC: N separately trained networks, one a task, held in one module for loading and prediction."""

    variant = "stc"

    def __init__(self, tasks: Tasks, networks: list[MultitaskModel]):
        super().__init__()
        self.tasks, self.networks = tasks, nn.ModuleList(networks)

    def forward(self, images: Tensor) -> Output:
        """images (B, 3, H, W), float, normalised."""
        outs = [network(images) for network in self.networks]
        padded = [
            F.pad(out.logits["bl"], (0, self.tasks.largest - out.logits["bl"].shape[-1]), value=-math.inf)
            for out in outs
        ]
        return Output(
            {"stc": torch.cat(padded, dim=1)}, {t: p for out in outs for t, p in out.probabilities.items()}, {}
        )

    losses = MultitaskModel.losses
    loss = MultitaskModel.loss
    softmax_kernels = MultitaskModel.softmax_kernels
    parameters_count = MultitaskModel.parameters_count


def create_model(variant: str, tasks: Tasks, backbone: str = "densenet121", pretrained: bool = False,
                 weights: str | Path | None = None, clim_units: int = 32, tlim_units: int = 12,
                 detach: bool = False) -> MultitaskModel | SingleTaskModel:  # fmt: skip
    """A variant of Table 2 (or a control) over any timm backbone that yields a pooled feature vector.

    ``pretrained`` downloads timm's weights for ``backbone`` (whose tag says which); ``weights`` is a local safetensors
    file of the backbone instead. The model carries ``.mean`` and ``.std`` of the backbone's ``pretrained_cfg``.

    >>> model = create_model("lim_ms_all", Tasks({"roof": "FGM", "height": "12"}), backbone="test_resnet")
    >>> out = model(torch.zeros(2, 3, 64, 64))
    >>> out.probabilities["roof"].shape, list(out.interim)
    (torch.Size([2, 3]), ['bl', 'clim', 'tlim'])

    Raises ValueError for an unknown variant or backbone, and RuntimeError where pretrained weights can't be had.
    """
    if variant not in VARIANT_TABLE:
        raise ValueError(f"variant: found {variant!r}; expected one of {', '.join(VARIANT_TABLE)}.")
    tasks = tasks if isinstance(tasks, Tasks) else Tasks(tasks)
    if variant == "stc":
        parts = [Tasks({task: names}) for task, names in tasks.items()]
        networks = [create_model("bl", part, backbone, pretrained, weights) for part in parts]
        model = SingleTaskModel(tasks, networks)
        config = networks[0].backbone.pretrained_cfg
    else:
        body = _backbone(backbone, pretrained, weights)
        model = MultitaskModel(variant, tasks, body, clim_units, tlim_units, detach)
        config = body.pretrained_cfg
    model.mean, model.std = list(config["mean"]), list(config["std"])
    return model


def _backbone(name: str, pretrained: bool, weights: str | Path | None) -> nn.Module:
    if not timm.is_model(name):
        close = ", ".join(timm.list_models(f"*{name.split('.')[0][:8]}*")[:8]) or "densenet121, tf_efficientnetv2_b3"
        raise ValueError(
            f"backbone: found {name!r}, which timm {timm.__version__} does not know; expected for example {close}."
        )
    if weights:
        body = timm.create_model(name, num_classes=0)
        missing = body.load_state_dict(load_file(weights), strict=False).missing_keys
        if missing:
            raise ValueError(
                f"{weights}: lacks {len(missing)} tensors of {name}, the first {missing[:3]}; expected its timm weights."
            )
        return body
    try:
        return timm.create_model(name, pretrained=pretrained, num_classes=0)
    except Exception as error:
        if not pretrained:
            raise
        raise RuntimeError(
            f"pretrained weights of {name} could not be had ({type(error).__name__}: {error}). Connect to the network once (they "
            "are then cached), or set `weights` to a local safetensors file of them, or `pretrained: false` to start at random."
        ) from error
