"""Run folders: whole or absent, locked while in work, resumed by repeating the command; and loading what they hold.

A run is worked on in ``<folder>.partial`` under the lock ``<folder>.lock`` and renamed to ``<folder>`` when everything
is written; the file ``COMPLETE`` in it was written last.
"""

import ast
import errno
import hashlib
import json
import os
import platform
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from mtclim.files import write_text
from mtclim.tasks import Tasks

MARKER = "COMPLETE"
_CODE = "tasks variants metrics model rivals weights prepare learner training results data/labels data/images city/*"


class RunError(RuntimeError):
    """A run that can't start, go on or be read; says what was found, where, and what to do."""


def is_complete(folder: str | Path) -> bool:
    """Whether the folder holds a finished run; a ``.partial`` one is still in work, even with its marker."""
    folder = Path(folder)
    return not folder.name.endswith(".partial") and (folder / MARKER).is_file()


def find(root: str | Path, table: str | None = None) -> list[Path]:
    """All finished run folders at or below ``root``, sorted; with ``table``, a table's digest, only those of it."""
    found = sorted(marker.parent for marker in Path(root).rglob(MARKER) if is_complete(marker.parent))
    return [folder for folder in found if table is None or read_settings(folder).get("table") == table]


@contextmanager
def working(folder: Path, settings: Mapping[str, Any]) -> Iterator[Path]:
    """Hold the run's lock and give the folder to work in; rename it to ``folder`` when the block ends without error.

    Raises RunError where another process makes the same run, the begun run has other settings, or the disk is full.
    """
    partial = folder.with_name(f"{folder.name}.partial")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock", timeout=0):
            if folder.exists() and not is_complete(folder):
                raise RunError(f"{folder}: holds files but no finished run. Move it away, or give another `out`.")
            partial.mkdir(exist_ok=True)
            for left in filter(Path.is_file, partial.glob(".*")):  # what a kill left half-written
                left.unlink()
            if (partial / "config.yaml").exists():
                check_settings(partial / "config.yaml", settings)
            else:
                text = yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True)
                write_text(partial / "config.yaml", text)
            yield partial
            write_text(partial / MARKER, "")
            partial.rename(folder)
    except Timeout:
        mend = "wait for it, or choose another seed or `out`"
        raise RunError(f"{folder}: another process is making this very run; {mend}.") from None
    except Exception as error:
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
        if full or re.search(r"No space left|Disk quota exceeded|os error 28", str(error)):  # as libraries say it
            problem = f"no space left on the disk to write the run ({str(error)[:200]})"
            mend = "What was finished is kept: free some space and repeat the command"
            raise RunError(f"{folder}: {problem}. {mend}.") from error
        raise


def check_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """Raise RunError where the settings in ``path`` differ from these, naming the differences.

    The table and its pictures are compared by content: their paths may be spelt in another way.
    """
    found = yaml.safe_load(path.read_text(encoding="utf-8"))
    names = [name for name in {**found, **settings} if name not in ("data", "image_root")]
    differ = [f"{k}: {found.get(k)!r} there, {settings.get(k)!r} now" for k in names if found.get(k) != settings.get(k)]
    if differ:
        problem = f"a run with other settings ({'; '.join(differ[:5])})"
        raise RunError(f"{path.parent}: {problem}. Give another `out`, or delete that folder.")


def read_settings(folder: str | Path) -> dict[str, Any]:
    """``config.yaml`` of a finished run; RunError where there is none."""
    folder = Path(folder)
    if not is_complete(folder):
        begun = folder.with_name(f"{folder.name}.partial").exists()
        problem = f"the run {'was begun but is not finished' if begun else 'is not there'}"
        raise RunError(f"{folder}: {problem}; expected a folder with the marker {MARKER}. Repeat its training command.")
    return yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))


def load(folder: str | Path):
    """The trained model of a run folder, in eval mode on the CPU, ready to predict.

    It carries ``.tasks``, ``.image_size`` (pixels), ``.mean``, ``.std`` (of pixel values in [0, 1]) and
    ``.temperatures`` (task -> float, fitted on validation). Only safetensors, YAML and JSON are read, never a pickle.
    Raises RunError where the run is not finished or its weights are not its own.
    """
    from safetensors.torch import load_file

    from mtclim.model import create_model

    folder, settings = Path(folder), read_settings(folder)
    tasks = Tasks(settings.get("model_tasks", settings["tasks"]), settings["titles"])
    how = {name: settings[name] for name in ("clim_units", "tlim_units")}
    try:
        weights = load_file(folder / "model.safetensors")
        how |= {name: weights.get(name) for name in ("labelsets", "order")}
        model = create_model(settings["variant"], tasks, settings["timm_name"], **how)
        model.load_state_dict(weights)
    except Exception as error:  # damaged and foreign files raise anything
        problem = f"does not hold this run's weights ({error}). Train it anew"
        raise RunError(f"{folder}/model.safetensors: {problem}.") from error
    model.image_size, model.mean, model.std = settings["image_size"], settings["mean"], settings["std"]
    calibration = json.loads((folder / "calibration.json").read_text(encoding="utf-8"))
    model.temperatures = {task: entry["temperature"] for task, entry in calibration.items()}
    return model.eval()


def provenance() -> dict[str, Any]:
    """Date, machine, versions, commit and digest of the code: what a result must be able to say of itself."""
    import torch

    packages = ("torch", "torchvision", "timm", "lightning", "numpy", "pandas", "pillow")
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
        "hardware": f"{platform.machine()}, {os.cpu_count()} cores",
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in packages},
        "commit": commit(),
        "code": code_digest(),
    }


def digest(texts: Iterable[str]) -> str:
    """32 hexadecimal digits over texts in their order."""
    return hashlib.blake2b("\n".join(texts).encode(), digest_size=16).hexdigest()


def code_digest() -> str:
    """12 hexadecimal digits over the modules that decide numbers: equal digests, comparable runs.

    Comments, docstrings and layout do not count, so that a better wording is no other code. What the readers of tables
    and of configurations do is not counted either: a run records the outcome, its settings and its table's digest.
    """
    here, texts = Path(__file__).parent, []
    patterns = [*(f"{name}.py" for name in _CODE.split()), "city/*.csv", "city/*.json"]
    for path in sorted(path for pattern in patterns for path in here.glob(pattern)):
        text = path.read_text(encoding="utf-8")
        meaning = _plain(ast.parse(text)) if path.suffix == ".py" else text
        texts.append(f"{path.relative_to(here).as_posix()}\n{meaning}")
    return digest(texts)[:12]


def _plain(node: Any) -> Any:
    """A syntax tree without docstrings, the same in every Python (``ast.unparse`` and ``ast.dump`` are not)."""
    if isinstance(node, list):
        return [_plain(n) for n in node if not (isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant))]
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = [(name, _plain(value)) for name, value in ast.iter_fields(node) if value is not None and value != []]
    return type(node).__name__, fields


def commit() -> str:
    """The checkout's commit, with "+" where the package's files differ from it; "unknown" outside a checkout."""
    commands = "git rev-parse --short=12 HEAD", "git status --porcelain -- ."
    how = {"cwd": Path(__file__).parent, "capture_output": True, "text": True, "check": True}
    try:
        head, changes = (subprocess.run(command.split(), **how).stdout for command in commands)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.strip() + "+" * bool(changes)
