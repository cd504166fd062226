"""A study: the finished runs of one table of images and one state of the code, reduced to a few small tables.

``load_study`` reads them from run folders or from the tables that ``collect`` keeps in git; both give the same frames.
"""

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import pandas as pd

from mtclim import runs as folders
from mtclim.analysis.joint import fit_joint, unseen
from mtclim.files import write_json
from mtclim.metrics import codes, rescale, scores
from mtclim.tasks import Tasks
from mtclim.variants import ordered

BINS = 15
"""Bins of equal width for the expected calibration error."""
SETTLES = 0.5
"""A task settles another where its label removes at least this share of the other's entropy in the training labels."""
_LONG = ("calibration", "decoded")
_KEPT = (
    "steps_to_best",
    "threads",
    "parameters",
    "peak_memory_mb",
    "date",
    "device",
    "hardware",
    "commit",
    "code",
    "table",
)


@dataclass
class Study:
    """Plain frames; ``run`` is "backbone/variant/seed-k" everywhere. Columns made from a task's name hold a ":"."""

    tasks: Tasks
    runs: pd.DataFrame
    """One row a run: run, backbone, variant, seed, code and table (digests), settings, epochs, origins."""
    test: pd.DataFrame
    """One row a test image: image, block, then ``<task>:true``, the reference position (-1 = not annotated)."""
    predicted: np.ndarray
    """Predicted positions (runs, test images, tasks) int16, ordered as ``runs`` and ``test``."""
    calibration: pd.DataFrame
    """run, task, scaled (by the run's temperature or not), bin, count, confidence (mean), accuracy."""
    decoded: pd.DataFrame
    """run, decoding ("argmax", "joint"), oa, kappa, ece (means over tasks), exact_match, contradictions."""
    labelsets: pd.DataFrame
    """Labelsets of the training split: ``<task>:true`` positions and ``:count``."""
    counts: pd.DataFrame
    """task, class, train, val, test: how many images of each split have the class."""
    problems: pd.DataFrame
    """run, problem: what is missing, unfinished, unreadable or not comparable."""

    @property
    def synthetic(self) -> bool:
        """Whether any run was trained on drawn façades."""
        return bool(self.runs["synthetic"].any())

    @property
    def variants(self) -> list[str]:
        """Variants with at least one run: Table 2's order, then controls, then rivals."""
        return ordered(self.runs["variant"].unique())

    @property
    def backbones(self) -> list[str]:
        """Backbones with at least one run, the one with most runs first."""
        return list(self.runs["backbone"].value_counts().index)

    @property
    def true(self) -> np.ndarray:
        """Reference positions (test images, tasks), -1 = not annotated."""
        return self.test[[f"{task}:true" for task in self.tasks]].to_numpy(np.int64)

    @property
    def training(self) -> tuple[np.ndarray, np.ndarray]:
        """Labelsets (L, N) of the training images, -1 = not annotated, and how many images have each (L,)."""
        columns = [f"{task}:true" for task in self.tasks]
        return self.labelsets[columns].to_numpy(np.int64), self.labelsets[":count"].to_numpy(np.int64)

    def only(self, backbone: str) -> "Study":
        """The same study with the runs of one backbone."""
        return self.take(np.flatnonzero(self.runs["backbone"] == backbone))

    def take(self, rows: Sequence[int]) -> "Study":
        """The same study with some runs, by position and in that order."""
        runs = self.runs.iloc[rows].reset_index(drop=True)
        place = {run: i for i, run in enumerate(runs["run"])}
        kept = {}
        for name in _LONG:
            frame = getattr(self, name)
            frame = frame[frame["run"].isin(place)]
            kept[name] = frame.sort_values("run", key=lambda run: run.map(place), kind="stable", ignore_index=True)
        return replace(self, runs=runs, predicted=self.predicted[rows], **kept)


def load_study(folder: str | Path, code: str = "") -> Study:
    """Read a study from run folders (any depth below ``folder``) or from tables that ``collect`` wrote.

    Parameters
    ----------
    folder : where the runs or the tables are.
    code : the digest of the code whose runs are wanted, or its first digits; empty: all runs must have the same.

    Returns
    -------
    Study
        Runs that are unfinished, unreadable, of another table, other tasks or other test images than most are left out
        and listed in ``problems``; so are runs of another code where ``code`` picks one.

    Raises
    ------
    FileNotFoundError
        Where there is no finished run.
    ValueError
        Where runs were made by different states of the code and ``code`` picks none.
    """
    folder = Path(folder)
    tables = next((path for path in (folder, folder / "tables") if (path / "study.json").exists()), None)
    return _one_code(_read_tables(tables) if tables else _scan(folder), folder, code)


def collect(runs_root: str | Path, results_dir: str | Path, code: str = "") -> Study:
    """Reduce the finished runs below ``runs_root`` to ``results_dir/tables`` (small, for git) and return the study.

    Runs already there stay, and those of the same name are replaced. ValueError where the tables there belong to other
    tasks, another table or test set, or another state of the code (``code`` as in ``load_study``).
    """
    study, tables = _scan(Path(runs_root)), Path(results_dir) / "tables"
    if (tables / "study.json").exists():
        old = _read_tables(tables)
        if _key(old) != _key(study):
            raise ValueError(
                f"{tables}: holds a study of other tasks, another table or other test images; choose another folder or "
                "delete this one."
            )
        study = _join([old.take(np.flatnonzero(~old.runs["run"].isin(study.runs["run"]))), study], study.problems)
    study = _one_code(study, Path(runs_root), code)
    fresh, before = tables.with_name("tables.new"), tables.with_name("tables.old")
    for leftover in (fresh, before):
        shutil.rmtree(leftover, ignore_errors=True)
    fresh.mkdir(parents=True)
    for name in _FRAMES:
        getattr(study, name).to_parquet(fresh / f"{name}.parquet", index=False, compression="zstd")
    # All runs' answers for an image stand together, since they are mostly equal and so compress well.
    answers = study.predicted.transpose(1, 0, 2).reshape(-1, len(study.tasks))
    answers = pd.DataFrame(answers, columns=[f"{task}:pred" for task in study.tasks])
    answers.to_parquet(fresh / "predictions.parquet", index=False, compression="zstd")
    about = {"tasks": study.tasks.to_dict(), "titles": study.tasks.titles, "runs": len(study.runs)}
    write_json(fresh / "study.json", about)
    if tables.exists():
        os.replace(tables, before)
    os.replace(fresh, tables)
    shutil.rmtree(before, ignore_errors=True)
    return study


def excluded(labelsets: np.ndarray, counts: np.ndarray, tasks: Tasks) -> list[tuple[int, int, np.ndarray]]:
    """Pairs of labels that contradict a relation of the training labels: (task, task, matrix of the contradictions).

    Two tasks are related where the label of one removes at least half of the other's entropy (``SETTLES``), as SBST
    does with material and height. Of these tasks a pair of labels that training never shows is a contradiction.
    ``labelsets`` (L, N) with -1 = missing and ``counts`` (L,): only images with both labels count.
    """
    found = []
    for a in range(len(tasks)):
        for b in range(a + 1, len(tasks)):
            both = (labelsets[:, a] >= 0) & (labelsets[:, b] >= 0)
            joint = np.zeros((tasks.sizes[a], tasks.sizes[b]))
            np.add.at(joint, (labelsets[both, a], labelsets[both, b]), counts[both])
            total, first, second = _entropy(joint), _entropy(joint.sum(1)), _entropy(joint.sum(0))
            least = min(entropy for entropy in (first, second, np.inf) if entropy > 0)
            if first + second - total >= SETTLES * least and least < np.inf:
                found.append((a, b, joint == 0))
    return found


def contradictions(labels: np.ndarray, relations: list[tuple[int, int, np.ndarray]]) -> float:
    """Share of labelsets (n, N) with a contradiction (``excluded``); NaN without a relation, or without labelsets."""
    if not relations or not len(labels):
        return np.nan
    return float(np.any([never[labels[:, a], labels[:, b]] for a, b, never in relations], axis=0).mean())


def _entropy(counts: np.ndarray) -> float:
    share = counts[counts > 0] / max(counts.sum(), 1)
    return float(-(share * np.log(share)).sum())


# ---------------------------------------------------------------- many runs


def _read_tables(folder: Path) -> Study:
    about = json.loads((folder / "study.json").read_text(encoding="utf-8"))
    tasks = Tasks(about["tasks"], about["titles"])
    frames = {name: pd.read_parquet(folder / f"{name}.parquet") for name in _FRAMES}
    answers = pd.read_parquet(folder / "predictions.parquet").to_numpy()
    answers = answers.reshape(len(frames["test"]), len(frames["runs"]), len(tasks)).transpose(1, 0, 2)
    return Study(tasks=tasks, predicted=answers, **frames)


def _scan(root: Path) -> Study:
    found, problems = [], []
    for folder in folders.find(root):
        try:
            found.append((folder, _read_run(folder)))
        except (OSError, KeyError, ValueError, folders.RunError) as error:
            name = folder.relative_to(root)
            problems.append((str(name), f"unreadable: {type(error).__name__}: {' '.join(str(error).split())}"))
    if not found:
        listed = "; ".join(f"{name}: {problem}" for name, problem in problems)
        raise FileNotFoundError(f"{root}: found no complete run folder; train one first. {listed}".rstrip())
    keys = pd.Series([_key(study) for _, study in found])
    most, chosen = keys.value_counts().index[0], {}
    for (folder, study), key in zip(found, keys, strict=True):
        name = study.runs["run"][0]
        if key != most:
            problems.append((name, "other tasks, table or test images than most runs: not comparable, left out"))
        elif name in chosen:
            problems.append((name, f"found twice; {folder.relative_to(root)} left out"))
        else:
            chosen[name] = study
    for path in folders.unfinished(root):
        problems.append((str(path.relative_to(root).with_suffix("")), "unfinished: in work, stopped or failed"))
    listed = pd.DataFrame(problems, columns=["run", "problem"], dtype="str")
    return _join(list(chosen.values()), listed)


def _key(study: Study) -> tuple:
    """What runs must share to be compared."""
    return study.tasks, study.runs["table"][0], int(pd.util.hash_pandas_object(study.test, index=True).sum())


def _join(studies: list[Study], problems: pd.DataFrame) -> Study:
    """One study of the runs of several, sorted, with the holes in each variant's sequence of seeds among the problems."""
    frames = {
        name: pd.concat([getattr(study, name) for study in studies], ignore_index=True) for name in ("runs", *_LONG)
    }
    joined = replace(studies[0], predicted=np.concatenate([study.predicted for study in studies]), **frames)
    runs, rank = joined.runs, {name: i for i, name in enumerate(joined.variants)}
    order = runs.assign(variant=runs["variant"].map(rank)).sort_values(["backbone", "variant", "seed"], kind="stable")
    names, holes = set(runs["run"]), []
    for (backbone, variant), seeds in runs.groupby(["backbone", "variant"])["seed"]:
        expected = [f"{backbone}/{variant}/seed-{seed}" for seed in range(seeds.max())]
        holes += [(name, "missing: there are runs of later seeds") for name in expected if name not in names]
    listed = pd.concat([problems, pd.DataFrame(holes, columns=["run", "problem"], dtype="str")], ignore_index=True)
    return replace(joined.take(order.index.to_numpy()), problems=listed.drop_duplicates("run", ignore_index=True))


def _one_code(study: Study, where: Path, code: str) -> Study:
    """The runs of one state of the code; ValueError that lists the runs where there are several and none is picked."""
    digests = study.runs["code"]
    if digests.nunique() > 1 and not code:
        listed = "; ".join(
            f"{digest or 'none'}: {', '.join(runs)}" for digest, runs in study.runs.groupby("code")["run"]
        )
        raise ValueError(
            f"{where}: the runs were made by different states of the code, so their differences would mix both. Digest and "
            f"runs: {listed}. Give `code` one of these digests, or train the runs anew with one state."
        )
    fits = digests.str.startswith(code)
    if not fits.any():
        raise ValueError(f"{where}: no run has the code digest {code!r}; found {', '.join(sorted(set(digests)))}.")
    others = study.runs[~fits]
    listed = pd.DataFrame({"run": others["run"], "problem": "made by the code " + others["code"] + ": left out"})
    picked = study.take(np.flatnonzero(fits))
    return replace(picked, problems=pd.concat([study.problems, listed.astype("str")], ignore_index=True))


# ---------------------------------------------------------------- one run


def _read_run(folder: Path) -> Study:
    """A study of one run."""
    settings = folders.read_settings(folder)
    origin, temperatures = (
        json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for name in ("provenance", "calibration")
    )
    tasks = Tasks(settings["tasks"], settings.get("titles"))
    backbone, variant, seed = settings["backbone"], settings["variant"], int(settings["seed"])
    run = f"{backbone}/{variant}/seed-{seed}"
    test, validation = (pd.read_parquet(folder / f"{name}.parquet") for name in ("predictions", "validation"))
    test = test.assign(image=test["image"].astype("str")).sort_values("image", kind="stable", ignore_index=True)
    text = {"dtype": "str", "keep_default_na": False, "na_values": [""]}
    labelsets = pd.read_csv(folder / "labelsets.csv", **text)
    truth = {"train": labelsets[list(tasks)].add_suffix(":true"), "val": validation, "test": test}
    truth = {split: _positions(frame, tasks, "true") for split, frame in truth.items()}
    weights = labelsets[":count"].astype(int).to_numpy()
    raw, tuned = {}, {}
    for split, frame in (("val", validation), ("test", test)):
        raw[split] = {task: frame[[f"{task}:p:{c}" for c in names]].to_numpy(float) for task, names in tasks.items()}
        tuned[split] = {task: rescale(p, temperatures[task]["temperature"]) for task, p in raw[split].items()}
    bins = [
        _reliability_of(p["test"][task], truth["test"][:, n]).assign(task=task, scaled=p is tuned)
        for p in (raw, tuned)
        for n, task in enumerate(tasks)
    ]
    frames = {
        "calibration": pd.concat(bins, ignore_index=True),
        "decoded": _decoded(tuned, truth, weights, tasks),
    }
    said = _positions(validation, tasks, "pred")
    kappa = [scores(true, own, size)[1] for true, own, size in zip(truth["val"].T, said.T, tasks.sizes, strict=True)]
    networks = origin["networks"]
    row = {"run": run, "backbone": backbone, "variant": variant, "seed": seed}
    row |= {"synthetic": bool(settings["synthetic"]), "image_size": int(settings["image_size"])}
    row |= {"val_kappa": float(np.nanmean(kappa)) if np.isfinite(kappa).any() else np.nan}
    row |= {"networks": len(networks), "epochs": sum(network["epochs"] for network in networks)}
    row |= {"stopped": sum(network["epochs"] < settings["max_epochs"] for network in networks)}
    row |= {"epochs_to_best": sum(network["best_epoch"] + 1 for network in networks)}
    block = test["block"] if "block" in test else pd.Series(None, index=test.index, dtype="object")
    block = block.where(block.notna(), test["image"]).astype("str")  # without blocks each image stands alone
    columns = [f"{task}:true" for task in tasks]
    positions = pd.DataFrame(truth["test"].astype(np.int16), columns=columns)
    return Study(
        tasks=tasks,
        runs=pd.DataFrame([row | {name: origin.get(name) for name in _KEPT}]),
        test=pd.concat([test["image"], block.rename("block"), positions], axis=1),
        predicted=_positions(test, tasks, "pred")[None].astype(np.int16),
        labelsets=pd.DataFrame(truth["train"], columns=columns).assign(**{":count": weights}),
        counts=pd.DataFrame(origin["counts"]),
        problems=pd.DataFrame(columns=["run", "problem"], dtype="str"),
        **{name: frame.assign(run=run)[["run", *frame.columns]] for name, frame in frames.items()},
    )


def _positions(frame: pd.DataFrame, tasks: Tasks, kind: str) -> np.ndarray:
    """``<task>:<kind>`` as positions (n, N), -1 = missing."""
    return np.stack([codes(frame[f"{task}:{kind}"], classes) for task, classes in tasks.items()], axis=1)


def _reliability_of(probabilities: np.ndarray, true: np.ndarray) -> pd.DataFrame:
    """Bins of equal width of the confidence in one task: bin, count, mean confidence and accuracy of the full ones."""
    sure, right = probabilities[true >= 0].max(axis=1), (probabilities.argmax(axis=1) == true)[true >= 0]
    place = np.clip(np.ceil(sure * BINS) - 1, 0, BINS - 1).astype(np.int64)
    count, *sums = (np.bincount(place, weights=values, minlength=BINS) for values in (None, sure, right))
    full = np.flatnonzero(count)
    confidence, accuracy = (total[full] / count[full] for total in sums)
    return pd.DataFrame({"bin": full, "count": count[full], "confidence": confidence, "accuracy": accuracy})


def _decoded(tuned: dict, truth: dict, counts: np.ndarray, tasks: Tasks) -> pd.DataFrame:
    """Both decodings of the temperature-scaled test probabilities: each task by itself, and jointly."""
    true, relations = truth["test"], excluded(truth["train"], counts, tasks)
    joint = fit_joint(tuned["val"], truth["val"], truth["train"], counts, tasks).decode(tuned["test"])
    own = np.stack([p.argmax(axis=1) for p in tuned["test"].values()], axis=1)
    rows = []
    for decoding, labels, p in (("argmax", own, tuned["test"]), ("joint", joint.labels, joint.marginals)):
        parts = [_quality(p[task], true[:, n]) for n, task in enumerate(tasks)]
        oa, kappa, ece = (np.nanmean(part) if np.isfinite(part).any() else np.nan for part in zip(*parts, strict=True))
        row = {"decoding": decoding, "oa": oa, "kappa": kappa, "ece": ece}
        annotated = (true >= 0).any(axis=1)
        right = ((labels == true) | (true < 0)).all(axis=1)[annotated]
        row |= {"exact_match": right.mean() if len(right) else np.nan, "unseen": unseen(labels, truth["train"]).mean()}
        rows.append(row | {"contradictions": contradictions(labels, relations)})
    return pd.DataFrame(rows)


def _quality(probabilities: np.ndarray, true: np.ndarray) -> tuple[float, float, float]:
    """Overall accuracy, kappa and expected calibration error of one task."""
    oa, kappa, _ = scores(true, probabilities.argmax(axis=1), probabilities.shape[1])
    return oa, kappa, calibration_gap(_reliability_of(probabilities, true))


def calibration_gap(bins: pd.DataFrame) -> float:
    """Expected calibration error of bins (count, confidence, accuracy); NaN without an image."""
    gap = (bins["count"] * (bins["accuracy"] - bins["confidence"]).abs()).sum()
    return float(gap / bins["count"].sum()) if len(bins) else np.nan


_FRAMES = [field.name for field in fields(Study) if field.name not in ("tasks", "predicted")]
