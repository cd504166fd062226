"""Rows 1 and 6: CLIM + TLIM against one stack of torch.nn.GRU per task and module, and how they grow with the tasks."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from benchmarks.common import DEVICE, GPU, in_turn, row
from mtclim.machine import cores
from mtclim.model import StackedGRU
from mtclim.tasks import SANTIAGO

CLIM, TLIM = 32, 12  # units


class PlainStacks(nn.Module):
    """The plain way: a torch.nn.GRU stack a task, one after another, with the weights of ``ours``."""

    def __init__(self, ours: StackedGRU):
        super().__init__()
        units, width = ours.units, ours.w_z_0.shape[-1]
        self.first = nn.ModuleList(nn.GRU(width, units, bidirectional=True) for _ in range(ours.tasks))
        self.second = nn.ModuleList(nn.GRU(2 * units, units) for _ in range(ours.tasks))
        names = {"w_z": "weight_ih", "w_h": "weight_hh", "b_z": "bias_ih", "b_h": "bias_hh"}
        for layer, stack in enumerate((self.first, self.second)):
            for n, gru in enumerate(stack):
                for direction in range(2 - layer):
                    for mine, theirs in names.items():
                        target = getattr(gru, f"{theirs}_l0{'_reverse' * direction}")
                        u, r, c = getattr(ours, f"{mine}_{layer}")[n, direction].detach().chunk(3)
                        target.data.copy_(torch.cat((r, -u, c)).reshape(target.shape))  # torch's z is 1 - u

    def forward(self, z: Tensor) -> Tensor:
        """z (T, 1, B, I) -> last states (B, N, H)."""
        return torch.stack([b(a(z[:, 0])[0])[0][-1] for a, b in zip(self.first, self.second, strict=True)], 1)


def pair(tasks: int, classes: int, largest: int, batch: int) -> tuple[list[nn.Module], list[Tensor]]:
    """CLIM's and TLIM's recurrent networks for so many tasks and classes, and sequences for them."""
    modules = [StackedGRU(tasks, 1, CLIM).to(DEVICE), StackedGRU(tasks, largest, TLIM).to(DEVICE)]
    shapes = (classes, 1, batch, 1), (tasks, 1, batch, largest)
    return modules, [torch.rand(shape, device=DEVICE, requires_grad=True) for shape in shapes]


def step(modules: list[nn.Module], sequences: list[Tensor]):
    """Forward and backward of both modules, as a call."""
    return lambda: sum(m(z).square().sum() for m, z in zip(modules, sequences, strict=True)).backward()


def run(quick: bool) -> Iterator[dict]:
    """Rows 1 (on all threads) and 6 (on one thread on a CPU, where small products spin)."""
    torch.manual_seed(0)
    torch.set_num_threads(cores())
    for batch, target in ((24, 0.35), (256, 0.7)):
        ours, sequences = pair(len(SANTIAGO), SANTIAGO.total, SANTIAGO.largest, batch)
        plain = [PlainStacks(module).to(DEVICE) for module in ours]
        for a, b, z in zip(ours, plain, sequences, strict=True):
            torch.testing.assert_close(a(z), b(z), rtol=1e-4, atol=1e-4)
        count = max(5, (7 if quick else 25) * 24 // batch)
        t = in_turn({"ours": step(ours, sequences), "plain": step(plain, sequences)}, count)
        what, against = (
            f"CLIM + TLIM forward and backward, 5 tasks, batch {batch}",
            "a torch.nn.GRU stack a task, module",
        )
        yield row(1, what, against, t["ours"] / t["plain"], 0.15 if GPU else target, t["ours"])
    torch.set_num_threads(1)
    numbers = (5, 10, 20, 40)
    t = in_turn({n: step(*pair(n, 7 * n, 7, 24)) for n in numbers}, 3 if quick else 5, warm=1)
    for n in numbers[1:]:
        what, target = f"CLIM + TLIM step, {n} tasks of 7 classes, batch 24", 16 if GPU else 64
        yield row(6, what, "5 tasks", t[n] / t[5], target if n == 40 else None, t[n])
