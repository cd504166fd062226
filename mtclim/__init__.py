"""mtclim: deep multitask learning with label interdependency modelling for street-level images.

A reproducible study of Aravena Pelizari, Geiss, Groth and Taubenboeck (ISPRS J. 204, 2023) and the small library
behind it. Names are imported on first use, so that drawing façades or reading a table does not import torch.
"""

from importlib import import_module

__version__ = "0.1.0"

_MODULES = {
    "tasks": ("Tasks", "SANTIAGO"),
    "data.table": ("Table", "TableError", "read_table"),
    "data.labels": ("cooccurrence", "lprus", "partition"),
    "variants": ("VARIANTS",),
    "model": ("create_model",),
    "config": ("Config", "load_config"),
    "training": ("fit",),
    "runs": ("load",),
    "analysis.comparison": ("delta_m",),
    "mapping.predict": ("predict",),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}
__all__ = sorted([*_HOME, "city"])


def __getattr__(name: str):
    if name == "city":
        return import_module("mtclim.city")
    if name not in _HOME:
        raise AttributeError(f"module 'mtclim' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(f"mtclim.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
