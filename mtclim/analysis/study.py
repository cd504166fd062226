"""A study: the finished runs of one table of images and one state of the code, reduced to a few small tables."""

import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from mtclim import runs as folders
from mtclim.analysis.joint import fit_joint
from mtclim.analysis.labelsets import contradictions, excluded, labelsets_of, unseen
from mtclim.files import write_json
from mtclim.metrics import codes, rescale, scores
from mtclim.tasks import Tasks
from mtclim.variants import ordered

BINS = 15  # of equal width, for the expected calibration error
KEYS = ["run", "backbone", "variant", "seed"]
_LONG = ("calibration", "decoded")
_FRAMES = ("runs", "test", *_LONG, "labelsets", "counts", "problems")
_KEPT = ["steps_to_best", "parameters", "date", "device", "hardware", "commit", "code", "table"]


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
    """run, decoding ("argmax": each task by itself; "joint"), oa, kappa, ece (means over tasks; joint: of marginals);
    exact_match (right in every annotated task), unseen and contradictions (shares of most probable labelsets)."""
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
        return self.test.filter(like=":true").to_numpy(np.int64)

    @property
    def training(self) -> tuple[np.ndarray, np.ndarray]:
        """Labelsets (L, N) of the training images, -1 = not annotated, and how many images have each (L,)."""
        return self.labelsets.drop(columns=":count").to_numpy(np.int64), self.labelsets[":count"].to_numpy(np.int64)

    def only(self, backbone: str) -> "Study":
        """The same study with the runs of one backbone."""
        return self.take(self.runs["backbone"] == backbone)

    def take(self, rows: Sequence) -> "Study":
        """The same study with some runs, by position and in that order, or by a mask."""
        rows = np.asarray(rows)
        runs = self.runs.iloc[rows].reset_index(drop=True)
        kept = {name: runs[["run"]].merge(getattr(self, name), on="run") for name in _LONG}
        return replace(self, runs=runs, predicted=self.predicted[rows], **kept)


def load_study(folder: str | Path, code: str = "") -> Study:
    """Read a study from run folders (any depth below ``folder``) or from tables that ``collect`` wrote.

    Runs that cannot be read or compared are left out and listed in ``problems``; so are runs of another code where
    ``code``, a digest or its first digits, picks one. Raises FileNotFoundError without a finished run, and ValueError
    where runs of several states of the code would be mixed.
    """
    folder = Path(folder)
    for tables in (folder, folder / "tables"):
        if (tables / "study.json").exists():
            return _checked(_read_tables(tables), tables, code)
    return _checked(_scan(folder), folder, code)


def collect(runs_root: str | Path, results_dir: str | Path, code: str = "") -> Study:
    """Reduce the finished runs below ``runs_root`` to ``results_dir/tables`` (small, for git) and return the study.

    Parameters
    ----------
    results_dir, code : Runs already there stay, and those of the same name are replaced; ``code`` as in ``load_study``.

    Raises
    ------
    ValueError, FileNotFoundError
        Where the tables there are of other tasks, another table, test set or state of the code, or the folder holds
        something else; without a finished run.
    """
    study, tables = _scan(Path(runs_root)), Path(results_dir) / "tables"
    fresh, before = (tables.with_name(name) for name in (".tables.new", ".tables.old"))
    if before.exists() and not tables.exists():  # a kill between the two moves at the end
        before.rename(tables)
    if tables.exists() and any(tables.iterdir()) and not (tables / "study.json").exists():
        raise ValueError(f"{tables}: holds files that are no study and would be lost; choose another folder.")
    if (tables / "study.json").exists():
        old = _read_tables(tables)
        if _key(old) != _key(study):
            found = "a study of other tasks, another table or other test images"
            raise ValueError(f"{tables}: holds {found}; choose another folder or delete this one.")
        study = _join([old.take(~old.runs["run"].isin(study.runs["run"])), study])
    study = _checked(study, Path(runs_root), code)
    for left in (fresh, before):  # by a kill
        shutil.rmtree(left, ignore_errors=True)
    fresh.mkdir(parents=True)
    # All runs' answers for an image stand together, since they are mostly equal and so compress well.
    answers = study.predicted.transpose(1, 0, 2).reshape(-1, len(study.tasks))
    frames = {name: getattr(study, name) for name in _FRAMES}
    frames["predictions"] = pd.DataFrame(answers, columns=[f"{task}:pred" for task in study.tasks])
    for name, frame in frames.items():
        frame.to_parquet(fresh / f"{name}.parquet", index=False, compression="zstd")
    write_json(fresh / "study.json", {"tasks": study.tasks.to_dict(), "titles": study.tasks.titles})
    if tables.exists():
        tables.rename(before)  # in one move, so that a kill leaves no half of it
    fresh.rename(tables)
    shutil.rmtree(before, ignore_errors=True)
    return study


def calibration_gap(bins: pd.DataFrame) -> float:
    """Expected calibration error of bins (count, confidence, accuracy); NaN without an image."""
    gap = (bins["count"] * (bins["accuracy"] - bins["confidence"]).abs()).sum()
    return float(gap / bins["count"].sum()) if len(bins) else np.nan


def _read_tables(folder: Path) -> Study:
    about = json.loads((folder / "study.json").read_text(encoding="utf-8"))
    tasks = Tasks(about["tasks"], about["titles"])
    frames = {name: pd.read_parquet(folder / f"{name}.parquet") for name in _FRAMES}
    answers = pd.read_parquet(folder / "predictions.parquet").to_numpy()
    answers = answers.reshape(len(frames["test"]), len(frames["runs"]), len(tasks)).transpose(1, 0, 2)
    return Study(tasks=tasks, predicted=answers, **frames)


def _scan(root: Path) -> Study:
    """The comparable ones of all runs below a folder; why others are left out is among the problems."""
    found, problems = {}, []
    for folder in folders.find(root):
        name = str(folder.relative_to(root))
        try:
            study = _read_run(folder)
        except (OSError, KeyError, ValueError, folders.RunError) as error:
            problems.append((name, f"unreadable: {type(error).__name__}: {' '.join(str(error).split())}"))
            continue
        run = study.runs["run"][0]
        if run in found:
            problems.append((run, f"found twice; {name} left out"))
        found.setdefault(run, study)
    if not found:
        listed = "; ".join(f"{name}: {problem}" for name, problem in problems)
        raise FileNotFoundError(f"{root}: found no complete run folder; train one first. {listed}".rstrip())
    keys = {run: _key(study) for run, study in found.items()}
    most = Counter(keys.values()).most_common(1)[0][0]
    other = "other tasks, table or test images than most runs: not comparable, left out"
    problems += [(run, other) for run, key in keys.items() if key != most]
    begun = sorted(path.relative_to(root) for path in root.rglob("*.partial") if path.is_dir())
    problems += [(str(path).removesuffix(".partial"), "unfinished: in work, stopped or failed") for path in begun]
    joined = _join([study for run, study in found.items() if keys[run] == most])
    return replace(joined, problems=_listed(problems))


def _key(study: Study) -> tuple:
    """What runs must share to be compared."""
    return study.tasks, study.runs["table"][0], int(pd.util.hash_pandas_object(study.test).sum())


def _join(studies: list[Study]) -> Study:
    """One study of the runs of several, sorted, with the problems of the last."""
    frames = {name: pd.concat([getattr(own, name) for own in studies], ignore_index=True) for name in ("runs", *_LONG)}
    joined = replace(studies[-1], predicted=np.concatenate([own.predicted for own in studies]), **frames)
    variant = pd.Categorical(joined.runs["variant"], joined.variants)
    return joined.take(joined.runs.assign(variant=variant).sort_values(["backbone", "variant", "seed"]).index)


def _checked(study: Study, where: Path, code: str) -> Study:
    """The runs of one state of the code; the others, and holes in the sequences of seeds, join the problems."""
    digests = study.runs["code"]
    fits = digests.str.startswith(code)
    if not fits.any():
        raise ValueError(f"{where}: no run has the code digest {code!r}; found {', '.join(sorted(set(digests)))}.")
    if digests[fits].nunique() > 1:
        listed = "; ".join(f"{digest}: {', '.join(runs)}" for digest, runs in study.runs.groupby("code")["run"])
        mend = "give `code` one of these digests, or train the runs anew with one state"
        raise ValueError(f"{where}: the runs were made by different states of the code ({listed}); {mend}.")
    picked, others = study.take(fits), study.runs[~fits]
    problems = [(row.run, f"made by the code {row.code}: left out") for row in others.itertuples()]
    for (backbone, variant), seeds in picked.runs.groupby(["backbone", "variant"])["seed"]:
        absent = sorted(set(range(seeds.max())) - set(seeds))
        problems += [(f"{backbone}/{variant}/seed-{seed}", "missing: there are runs of later seeds") for seed in absent]
    every = pd.concat([study.problems, _listed(problems)])
    return replace(picked, problems=every.drop_duplicates("run", ignore_index=True))


def _read_run(folder: Path) -> Study:
    settings = folders.read_settings(folder)
    about = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")}
    origin, temperatures = about["provenance"], about["calibration"]
    tasks, networks = Tasks(settings["tasks"], settings["titles"]), pd.DataFrame(origin["networks"])
    row = {name: settings[name] for name in ("backbone", "variant", "seed", "synthetic")}
    row |= {
        "run": "{backbone}/{variant}/seed-{seed}".format(**settings),
        "val_kappa": np.float64(about["metrics"]["val"]["mean"]["kappa"]),  # None: not annotated
        "peak_memory_mb": np.float64(origin["peak_memory_mb"]),  # None: not measured on this system
        "networks": len(networks),
        "epochs": networks["epochs"].sum(),
        "stopped": (networks["epochs"] < settings["max_epochs"]).sum(),
        "epochs_to_best": (networks["best_epoch"] + 1).sum(),
    }
    frames = {"val": pd.read_parquet(folder / "validation.parquet")}
    test = pd.read_parquet(folder / "predictions.parquet").astype({"image": "str"})
    test = frames["test"] = test.sort_values("image", kind="stable", ignore_index=True)
    block = test.get("block", test["image"]).fillna(test["image"])  # without blocks each image stands alone
    train, counts = labelsets_of(folder, tasks)
    true, raw, tuned = {}, {}, {}
    for split, frame in frames.items():
        true[split] = _positions(frame, tasks, "true")
        raw[split] = {task: frame[[f"{task}:p:{c}" for c in names]].to_numpy(float) for task, names in tasks.items()}
        tuned[split] = {task: rescale(p, temperatures[task]["temperature"]) for task, p in raw[split].items()}
    joint = fit_joint(tuned["val"], true["val"], train, counts, tasks).decode(tuned["test"])
    own = np.stack([p.argmax(axis=1) for p in tuned["test"].values()], axis=1)
    relations, decoded = excluded(train, counts, tasks), []
    for decoding, labels, p in (("argmax", own, tuned["test"]), ("joint", joint.labels, joint.marginals)):
        shares = {"unseen": unseen(labels, train).mean(), "contradictions": contradictions(labels, relations)}
        decoded.append(_quality(p, labels, true["test"]) | {"decoding": decoding} | shares)
    bins = [
        reliability(p["test"][task], true["test"][:, n]).assign(run=row["run"], task=task, scaled=p is tuned)
        for p in (raw, tuned)
        for n, task in enumerate(tasks)
    ]
    columns = [f"{task}:true" for task in tasks]
    positions = pd.DataFrame(true["test"].astype(np.int16), columns=columns)
    return Study(
        tasks=tasks,
        runs=pd.DataFrame([row | {name: origin[name] for name in _KEPT}]),
        test=pd.concat([test["image"], block.astype("str").rename("block"), positions], axis=1),
        predicted=_positions(test, tasks, "pred")[None].astype(np.int16),
        calibration=pd.concat(bins, ignore_index=True),
        decoded=pd.DataFrame(decoded).assign(run=row["run"]),
        labelsets=pd.DataFrame(train, columns=columns).assign(**{":count": counts}),
        counts=pd.DataFrame(origin["counts"]),
        problems=_listed([]),
    )


def _positions(frame: pd.DataFrame, tasks: Tasks, kind: str) -> np.ndarray:
    """The columns ``<task>:<kind>`` as positions (n, N), -1 = missing."""
    return np.stack([codes(frame[f"{task}:{kind}"], classes) for task, classes in tasks.items()], axis=1)


def _listed(problems: list[tuple[str, str]]) -> pd.DataFrame:
    return pd.DataFrame(problems, columns=["run", "problem"], dtype="str")


def reliability(probabilities: np.ndarray, true: np.ndarray) -> pd.DataFrame:
    """Bins of equal width of the confidence in one task: bin, count, mean confidence and accuracy of the full ones."""
    p, true = probabilities[true >= 0], true[true >= 0]
    frame = pd.DataFrame({"confidence": p.max(axis=1), "accuracy": p.argmax(axis=1) == true})
    frame["bin"] = (np.ceil(frame["confidence"] * BINS) - 1).clip(0, BINS - 1).astype(int)
    groups = frame.groupby("bin")
    return groups.mean().assign(count=groups.size()).reset_index()


def _quality(probabilities: Mapping[str, np.ndarray], labels: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """Means over tasks of oa, kappa and ece from probabilities, and the exact match of labelsets (n, N)."""
    parts = []
    for p, own in zip(probabilities.values(), true.T, strict=True):
        oa, kappa, _ = scores(own, p.argmax(axis=1), p.shape[1])
        parts.append({"oa": oa, "kappa": kappa, "ece": calibration_gap(reliability(p, own))})
    right = ((labels == true) | (true < 0)).all(axis=1)[(true >= 0).any(axis=1)]
    return pd.DataFrame(parts).mean().to_dict() | {"exact_match": pd.Series(right).mean()}
