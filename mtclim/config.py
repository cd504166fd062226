"""One way in for configuration: a YAML preset, overridden by the parameters of a notebook or a command line."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from mtclim.variants import VARIANT_TABLE


@dataclass(frozen=True)
class Config:
    """Every setting of a run, flat. ``presets/paper.yaml`` says where each stands in the paper.

    Sizes are in pixels, ``block_cell`` in metres, patiences in epochs; ``data`` is "city" or the path of a table of
    images, ``tasks`` the path of a YAML of tasks, ``out`` the run folder, each "" for the default.
    """

    name: str = "custom"
    variant: str = "lim_ms_all"
    backbone: str = "densenet121"
    seed: int = 0
    data: str = "city"
    tasks: str = ""
    out: str = ""
    # images and weights
    image_size: int = 224
    tag: str = ""
    pretrained: bool = False
    weights: str = ""
    max_unreadable: float = 0.01
    # balancing and partition
    keep: float = 0.85
    train_share: float = 0.65
    val_share: float = 0.175
    test_share: float = 0.175
    split_seed: int = 0
    block_cell: float = 500.0
    # model
    clim_units: int = 32
    tlim_units: int = 12
    detach: bool = False
    # optimisation
    batch_size: int = 24
    learning_rate: float = 1e-4
    l2: float = 1e-4
    lr_factor: float = 0.5
    lr_patience: int = 3
    stop_patience: int = 8
    max_epochs: int = 100
    precision: str = "auto"
    threads: int = 0
    # the embedded synthetic city
    city_facades: int = 204_030
    city_labelled: int = 29_567
    city_size: int = 300
    city_seed: int = 0
    interdependency: float = 1.0
    ambiguity: float = 0.3
    missing: float = 0.0
    noise: float = 0.0
    study: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @property
    def timm_name(self) -> str:
        """The backbone as timm names it, with the tag of its weights."""
        return f"{self.backbone}.{self.tag}" if self.tag else self.backbone

    @property
    def synthetic(self) -> bool:
        """Whether the photographs are drawn, so that every result can say so."""
        return self.data == "city" or (resolve(self.data).parent / "city.json").exists()


def project_root() -> Path:
    """The study's folder: the nearest one above the working directory with ``notebooks/train.ipynb``.

    Elsewhere it is the checkout that the package runs from, and for an installed package the working directory.
    """
    for folder in (Path.cwd(), *Path.cwd().parents, Path(__file__).resolve().parents[1]):
        if (folder / "notebooks" / "train.ipynb").is_file():
            return folder
    return Path.cwd()


def resolve(path: str | Path) -> Path:
    """A path as given if it is there, else the same below the project's root (notebooks run in their own folder)."""
    path = Path(path).expanduser()
    return path if path.is_absolute() or path.exists() else project_root() / path


def presets() -> dict[str, Path]:
    """Name -> file of the presets: the package's own, and those in the project's folder ``mtclim/presets/``, which go first."""
    folders = (Path(__file__).parent / "presets", project_root() / "configs")
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.yaml"))}


def load_config(preset: str | Path = "demo", overrides: Mapping[str, Any] | str | None = None, **named: Any) -> Config:
    """The preset (a name in ``mtclim/presets/`` or the path of a YAML), with every override that is neither None nor "".

    ``overrides`` is a mapping, or the text of one in YAML as a notebook's parameter brings it. A backbone listed in the
    preset's study brings its own tag and image size. Unknown names raise ValueError that lists the valid ones.

    >>> load_config("demo", "{max_epochs: 3}", variant="bl", seed=3).seed
    3
    """
    known = presets()
    path = known.get(str(preset)) or resolve(preset)
    if not path.is_file():
        raise ValueError(
            f"config: found {str(preset)!r}; expected one of {', '.join(known)}, or the path of a YAML file."
        )
    settings = _mapping(path.read_text(encoding="utf-8"), str(path))
    more = _mapping(overrides, "overrides") if overrides and isinstance(overrides, str) else overrides or {}
    named = {name: value for name, value in named.items() if value is not None and value != ""}
    twice = [
        f"{name} ({named[name]!r} and {more[name]!r})" for name in more if name in named and more[name] != named[name]
    ]
    if twice:
        raise ValueError(f"overrides: {', '.join(twice)} given twice; set it by its own parameter alone.")
    given = named | {name: value for name, value in more.items() if value is not None and value != ""}
    study = settings.get("study") or {}
    backbones = study.get("backbones") or {} if isinstance(study, dict) else {}
    chosen = backbones.get(given.get("backbone", settings.get("backbone")), {"tag": ""})
    settings = {"name": path.stem} | settings | chosen | given
    types = {f.name: f.type for f in fields(Config)}
    unknown = sorted(map(str, set(settings) - set(types)))
    if unknown:
        raise ValueError(f"config: unknown setting {', '.join(unknown)}; expected one of {', '.join(types)}.")
    config = Config(**{name: _typed(name, value, types[name]) for name, value in settings.items()})
    _check(config)
    return config


def _mapping(text: str, where: str) -> dict[str, Any]:
    """A YAML mapping, or ValueError that says where it isn't one."""
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(
            f"{where}: not YAML ({' '.join(str(error).split())}); expected lines 'name: value'."
        ) from error
    if not isinstance(found, dict):
        raise ValueError(f"{where}: found {found!r:.60}; expected a YAML mapping, such as {{max_epochs: 3}}.")
    return found


def _typed(name: str, value: Any, kind: Any) -> Any:
    """The value as its field's type: notebook parameters and command lines bring strings."""
    if kind not in (int, float, bool, str):
        if not isinstance(value, Mapping):
            raise ValueError(f"config: {name} is {value!r}; expected a mapping.")
        return value
    try:
        if kind is bool and isinstance(value, str):
            return {"true": True, "false": False}[value.lower()]
        if kind is int and float(value) != int(value):
            raise ValueError
        return kind(value)
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"config: {name} is {value!r}; expected {kind.__name__}.") from None


def _check(config: Config) -> None:
    if config.variant not in VARIANT_TABLE:
        raise ValueError(f"variant: found {config.variant!r}; expected one of {', '.join(VARIANT_TABLE)}.")
    shares = config.train_share + config.val_share + config.test_share
    if abs(shares - 1) > 1e-6:
        raise ValueError(f"config: train_share, val_share and test_share add up to {shares:g}; expected 1.")
    positive = ("image_size", "batch_size", "max_epochs", "learning_rate", "clim_units", "tlim_units", "block_cell")
    wrong = [f"{name} = {getattr(config, name)}" for name in positive if not 0 < getattr(config, name) < math.inf]
    wrong += [f"{name} = {getattr(config, name)}" for name in ("keep", "ambiguity", "interdependency", "missing", "noise")
              if not 0 <= getattr(config, name) <= 1 or (name == "keep" and config.keep == 0)]  # fmt: skip
    if wrong:
        raise ValueError(
            f"config: {', '.join(wrong)} out of range; sizes and rates are positive, shares lie in [0, 1]."
        )


def run_folder(config: Config) -> Path:
    """Where the run lands: ``out``, else ``runs/<preset>[-<table>]/<backbone>/<variant>[-detach]/seed-<k>``."""
    if config.out:
        return Path(config.out).expanduser().absolute()
    table = "" if config.data == "city" else f"-{Path(config.data).stem}"
    variant = config.variant + ("-detach" if config.detach else "")
    return project_root() / "runs" / (config.name + table) / config.backbone / variant / f"seed-{config.seed}"


def to_dict(config: Config) -> dict[str, Any]:
    """The settings that define a run, without where it lands."""
    return {name: value for name, value in asdict(config).items() if name not in ("out", "study")}
