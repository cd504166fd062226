"""A study: the run folders of one data set and partition, reduced to a few small tables.

``load_study`` reads them from run folders or from the tables that ``collect`` keeps in git; both give the same frames.
"""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from mtclim.metrics import codes, rescale
from mtclim.tasks import Tasks

BINS = 15
"""Bins of equal width for the expected calibration error."""
COVERAGES = np.arange(1, 21) / 20
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml is ten times as fast, where it is there
_COSTS = (
    "seconds",
    "seconds_per_step",
    "epochs",
    "epochs_to_best",
    "parameters",
    "peak_memory_mb",
    "images_per_second",
)
_ORIGINS = ("date", "device", "hardware", "commit", "table")


@dataclass
class Study:
    """Plain frames; ``run`` is "backbone/variant/seed-k" everywhere, a detached control's variant ends in "-detach"."""

    tasks: Tasks
    runs: pd.DataFrame
    """One row a complete run: run, backbone, variant, seed, settings, costs and origins (``_COSTS`` ...)."""
    test: pd.DataFrame
    """One row a test image: image, block, then per task the reference class's position (-1 = not annotated)."""
    predictions: pd.DataFrame
    """One row per run and test image, ordered as ``runs`` and ``test``: run, then per task the predicted position."""
    calibration: pd.DataFrame
    """run, task, scaled (by the run's temperature or not), bin, count, confidence (mean), accuracy."""
    coverage: pd.DataFrame
    """run, task, coverage (share of images answered, surest first), accuracy of these, threshold (least confidence)."""
    history: pd.DataFrame
    """run and the columns of history.csv."""
    labelsets: pd.DataFrame
    """Labelsets of the training split: one column a task (missing = not annotated) and count."""
    counts: pd.DataFrame
    """split, task, class, count."""
    problems: pd.DataFrame
    """run, problem: what is missing, unfinished, unreadable or not comparable."""

    @property
    def synthetic(self) -> bool:
        """Whether any run was trained on drawn façades."""
        return bool(self.runs["synthetic"].any())

    @property
    def variants(self) -> list[str]:
        """Variants with at least one run, in Table 2's order, then controls, then detached ones."""
        return ordered(self.runs["variant"].unique())

    @property
    def backbones(self) -> list[str]:
        """Backbones with at least one run, sorted."""
        return sorted(self.runs["backbone"].unique())

    def only(self, backbone: str) -> "Study":
        """The same study with the runs of one backbone."""
        runs = self.runs[self.runs["backbone"] == backbone].reset_index(drop=True)
        kept = {}
        for name in ("predictions", "calibration", "coverage", "history"):
            frame = getattr(self, name)
            kept[name] = frame[frame["run"].isin(set(runs["run"]))].reset_index(drop=True)
        rest = {name: getattr(self, name) for name in ("tasks", "test", "labelsets", "counts")}
        problems = self.problems[self.problems["run"].str.contains(f"{backbone}/", regex=False)].reset_index(drop=True)
        return Study(runs=runs, problems=problems, **kept, **rest)

    def predicted(self, task: str) -> np.ndarray:
        """Predicted positions (runs, test images) of one task."""
        return self.predictions[task].to_numpy().reshape(len(self.runs), len(self.test))


def ordered(variants) -> list[str]:
    """Variants in Table 2's order, then other controls; each before its detached control."""
    from mtclim.variants import VARIANTS

    rank = {name: i for i, name in enumerate(VARIANTS)}
    return sorted(variants, key=lambda name: (rank.get(name.split("-")[0], len(rank)), name))


def load_study(folder: str | Path) -> Study:
    """Read a study from run folders (any depth below ``folder``) or from tables that ``collect`` wrote.

    Runs that are unfinished, unreadable or whose test images differ from most others' are left out and listed in
    ``problems``. FileNotFoundError when there is no complete run.
    """
    folder = Path(folder)
    tables = next((path for path in (folder, folder / "tables") if (path / "study.json").exists()), None)
    return _read_tables(tables) if tables else _scan(folder)


def collect(runs_root: str | Path, results_dir: str | Path) -> Study:
    """Reduce the complete runs below ``runs_root`` to ``results_dir/tables`` (small, for git) and return the study.

    Runs already there stay, those with the same name are replaced; the tables are written beside and renamed.
    ValueError when the tables there belong to other tasks or another test set.
    """
    study, tables = _scan(Path(runs_root)), Path(results_dir) / "tables"
    if (tables / "study.json").exists():
        study = _merge(_read_tables(tables), study, tables)
    fresh, old = tables.with_name("tables.new"), tables.with_name("tables.old")
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    fresh.mkdir(parents=True)
    for name in _FRAMES:
        getattr(study, name).to_parquet(fresh / f"{name}.parquet", index=False, compression="zstd")
    text = json.dumps({"tasks": study.tasks.to_dict(), "runs": len(study.runs)}, indent=1)
    (fresh / "study.json").write_text(text, encoding="utf-8")
    if tables.exists():
        os.replace(tables, old)
    os.replace(fresh, tables)
    shutil.rmtree(old, ignore_errors=True)
    return study


def grid_scores(root: str | Path, stored: str | Path) -> pd.DataFrame:
    """Kappa (fractions) of each finished run of a grid of cities: those in the CSV ``stored``, and those below ``root``.

    One row a run: interdependency, ambiguity, variant, seed, date, commit, hardware, then the mean and each task. A run
    below ``root`` takes the place of a stored one; the caller writes the frame to ``stored`` again.
    """
    keys = ["interdependency", "ambiguity", "variant", "seed"]
    frames = [pd.read_csv(stored, keep_default_na=False, na_values=[""])] if Path(stored).exists() else []
    rows = []
    for marker in sorted(Path(root).rglob("COMPLETE")):
        folder = marker.parent
        settings = yaml.load((folder / "config.yaml").read_text(encoding="utf-8"), Loader=_Loader)
        origin, scores = (
            json.loads((folder / f"{n}.json").read_text(encoding="utf-8")) for n in ("provenance", "metrics")
        )
        row = {key: settings[key] for key in keys} | {
            key: origin.get(key, "") for key in ("date", "commit", "hardware")
        }
        row["variant"] += "-detach" if settings.get("detach") else ""
        rows.append(row | {task: scores["test"][task]["kappa"] for task in ("mean", *settings["tasks"])})
    if rows:
        frames.append(pd.DataFrame(rows))
    if not frames:
        raise FileNotFoundError(f"{root}: found no finished run of a grid, and no {stored}; `make grid` trains them.")
    return pd.concat(frames).drop_duplicates(keys, keep="last").sort_values(keys, ignore_index=True)


def _read_tables(folder: Path) -> Study:
    tasks = Tasks(json.loads((folder / "study.json").read_text(encoding="utf-8"))["tasks"])
    return Study(tasks=tasks, **{name: pd.read_parquet(folder / f"{name}.parquet") for name in _FRAMES})


def _scan(root: Path) -> Study:
    runs, problems = [], []
    for marker in sorted(root.rglob("COMPLETE")):
        try:
            runs.append(_read_run(marker.parent))
        except (OSError, KeyError, ValueError) as error:
            problems.append((str(marker.parent.relative_to(root)), f"unreadable: {type(error).__name__}: {error}"))
    if not runs:
        raise FileNotFoundError(f"{root}: found no complete run folder (one with a file COMPLETE); train one first.")
    sets = pd.Series([(run["tasks"], run["test_key"]) for run in runs])
    most = sets.value_counts().index[0]
    chosen: dict[str, dict] = {}
    for run, key in zip(runs, sets, strict=True):
        name = run["row"]["run"]
        if key != most:
            problems.append((name, "other tasks or test images than most runs: not comparable, left out"))
        elif name in chosen:
            problems.append((name, f"found twice; {run['folder']} left out"))
        else:
            chosen[name] = run
    for path in sorted(root.rglob("*.partial")):
        problems.append((str(path.relative_to(root).with_suffix("")), "unfinished: in work, stopped or failed"))
    return _assemble(list(chosen.values()), problems)


def _assemble(runs: list[dict], problems: list[tuple[str, str]]) -> Study:
    rank = {name: i for i, name in enumerate(ordered({run["row"]["variant"] for run in runs}))}
    runs = sorted(runs, key=lambda r: (r["row"]["backbone"], rank[r["row"]["variant"]], r["row"]["seed"]))
    tasks, test = runs[0]["tasks"], runs[0]["test"]
    frames = {
        name: pd.concat([run[name].assign(run=run["row"]["run"]) for run in runs], ignore_index=True) for name in _LONG
    }
    frames = {name: frame[["run", *frame.columns.drop("run")]] for name, frame in frames.items()}
    table = pd.DataFrame([run["row"] for run in runs])
    listed = pd.DataFrame(problems + _missing(table), columns=["run", "problem"], dtype="str")
    shared = {"test": test, "labelsets": runs[0]["labelsets"], "counts": runs[0]["counts"]}
    return Study(tasks=tasks, runs=table, problems=listed, **frames, **shared)


def _missing(runs: pd.DataFrame) -> list[tuple[str, str]]:
    """Gaps in the grid of variants and seeds that each backbone's runs span."""
    found, gaps = set(runs["run"]), []
    for backbone, group in runs.groupby("backbone"):
        for variant in ordered(group["variant"].unique()):
            names = (f"{backbone}/{variant}/seed-{seed}" for seed in sorted(group["seed"].unique()))
            gaps += [(name, "missing: other variants have this seed") for name in names if name not in found]
    return gaps


def _merge(old: Study, new: Study, where: Path) -> Study:
    if old.tasks != new.tasks or not old.test.equals(new.test):
        raise ValueError(
            f"{where}: holds a study of other tasks or test images; choose another folder or delete this one."
        )
    parts = [part for study in (old, new) for part in _split(study)]
    gaps = new.problems[~new.problems["problem"].str.startswith("missing")]
    chosen = {part["row"]["run"]: part for part in parts}
    problems = [pair for pair in gaps.itertuples(index=False, name=None) if pair[0] not in chosen]
    return _assemble(list(chosen.values()), problems)


def _split(study: Study) -> Iterator[dict]:
    """The runs of a study, one by one, as ``_read_run`` gives them."""
    shared = {"tasks": study.tasks, "test": study.test, "labelsets": study.labelsets, "counts": study.counts}
    groups = {name: dict(list(getattr(study, name).groupby("run", sort=False))) for name in _LONG}
    for row in study.runs.to_dict("records"):
        own = {name: groups[name][row["run"]] for name in _LONG}
        yield {**shared, **own, "row": row}


def _read_run(folder: Path) -> dict:
    settings = yaml.load((folder / "config.yaml").read_text(encoding="utf-8"), Loader=_Loader)
    origin = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
    temperatures = json.loads((folder / "calibration.json").read_text(encoding="utf-8"))
    tasks = Tasks(settings["tasks"])
    predictions = pd.read_parquet(folder / "predictions.parquet")
    validation = pd.read_parquet(folder / "validation.parquet", columns=[f"{task}:true" for task in tasks])
    predictions = predictions.sort_values("image", kind="stable", ignore_index=True)
    test = pd.DataFrame({"image": predictions["image"].astype("str"), "block": _blocks(predictions)})
    labelsets = pd.read_csv(
        folder / "labelsets.csv", dtype=dict.fromkeys(tasks, "str"), keep_default_na=False, na_values=[""]
    )
    counts, predicted, curves = [], {}, []
    for task, classes in tasks.items():
        kind = np.int8 if len(classes) < 128 else np.int16
        test[task] = codes(predictions[f"{task}:true"], classes).astype(kind)
        predicted[task] = codes(predictions[f"{task}:pred"], classes).astype(kind)
        probabilities = predictions[[f"{task}:p:{name}" for name in classes]].to_numpy(np.float64)
        temperature = float(temperatures[task]["temperature"])
        curves.append(_curves(task, probabilities, test[task].to_numpy(), temperature))
        rows = codes(labelsets[task], classes)
        known = rows >= 0
        train = np.bincount(rows[known], weights=labelsets[":count"].to_numpy()[known], minlength=len(classes))
        by_split = {
            "train": train,
            "val": _histogram(validation[f"{task}:true"], classes),
            "test": _histogram(test[task], classes),
        }
        counts += [
            (split, task, name, int(n))
            for split, found in by_split.items()
            for name, n in zip(classes, found, strict=True)
        ]
    variant = settings["variant"] + ("-detach" if settings.get("detach") else "")
    row = {"run": f"{settings['backbone']}/{variant}/seed-{settings['seed']}", "backbone": settings["backbone"]}
    row |= {"variant": variant, "seed": int(settings["seed"]), "detach": bool(settings.get("detach"))}
    row |= {"config": str(settings.get("config") or settings.get("name") or ""), "data": str(settings.get("data", ""))}
    row |= {"synthetic": bool(settings.get("synthetic")), "image_size": int(settings["image_size"])}
    row |= {"threads": int(settings.get("threads") or origin.get("threads") or 0)} | _costs(origin)
    calibration, coverage = (pd.concat(part, ignore_index=True) for part in zip(*curves, strict=True))
    return {
        "folder": folder,
        "row": row,
        "tasks": tasks,
        "test": test,
        "test_key": int(pd.util.hash_pandas_object(test, index=True).sum()),
        "predictions": pd.DataFrame(predicted),
        "calibration": calibration,
        "coverage": coverage,
        "history": pd.read_csv(folder / "history.csv", dtype={"network": "str"}),
        "labelsets": labelsets[[*tasks, ":count"]],
        "counts": pd.DataFrame(counts, columns=["split", "task", "class", "count"]),
    }


def _histogram(values: pd.Series, classes: tuple[str, ...]) -> np.ndarray:
    found = values.to_numpy() if pd.api.types.is_integer_dtype(values) else codes(values, classes)
    return np.bincount(found[found >= 0], minlength=len(classes))


def _blocks(predictions: pd.DataFrame) -> pd.Series:
    """Block names; without blocks each image stands alone."""
    blocks = (
        predictions["block"] if "block" in predictions else pd.Series(None, index=predictions.index, dtype="object")
    )
    return blocks.where(blocks.notna(), predictions["image"]).astype("str")


def _costs(origin: dict) -> dict:
    """Costs and origins of a run as one flat row; NaN or "" where the provenance lacks them.

    Epochs add up over the networks of a run (STC has one a task), which are trained one after another.
    """
    best = [network["best_epoch"] + 1 for network in origin.get("networks", [])]
    origin = origin | {"epochs_to_best": sum(best) or None}
    numbers = {}
    for name in _COSTS:
        value = origin.get(name)
        numbers[name] = float(value) if isinstance(value, int | float) else float("nan")
    texts = {name: origin.get(name) for name in _ORIGINS}
    return numbers | {
        name: text if isinstance(text, str) else json.dumps(text) if text else "" for name, text in texts.items()
    }


def _curves(
    task: str, probabilities: np.ndarray, true: np.ndarray, temperature: float
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Reliability bins (raw and temperature-scaled) and the accuracy-coverage curve of one run and task."""
    probabilities, true = probabilities[true >= 0], true[true >= 0]
    right = probabilities.argmax(axis=1) == true if len(true) else np.zeros(0, bool)
    bins = []
    for scaled in (False, True):
        sure = (rescale(probabilities, temperature) if scaled else probabilities).max(axis=1, initial=0.0)
        place = np.clip(np.ceil(sure * BINS) - 1, 0, BINS - 1).astype(np.int64)
        count, *sums = (np.bincount(place, weights=values, minlength=BINS) for values in (None, sure, right))
        full = np.flatnonzero(count)
        confidence, accuracy = (total[full] / count[full] for total in sums)
        shared = {"task": task, "scaled": scaled, "temperature": temperature, "bin": full, "count": count[full]}
        bins.append(pd.DataFrame({**shared, "confidence": confidence, "accuracy": accuracy}))
    sure = probabilities.max(axis=1, initial=0.0)
    order = np.argsort(-sure, kind="stable")
    kept = np.unique(np.ceil(COVERAGES * len(true)).astype(int)) if len(true) else np.zeros(0, int)
    accuracy = np.cumsum(right[order])[kept - 1] / np.maximum(kept, 1)
    curve = {
        "task": task,
        "coverage": kept / max(len(true), 1),
        "accuracy": accuracy,
        "threshold": sure[order][kept - 1],
    }
    return pd.concat(bins, ignore_index=True), pd.DataFrame(curve)


_FRAMES = [field.name for field in fields(Study) if field.name != "tasks"]
_LONG = ("predictions", "calibration", "coverage", "history")
