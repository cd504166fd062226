"""The twelve variants of Table 2, defined once: modules, classification feature vectors and losses."""

from dataclasses import dataclass

LOSSES = {"bl": "L1", "clim": "L2", "tlim": "L3", "fc": "L4"}
"""The supervised modules and the names of their losses (Fig. 5)."""


@dataclass(frozen=True)
class Variant:
    """One row of Table 2: the modules employed, the classification feature vector, the supervised losses."""

    modules: tuple[str, ...]
    features: tuple[str, ...]
    losses: tuple[str, ...]


def _variant(recurrent: str = "", stacked: str = "") -> Variant:
    """A multitask variant from its recurrent modules ("clim tlim") and the modules whose probabilities it stacks."""
    names = recurrent.split()
    modules = ("bl", *names, "fc")
    features = ("x_bl", *(f"x_{name}" for name in names), *(f"p_{name}" for name in stacked.split()))
    return Variant(modules, features, tuple(loss for name, loss in LOSSES.items() if name in modules))


VARIANT_TABLE = {
    "stc": Variant((), ("x_stc",), ("L_STC",)),
    "bl": Variant(("bl",), ("x_bl",), ("L1",)),
    "bl_ms": _variant("", "bl"),
    "clim": _variant("clim"),
    "clim_ms_bl": _variant("clim", "bl"),
    "clim_ms_all": _variant("clim", "bl clim"),
    "tlim": _variant("tlim"),
    "tlim_ms_bl": _variant("tlim", "bl"),
    "tlim_ms_all": _variant("tlim", "bl tlim"),
    "lim": _variant("clim tlim"),
    "lim_ms_bl": _variant("clim tlim", "bl"),
    "lim_ms_all": _variant("clim tlim", "bl clim tlim"),
    "bl_fc": _variant(),
}
"""Table 2 and, last, the control ``bl_fc``: the FC module on the image features alone, with its extra loss."""

CONTROLS = ("bl_fc",)
VARIANTS = tuple(name for name in VARIANT_TABLE if name not in CONTROLS)
"""The twelve names, in Table 2's order."""


def title(variant: str) -> str:
    """A variant's name as the paper prints it: "clim_ms_all" -> "CLIM-MS_ALL"; a control's "-detach" -> " detached"."""
    name, _, detached = variant.partition("-")
    return name.upper().replace("_MS", "-MS").replace("BL_FC", "BL-FC") + (" detached" if detached else "")
