"""One way in for configuration: a YAML preset, overridden by the parameters of a notebook or a command line."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from numbers import Real
from pathlib import Path
from typing import Any

import yaml

from mtclim.variants import VARIANT_TABLE

LAYER = "|layername="
"""What stands between a path and the name of one of the file's layers, as QGIS writes it."""


@dataclass(frozen=True)
class Config:
    """Every setting of a run, flat. ``presets/paper.yaml`` says where each stands in the paper.

    ``data`` is "city" or a table of images, ``tasks`` a YAML, ``image_root`` the folder that the images are relative
    to, ``out`` the run folder; "" and None stand for the default.
    """

    name: str = "custom"
    variant: str = "lim_ms_all"
    backbone: str = "densenet121"
    seed: int = 0
    data: str = "city"
    tasks: str = ""
    out: str = ""
    # the table
    image_root: str = ""
    na_values: list | None = None
    use_split: bool = True
    # images and weights
    image_size: int = 224  # pixels; 0 = 128 on a CPU, 224 on a GPU
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
    block_cell: float = 500.0  # metres
    # model
    clim_units: int = 32
    tlim_units: int = 12
    order_seed: int = 0  # 0 = the table's order of tasks and classes, else a random one
    # optimisation
    batch_size: int = 24
    learning_rate: float = 1e-4
    new_layers_factor: float = 1.0
    frozen_epochs: int = 0
    class_weights: str | Mapping = ""  # "", "balanced", or task -> {class: weight}
    l2: float = 1e-4
    lr_factor: float = 0.5
    lr_patience: int = 3  # epochs
    stop_patience: int = 8  # epochs
    max_epochs: int = 100
    precision: str = "auto"
    threads: int = 0  # 0 = all cores
    # the embedded synthetic city
    city_facades: int = 204_030
    city_labelled: int = 29_567
    city_size: int = 300
    city_seed: int = 0
    interdependency: float = 1.0
    ambiguity: float = 0.3
    missing: float = 0.0
    noise: float = 0.0
    study: Mapping = field(default_factory=dict, compare=False)

    @property
    def timm_name(self) -> str:
        """The backbone as timm names it, with the tag of its weights."""
        return f"{self.backbone}.{self.tag}" if self.tag else self.backbone

    @property
    def synthetic(self) -> bool:
        """Whether the photographs are drawn, so that every result can say so."""
        return self.data == "city" or (resolve(self.data).parent / "city.json").exists()


RANGES = {
    "seed": "[0, 4294967295]", "split_seed": "[0, 4294967295]", "order_seed": "[0, 4294967295]",
    "image_size": "0 or [32, 4096]", "max_unreadable": "[0, 1]", "block_cell": "(0, inf)",
    "keep": "(0, 1]", "train_share": "(0, 1)", "val_share": "(0, 1)", "test_share": "(0, 1)",
    "clim_units": "[1, 4096]", "tlim_units": "[1, 4096]", "batch_size": "[2, inf)", "learning_rate": "(0, inf)",
    "new_layers_factor": "(0, inf)", "frozen_epochs": "[0, inf)", "l2": "[0, inf)", "lr_factor": "(0, 1)",
    "lr_patience": "[0, inf)", "stop_patience": "[0, inf)", "max_epochs": "[1, inf)", "threads": "[0, 4096]",
    "city_facades": "[1, inf)", "city_labelled": "[1, inf)", "city_size": "[64, 300]", "city_seed": "[0, 4294967295]",
    "interdependency": "[0, 1]", "ambiguity": "[0, 1]", "missing": "[0, 1)", "noise": "[0, 1]",
}  # fmt: skip
"""What each number may be: "[" and "]" include the bound, "(" and ")" leave it out."""


def project_root() -> Path:
    """The nearest folder from the working directory up with ``notebooks/train.ipynb``, else the package's checkout.

    For an installed package it is the working directory.
    """
    for folder in (Path.cwd(), *Path.cwd().parents, Path(__file__).resolve().parents[1]):
        if (folder / "notebooks" / "train.ipynb").is_file():
            return folder
    return Path.cwd()


def resolve(path: str | Path) -> Path:
    """A path as given if it is there, else the same below the project's root (notebooks run in their own folder)."""
    path = Path(path).expanduser()
    return path if path.is_absolute() or Path(str(path).split(LAYER)[0]).exists() else project_root() / path


def presets() -> dict[str, Path]:
    """Name -> file of the presets: the package's own, and those in the project's folder ``configs``, which go first."""
    folders = (Path(__file__).parent / "presets", project_root() / "configs")
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.yaml"))}


def load_config(preset: str | Path = "", overrides: Mapping[str, Any] | str | None = None, **named: Any) -> Config:
    """The preset with every override that is neither None nor "".

    Parameters
    ----------
    preset : A name among ``presets()`` or the path of a YAML file; "" means ``demo`` for the city and ``photos`` for a
        table of one's own.
    overrides : A mapping, or the text of one in YAML, as a notebook's parameter brings it.
    **named : Single settings. A backbone listed in the preset's study brings its own tag and image size.

    Raises
    ------
    ValueError
        Names every setting that is unknown, of another type or outside its range, what was found and what is expected.

    >>> load_config("demo", "{max_epochs: 3}", variant="bl", seed=3).seed
    3
    """
    more = _mapping(overrides, "overrides") if overrides and isinstance(overrides, str) else overrides or {}
    more, named = ({n: v for n, v in each.items() if v is not None and v != ""} for each in (more, named))
    twice = [f"{n} ({named[n]!r} and {more[n]!r})" for n in more if n in named and more[n] != named[n]]
    if twice:
        raise ValueError(f"overrides: {', '.join(twice)} given twice; set it by its own parameter alone.")
    given = named | more
    known = presets()
    preset = str(preset) or ("demo" if given.get("data", "city") == "city" else "photos")
    path = known.get(preset) or resolve(preset)
    if not path.is_file():
        raise ValueError(f"config: found {preset!r}; expected one of {', '.join(known)}, or the path of a YAML file.")
    settings = _mapping(path.read_text(encoding="utf-8"), str(path))
    study = settings.get("study") or {}
    backbones = study.get("backbones") or {} if isinstance(study, dict) else {}
    other = {"tag": ""} if "backbone" in given else {}
    chosen = backbones.get(given.get("backbone", settings.get("backbone")), other) or {}
    settings = {n: v for n, v in ({"name": path.stem} | settings | chosen | given).items() if v is not None}
    types = {f.name: f.type for f in fields(Config)}
    unknown = sorted(map(str, set(settings) - set(types)))
    if unknown:
        raise ValueError(f"config: unknown setting {', '.join(unknown)}; expected one of {', '.join(types)}.")
    config = Config(**{name: _plain(name, _typed(name, value, types[name])) for name, value in settings.items()})
    if problems := _problems(config):
        raise ValueError(" ".join(problems))
    return config


def _mapping(text: str, where: str) -> dict[str, Any]:
    """A YAML mapping, or ValueError that says where it is none."""
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError as error:
        found = " ".join(str(error).split())
    if not isinstance(found, dict):
        raise ValueError(f"{where}: found {found!s:.200}; expected a YAML mapping, such as {{max_epochs: 3}}.")
    return found


def _typed(name: str, value: Any, kind: Any) -> Any:
    """The value as its field's type: notebook parameters and command lines bring strings."""
    try:
        if kind is int and (isinstance(value, bool) or float(value) != int(value)):
            raise ValueError
        if kind in (int, float, str):
            return kind(value)
        value = yaml.safe_load(value) if isinstance(value, str) and value else value
        if not isinstance(value, kind):
            raise ValueError
        return value
    except (ValueError, TypeError, OverflowError, yaml.YAMLError):
        expected = {Mapping: "a mapping", str | Mapping: "balanced or a mapping", list | None: "a list"}
        expected = expected.get(kind) or kind.__name__
        raise ValueError(f"config: {name} is {value!r}; expected {expected}.") from None


def _plain(name: str, value: Any) -> Any:
    """A list as texts, and class weights as numbers by task and class, as a run can write them down."""
    if isinstance(value, list):
        words = [entry for entry in value if entry is None or isinstance(entry, bool)]
        if words:
            made = f"found {words[0]!r}, which YAML makes of a word such as {'NULL' if words[0] is None else 'no'}"
            raise ValueError(f"config: {name}: {made}; put the word in quotes.")
        return [str(entry) for entry in value]
    if name == "class_weights" and _are_weights(value):
        return {str(task): {str(c): float(w) for c, w in by_class.items()} for task, by_class in value.items()}
    return value


def _problems(config: Config) -> list[str]:
    """One sentence for each setting that cannot work."""
    c = config
    values = {name: getattr(c, name) for name in RANGES}
    wrong = [(n, values[n], f"a number in {bounds}") for n, bounds in RANGES.items() if not _within(values[n], bounds)]
    for name, known in (("variant", VARIANT_TABLE), ("precision", ("auto", "32-true", "16-mixed", "bf16-mixed"))):
        if getattr(c, name) not in known:
            wrong.append((name, getattr(c, name), f"one of {', '.join(known)}"))
    if abs(c.train_share + c.val_share + c.test_share - 1) > 1e-6:
        shares = c.train_share, c.val_share, c.test_share
        wrong.append(("train_share, val_share and test_share", shares, "three shares whose sum is 1"))
    if c.city_labelled > c.city_facades:
        wrong.append(("city_labelled", c.city_labelled, f"at most city_facades, {c.city_facades}"))
    if c.class_weights not in ("", "balanced") and not _are_weights(c.class_weights):
        wrong.append(("class_weights", c.class_weights, "balanced, or a mapping task -> {class: a weight above 0}"))
    for name, is_there in (("weights", Path.is_file), ("tasks", Path.is_file), ("image_root", Path.is_dir)):
        if (path := getattr(c, name)) and not is_there(resolve(path)):
            wrong.append((name, path, "the path of a file or folder that is there"))
    if c.out.rstrip("/").endswith(".partial"):
        wrong.append(("out", c.out, "another name: .partial marks a run that is not finished"))
    if not c.backbone.strip():
        wrong.append(("backbone", c.backbone, "a timm backbone, such as densenet121"))
    return [f"{name}: found {value!r}; expected {expected}." for name, value, expected in wrong]


def _within(value: float, bounds: str) -> bool:
    low, high = map(float, bounds.removeprefix("0 or ").strip("()[]").split(", "))
    above = value >= low if "[" in bounds else value > low
    below = value <= high if "]" in bounds else value < high
    return (above and below) or (value == 0 and bounds.startswith("0 or "))


def _are_weights(weights: Any) -> bool:
    """Whether these are positive numbers by task and class."""
    by_class = list(weights.values()) if isinstance(weights, Mapping) else [None]
    if not all(isinstance(each, Mapping) for each in by_class):
        return False
    return all(isinstance(w, Real) and 0 < w < float("inf") for each in by_class for w in each.values())


def run_folder(config: Config) -> Path:
    """Where the run lands: ``out``, else ``runs/<preset>[-<table>-<8 hex>]/<backbone>/<variant>/seed-<k>``.

    The hexadecimal digits are a digest of the table's resolved path and bytes, so that no two tables share runs.
    """
    if config.out:
        return Path(config.out).expanduser().absolute()
    name = config.name
    if config.data != "city":
        path = resolve(config.data).resolve()
        digest = hashlib.blake2b(str(path).encode("utf-8", "surrogateescape"), digest_size=4)
        file = Path(str(path).split(LAYER)[0])
        if file.is_file():  # where it is not, reading the table says so
            digest.update(file.read_bytes())
        stem = re.sub(r"[^\w-]+", "_", path.name.split(".")[0])  # braces mean something to papermill
        name += f"-{stem}-{digest.hexdigest()}"
    return project_root() / "runs" / name / config.backbone / config.variant / f"seed-{config.seed}"


def to_dict(config: Config) -> dict[str, Any]:
    """The settings that define a run, without where it lands."""
    return {name: value for name, value in asdict(config).items() if name not in ("out", "study")}
