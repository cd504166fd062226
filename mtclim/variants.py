"""The twelve variants of Table 2, the controls and the rivals: every network of the study, defined once."""

from collections.abc import Iterable
from dataclasses import dataclass

LOSSES = {"bl": "L1", "clim": "L2", "tlim": "L3", "fc": "L4"}
"""The supervised modules and the names of their losses (Fig. 5)."""


@dataclass(frozen=True)
class Variant:
    """One row of Table 2: the modules, the classification feature vector, and what differs from the paper.

    Attributes
    ----------
    modules : The supervised modules, in order.
    features : The parts of the classification feature vector, in order.
    interim : Which interim probabilities the later modules read: "all" (the paper's), "detached" (all, without a
        gradient through them), "own" (task n's classifiers read task n's alone) or "shuffled" (those of the other tasks
        come from another image of the batch).
    network : The class that builds it, as "module:class".
    """

    modules: tuple[str, ...]
    features: tuple[str, ...]
    interim: str = "all"
    network: str = "mtclim.model:MultitaskModel"

    @property
    def losses(self) -> tuple[str, ...]:
        """The names of the supervised losses, as Table 2 lists them."""
        return tuple(LOSSES.get(module, f"L_{module.upper()}") for module in self.modules) or ("L_STC",)


def _variant(recurrent: str = "", stacked: str = "", **different) -> Variant:
    """A variant with the FC module, from its recurrent modules and the modules whose probabilities it stacks."""
    names = recurrent.split()
    features = ("x_bl", *(f"x_{name}" for name in names), *(f"p_{name}" for name in stacked.split()))
    return Variant(("bl", *names, "fc"), features, **different)


_LIM_MS_ALL = ("clim tlim", "bl clim tlim")

VARIANT_TABLE = {
    "stc": Variant((), ("x_stc",), network="mtclim.model:SingleTaskModel"),
    "bl": Variant(("bl",), ("x_bl",)),
    "bl_ms": _variant("", "bl"),
    "clim": _variant("clim"),
    "clim_ms_bl": _variant("clim", "bl"),
    "clim_ms_all": _variant("clim", "bl clim"),
    "tlim": _variant("tlim"),
    "tlim_ms_bl": _variant("tlim", "bl"),
    "tlim_ms_all": _variant("tlim", "bl tlim"),
    "lim": _variant("clim tlim"),
    "lim_ms_bl": _variant("clim tlim", "bl"),
    "lim_ms_all": _variant(*_LIM_MS_ALL),
    "bl_fc": _variant(),
    "lim_ms_all-detach": _variant(*_LIM_MS_ALL, interim="detached"),
    "lim_ms_all-own": _variant(*_LIM_MS_ALL, interim="own"),
    "lim_ms_all-shuffled": _variant(*_LIM_MS_ALL, interim="shuffled"),
    "bl-weighted": Variant(("bl",), ("x_bl",), network="mtclim.rivals:Weighted"),
    "lim_ms_all-weighted": _variant(*_LIM_MS_ALL, network="mtclim.rivals:Weighted"),
    "chain": Variant(("chain",), ("x_bl", "p_chain"), network="mtclim.rivals:Chain"),
    "chain-random": Variant(("chain",), ("x_bl", "p_chain"), network="mtclim.rivals:Chain"),
    "powerset": Variant(("powerset",), ("x_bl",), network="mtclim.rivals:Powerset"),
    "lim_ms_all-attention": _variant(*_LIM_MS_ALL, network="mtclim.rivals:Attention"),
    "pad": Variant(("bl", "fc"), ("x_pad",), network="mtclim.rivals:Pad"),
}
"""Table 2, then the controls, then the rivals."""

CONTROLS = ("bl_fc", "lim_ms_all-detach", "lim_ms_all-own", "lim_ms_all-shuffled")
"""Networks that tell what a gain comes from: the FC module without any label information, and LIM-MS_ALL whose
interim probabilities carry no gradient, only a task's own, or another image's."""

RIVALS = ("bl-weighted", "lim_ms_all-weighted", "chain", "chain-random", "powerset", "lim_ms_all-attention", "pad")
"""Other ways to learn dependent tasks, on the same backbone (sections 1.3 and 1.4; ``mtclim.rivals``)."""

VARIANTS = tuple(name for name in VARIANT_TABLE if name not in CONTROLS + RIVALS)
"""The twelve names, in Table 2's order."""

_ENDINGS = {
    "detach": "detached",
    "own": "own task only",
    "shuffled": "shuffled",
    "weighted": "uncertainty weighting",
    "attention": "attention",
    "random": "random order",
}
_RIVAL_TITLES = {"chain": "Classifier chain", "powerset": "Label powerset", "pad": "PAD"}


def title(name: str) -> str:
    """A variant's name as the paper prints it, and a readable one for controls and rivals.

    >>> title("clim_ms_all"), title("lim_ms_all-detach"), title("chain-random")
    ('CLIM-MS_ALL', 'LIM-MS_ALL, detached', 'Classifier chain, random order')
    """
    base, _, ending = name.partition("-")
    words = _RIVAL_TITLES.get(base) or base.upper().replace("_MS", "-MS").replace("BL_FC", "BL-FC")
    return f"{words}, {_ENDINGS.get(ending, ending)}" if ending else words


def ordered(names: Iterable[str]) -> list[str]:
    """The names, each once, in Table 2's order, then the controls, then the rivals, then any other name."""
    rank = {name: position for position, name in enumerate(VARIANT_TABLE)}
    return sorted(set(names), key=lambda name: (rank.get(name, len(rank)), name))
