"""Run folders: whole or absent, locked while in work, resumed by repeating the command; and loading what they hold.

A run is worked on in ``<folder>.partial`` under the lock ``<folder>.lock`` and renamed to ``<folder>`` when everything is
written; the file ``COMPLETE`` in it was written last.
"""

import errno
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

import yaml
from filelock import FileLock, Timeout

from mtclim.files import write_text
from mtclim.tasks import Tasks

MARKER = "COMPLETE"


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


def unfinished(root: str | Path) -> list[Path]:
    """All folders of runs begun and not finished at or below ``root``, sorted."""
    return sorted(path for path in Path(root).rglob("*.partial") if path.is_dir())


@contextmanager
def working(folder: Path, settings: Mapping[str, Any]) -> Iterator[Path]:
    """Hold the run's lock and give the folder to work in; rename it to ``folder`` when the block ends without error.

    Raises RunError where another process makes the same run, where the begun run has other settings, and on a full disk.
    """
    lock = FileLock(f"{folder}.lock", timeout=0)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise RunError(
            f"{folder}: another process is making this very run; wait for it, or choose another seed or `out`."
        ) from None
    except OSError as error:
        _raise_plainly(folder, error)
    try:
        partial = folder.with_name(f"{folder.name}.partial")
        if folder.exists() and not is_complete(folder):
            raise RunError(
                f"{folder}: holds files but no finished run; expected a folder that isn't there. Move it away."
            )
        partial.mkdir(exist_ok=True)
        for left in partial.glob(".*"):  # files that a kill left half-written
            left.unlink()
        begun = partial / "config.yaml"
        if begun.exists():
            check_settings(begun, settings)
        else:
            write_text(begun, yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True))
        yield partial
        write_text(partial / MARKER, "")
        partial.rename(folder)
    except Exception as error:
        _raise_plainly(folder, error)
    finally:
        lock.release()


def _raise_plainly(folder: Path, error: Exception) -> NoReturn:
    """Raise RunError for an error that means a full disk, which libraries say in their own ways; else the error itself."""
    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
    if full or re.search(r"No space left|Disk quota exceeded|os error 28", str(error)):
        raise RunError(
            f"{folder}: no space left on the disk to write the run ({str(error)[:200]}). What was finished is kept: free some "
            "space and repeat the command."
        ) from error
    raise error


def check_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """Raise RunError where the settings in ``path`` differ from these, naming the differences.

    The table and its pictures are compared by content: their paths may be spelt in another way.
    """
    found = yaml.safe_load(path.read_text(encoding="utf-8"))
    names = [name for name in {**found, **settings} if name not in ("data", "image_root")]
    differ = [f"{k}: {found.get(k)!r} there, {settings.get(k)!r} now" for k in names if found.get(k) != settings.get(k)]
    if differ:
        raise RunError(
            f"{path.parent}: a run with other settings ({'; '.join(differ[:5])}). Give another `out`, or delete that "
            "folder."
        )


def read_settings(folder: str | Path) -> dict[str, Any]:
    """``config.yaml`` of a finished run; RunError where there is none."""
    folder = Path(folder)
    if not is_complete(folder):
        state = (
            "was begun but is not finished" if folder.with_name(folder.name + ".partial").exists() else "is not there"
        )
        raise RunError(
            f"{folder}: the run {state}; expected a folder with the marker {MARKER}. Repeat its training command."
        )
    return yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))


def load(folder: str | Path):
    """The trained model of a run folder, in eval mode on the CPU, ready to predict.

    It carries ``.tasks``, ``.image_size`` (pixels), ``.mean``, ``.std`` (of pixel values in [0, 1]) and ``.temperatures``
    (task -> float, fitted on validation). Only safetensors, YAML and JSON are read, never a pickle. Raises RunError
    where the run is not finished or its weights are not its own.
    """
    from safetensors.torch import load_file

    from mtclim.model import create_model

    folder, settings = Path(folder), read_settings(folder)
    tasks = Tasks(settings.get("model_tasks", settings["tasks"]), settings["titles"])
    try:
        weights = load_file(folder / "model.safetensors")
        model = create_model(
            settings["variant"], tasks, settings["timm_name"], clim_units=settings["clim_units"],
            tlim_units=settings["tlim_units"], labelsets=weights.get("labelsets"), order=weights.get("order"),
        )  # fmt: skip
        model.load_state_dict(weights)
    except Exception as error:  # damaged and foreign files raise anything
        raise RunError(
            f"{folder}/model.safetensors: does not hold this run's weights ({error}). Train it anew."
        ) from error
    model.image_size, model.mean, model.std = settings["image_size"], settings["mean"], settings["std"]
    calibration = json.loads((folder / "calibration.json").read_text(encoding="utf-8"))
    model.temperatures = {task: entry["temperature"] for task, entry in calibration.items()}
    return model.eval()


def provenance() -> dict[str, Any]:
    """Date, machine, versions, commit and digest of the code: what a result must be able to say of itself."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    packages = ("torch", "torchvision", "timm", "lightning", "numpy", "pandas", "pillow")
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": gpu or "CPU",
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
    """12 hexadecimal digits over the source of the modules that decide numbers: equal digests, comparable runs."""
    here = Path(__file__).parent
    names = "tasks variants metrics model rivals weights config prepare learner training results data/* city/*".split()
    patterns = [*(f"{name}.py" for name in names), "city/*.csv", "city/*.json"]  # the city's tables decide its pictures
    paths = sorted(path for pattern in patterns for path in here.glob(pattern))
    return digest(f"{path.relative_to(here).as_posix()}\n{path.read_text(encoding='utf-8')}" for path in paths)[:12]


def commit() -> str:
    """The checkout's commit, with "+" where the package's files differ from it; "unknown" outside a checkout."""
    git = shutil.which("git")
    here = Path(__file__).parent
    if not git:
        return "unknown"
    run = [subprocess.run([git, *args], cwd=here, capture_output=True, text=True, check=False)
           for args in (("rev-parse", "--short=12", "HEAD"), ("status", "--porcelain", "--", "."))]  # fmt: skip
    return run[0].stdout.strip() + ("+" if run[1].stdout.strip() else "") if run[0].returncode == 0 else "unknown"
