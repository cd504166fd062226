"""mtclim: deep multitask learning with label interdependency modelling for street-level images.

A reproducible study of Aravena Pelizari, Geiss, Groth and Taubenboeck (ISPRS J. 204, 2023) and the small library
behind it. Names are imported on first use, so that drawing façades or reading a table does not import torch.
"""

from importlib import import_module

__version__ = "0.1.0"

_HOME = {
    "Tasks": "tasks",
    "SANTIAGO": "tasks",
    "Table": "data.table",
    "TableError": "data.table",
    "read_table": "data.table",
    "cooccurrence": "data.labels",
    "lprus": "data.labels",
    "partition": "data.labels",
    "VARIANTS": "variants",
    "create_model": "model",
    "Config": "config",
    "load_config": "config",
    "fit": "training",
    "load": "runs",
    "delta_m": "analysis.comparison",
    "predict": "mapping.predict",
}

__all__ = sorted([*_HOME, "city"])


def __getattr__(name: str):
    if name == "city":
        return import_module("mtclim.city")
    if name not in _HOME:
        raise AttributeError(f"module 'mtclim' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(f"mtclim.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
