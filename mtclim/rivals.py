"""The rivals: other ways to learn dependent tasks, on the same backbone, for a comparison (sections 1.3 and 1.4).

Each is a row of the table of variants, and gives what every model gives. Shapes as in ``mtclim.model``.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtclim.model import MultitaskModel, Output, SoftmaxLayer
from mtclim.tasks import Tasks


class Weighted(MultitaskModel):
    """Uncertainty weighting of the losses (Kendall, Gal and Cipolla, CVPR 2018) in BL or LIM-MS_ALL.

    Each supervised module and task has a learned log variance s. Its loss L becomes exp(-s) L + s / 2 (their Eq. 10,
    whose sigma^2 is exp(s)).
    """

    def __init__(self, variant: str, tasks: Tasks, backbone: nn.Module, units: Mapping[str, int]):
        super().__init__(variant, tasks, backbone, units)
        self.log_variances = nn.Parameter(torch.zeros(len(self.modules_used), len(tasks)))

    def losses(self, out: Output, targets: Tensor) -> Tensor:
        """The weighted losses (M, N), 0 where no row is annotated; they may be negative."""
        annotated = (targets >= 0).any(0)
        weighted = torch.exp(-self.log_variances) * super().losses(out, targets) + self.log_variances / 2
        return weighted * annotated


class Chain(MultitaskModel):
    """A classifier chain (Read, Pfahringer, Holmes and Frank, Machine Learning 85, 2011) on shared image features.

    Each task's softmax layer reads the features and the probabilities of the tasks before it. Gradients flow through
    these. ``order`` (N,) holds the positions of the tasks, first to last, and is saved with the weights.
    """

    takes = ("order",)

    def __init__(self, variant: str, tasks: Tasks, backbone: nn.Module, units: Mapping[str, int],
                 order: Sequence[str] | Sequence[int] | Tensor | None = None):  # fmt: skip
        super().__init__(variant, tasks, backbone, units)
        names = list(tasks)
        if order is None:
            order = torch.randperm(len(names)) if variant == "chain-random" else torch.arange(len(names))
        given = order.tolist() if isinstance(order, Tensor) else list(order)
        positions = [names.index(task) if task in names else task for task in given]
        if set(positions) != set(range(len(names))) or len(positions) > len(names):
            raise ValueError(f"order: found {given}; expected each of the tasks {names} once.")
        self.register_buffer("order", torch.tensor(positions))
        before = 0
        heads = {}
        for n in self.order.tolist():
            heads[n] = SoftmaxLayer(Tasks({names[n]: tasks[names[n]]}), self.image_features + before)
            before += tasks.sizes[n]
        self.heads = nn.ModuleList(heads[n] for n in range(len(names)))

    def classify(self, x: Tensor, interim: Mapping[str, Tensor] | None = None) -> Output:
        """The chain from the image features x (B, F) on; ``interim`` stands in for the answers of those tasks."""
        names = list(self.tasks)
        with torch.autocast(x.device.type, enabled=False):
            known, by_task = [x], {}
            for n in self.order.tolist():
                logits = self.heads[n](torch.cat(known, 1).unsqueeze(1))[:, 0]
                given = (interim or {}).get(names[n])
                known.append(logits.softmax(-1) if given is None else given)
                by_task[n] = F.pad(logits, (0, self.tasks.largest - logits.shape[1]), value=-math.inf)
            logits = torch.stack([by_task[n] for n in range(len(names))], 1)
        return self._output({"chain": logits}, {"chain": logits.softmax(-1)})


class Powerset(MultitaskModel):
    """Label powerset (Tsoumakas and Vlahavas, ECML 2007; Read et al., 2011): one softmax over the training labelsets.

    A task's probabilities are the sums over the labelsets that hold each class. Of a row with missing labels, the
    likelihood is the sum over the labelsets that fit the labels it has. A labelset that contradicts a label counts with
    a millionth of its weight, so that a row unlike all training rows has a finite loss. ``labelsets`` (L, N) are saved
    with the weights.
    """

    takes = ("labelsets",)
    contradiction = 1e-6

    def __init__(self, variant: str, tasks: Tasks, backbone: nn.Module, units: Mapping[str, int],
                 labelsets: np.ndarray | Tensor | None = None):  # fmt: skip
        super().__init__(variant, tasks, backbone, units)
        found = torch.as_tensor(np.empty((0, len(tasks))) if labelsets is None else labelsets).long()
        if found.ndim != 2 or found.shape[1] != len(tasks):
            raise ValueError(
                f"labelsets: found shape {tuple(found.shape)}; expected (L, {len(tasks)}) class positions."
            )
        if ((found < 0) | (found >= torch.tensor(tasks.sizes))).any():
            raise ValueError(f"labelsets: found positions that are no class; expected 0 to {tasks.sizes}, exclusive.")
        found = found.unique(dim=0)
        if len(found) < 2:
            raise ValueError(
                f"labelsets: found {len(found)} complete ones in the training rows; a label powerset needs two. "
                "Annotate more rows in all tasks, or choose another variant."
            )
        self.register_buffer("labelsets", found)
        self.head = SoftmaxLayer(Tasks({"labelset": map(str, range(len(found)))}), self.image_features)
        holds = found.unsqueeze(-1) == torch.arange(tasks.largest)  # (L, N, Kmax)
        self.register_buffer("fit", torch.where(holds, 1.0, self.contradiction), persistent=False)

    def classify(self, x: Tensor, interim: Mapping[str, Tensor] | None = None) -> Output:
        """Labelset probabilities from the image features x (B, F), and their sums by task and class."""
        with torch.autocast(x.device.type, enabled=False):
            joint = self.head(x.unsqueeze(1))[:, 0].log_softmax(-1)  # (B, L)
            sums = torch.einsum("bl,lnk->bnk", joint.exp(), self.fit.to(x.dtype))
            logits = sums.log().masked_fill(~self.valid, -math.inf)
        return replace(self._output({"powerset": logits}, {"powerset": logits.softmax(-1)}), joint=joint)

    def losses(self, out: Output, targets: Tensor) -> Tensor:
        """Minus the log likelihood of a row's labels, dealt out to the tasks by the chain rule: (1, N).

        The share of task n is -log P(y_n | y_1 ... y_{n-1}), so that the shares of a row add up to -log P(y_1 ... y_N).
        """
        agrees = (self.labelsets == targets.unsqueeze(1)) | (targets < 0).unsqueeze(1)  # (B, L, N)
        log_fit = torch.where(agrees, 0.0, math.log(self.contradiction)).cumsum(-1)
        log_p = (out.joint.unsqueeze(-1) + log_fit).logsumexp(1)  # (B, N): of the labels up to task n
        return self._mean(-log_p.diff(dim=1, prepend=torch.zeros_like(log_p[:, :1])).unsqueeze(0), targets)


class Encoder(nn.Module):
    """A transformer encoder layer in the place of ``StackedGRU`` (Vaswani et al., 2017), with about as many parameters.

    One token for each time step, the value's projection plus the step's learned identity, and one for each task, whose
    final state is projected to the task's representation. Nothing else tells the order of the steps.
    """

    heads = 4

    def __init__(self, tasks: int, steps: int, inputs: int, units: int):
        super().__init__()
        stacked = tasks * (2 * 3 * units * (inputs + units + 2) + 3 * units * (3 * units + 2))  # parameters of the GRUs
        each = 11 + inputs + 1 + steps + tasks + units  # the layer below has about 8 width^2 + each * width
        width = (math.sqrt(each**2 + 32 * stacked) - each) / 16
        width = max(1, round(width / self.heads)) * self.heads
        self.value = nn.Linear(inputs, width)
        self.identity = nn.Parameter(torch.randn(steps, width) * 0.02)
        self.query = nn.Parameter(torch.randn(tasks, width) * 0.02)
        self.layer = nn.TransformerEncoderLayer(
            width, self.heads, 2 * width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.representation = nn.Linear(width, units)

    def forward(self, z: Tensor) -> Tensor:
        """z (T, 1, B, I) -> representations (B, N, H)."""
        tokens = self.value(z[:, 0].transpose(0, 1)) + self.identity  # (B, T, width)
        queries = self.query.expand(len(tokens), -1, -1)
        states = self.layer(torch.cat((queries, tokens), 1))[:, : len(self.query)]
        return self.representation(states).tanh()  # in (-1, 1), as a GRU's states


class Attention(MultitaskModel):
    """LIM-MS_ALL with ``Encoder`` in the place of CLIM's and TLIM's GRUs."""

    def __init__(self, variant: str, tasks: Tasks, backbone: nn.Module, units: Mapping[str, int]):
        super().__init__(variant, tasks, backbone, units)
        self.clim["rnn"] = Encoder(len(tasks), tasks.total, 1, units["clim"])
        self.tlim["rnn"] = Encoder(len(tasks), len(tasks), tasks.largest, units["tlim"])


class Pad(MultitaskModel):
    """PAD-Net's distillation across tasks (Xu, Ouyang, Wang and Sebe, CVPR 2018), reduced to classification.

    Task n reads x + g_n * x. The gate g_n (B, F), between 0 and 1, is a softly attending function of the *other* tasks'
    interim probabilities, as the gate of PAD-Net's module C is of the other tasks' predictions.
    """

    def __init__(self, variant: str, tasks: Tasks, backbone: nn.Module, units: Mapping[str, int]):
        super().__init__(variant, tasks, backbone, units)
        if len(tasks) < 2:
            raise ValueError(f"{variant}: found one task, {tasks}; expected two or more, since each reads the others.")
        self.gates = nn.ModuleList(nn.Linear(tasks.total - size, self.image_features) for size in tasks.sizes)

    def classify(self, x: Tensor, interim: Mapping[str, Tensor] | None = None) -> Output:
        """BL, the gates and the final classifiers from the image features x (B, F) on."""
        with torch.autocast(x.device.type, enabled=False):
            logits = {"bl": self.bl(x.unsqueeze(1))}
            p = {"bl": self._set(logits["bl"].softmax(-1), interim)}
            by_task = [p["bl"][:, n, :size] for n, size in enumerate(self.tasks.sizes)]
            others = [torch.cat(by_task[:n] + by_task[n + 1 :], 1) for n in range(len(by_task))]
            g = torch.stack([gate(q).sigmoid() for gate, q in zip(self.gates, others, strict=True)], 1)  # (B, N, F)
            logits["fc"] = self.fc(x.unsqueeze(1) * (1 + g))
            p["fc"] = logits["fc"].softmax(-1)
        return self._output(logits, p)
