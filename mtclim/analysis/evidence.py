"""What a reviewer would ask beyond accuracy: do labels fit together, which errors, how sure, where, at what cost.

Functions take a ``Study`` and return data frames.
"""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from mtclim.analysis.comparison import class_scores, confusions
from mtclim.analysis.joint import unseen
from mtclim.analysis.study import Study, calibration_gap, contradictions, excluded
from mtclim.data.labels import cooccurrence
from mtclim.files import whole_or_absent
from mtclim.tasks import ordinal
from mtclim.variants import VARIANT_TABLE

KEYS = ["run", "backbone", "variant", "seed"]


# ---------------------------------------------------------------- do the labels fit together?


def consistency(study: Study) -> pd.DataFrame:
    """How far each run's labels fit together, which accuracy does not show; the last row is of the test labels.

    run, backbone, variant, seed; contradictions: share of answers that contradict a relation of the training labels
    (``study.excluded``; SBST against material and height; NaN without a relation); unseen: share of answers that agree
    with no training labelset (``joint.unseen``); exact: share of images right in every annotated task.
    """
    labelsets, counts = study.training
    relations, true, rows = excluded(labelsets, counts, study.tasks), study.true, []
    full = (true >= 0).any(axis=1)
    for own in study.predicted.astype(np.int64):
        right = ((own == true) | (true < 0))[full].all(axis=1).mean()
        rows.append([contradictions(own, relations), unseen(own, labelsets).mean(), right])
    complete = true[(true >= 0).all(axis=1)]
    rows.append([contradictions(complete, relations), unseen(true[full], labelsets).mean(), 1.0])
    keys = pd.concat(
        [study.runs[KEYS], pd.DataFrame([{"run": "reference", "variant": "reference"}])], ignore_index=True
    )
    return keys.join(pd.DataFrame(rows, columns=["contradictions", "unseen", "exact"]))


def decodings(study: Study) -> pd.DataFrame:
    """Means over realisations of each variant decoded task by task ("argmax") and jointly ("joint"), as fractions.

    Index backbone, variant, decoding; oa, kappa and ece are of each task's own answer (jointly: the consistent
    marginals), exact_match, unseen and contradictions of the labelset (jointly: the most probable one).
    """
    frame = study.decoded.merge(study.runs[KEYS], on="run").drop(columns=["run", "seed"])
    table = frame.groupby(["backbone", "variant", "decoding"]).mean()
    order = [(b, v, d) for b in study.backbones for v in study.variants for d in ("argmax", "joint")]
    return table.loc[[key for key in order if key in table.index]]


def write_joint(study: Study, path: str | Path) -> pd.DataFrame:
    """Write variant, decoding, exact_match, contradictions, mean_kappa of the backbone with most runs to a CSV."""
    table = decodings(study).loc[study.backbones[0]].reset_index().rename(columns={"kappa": "mean_kappa"})
    table = table[["variant", "decoding", "exact_match", "contradictions", "mean_kappa"]]
    with whole_or_absent(path) as beside:
        table.round(5).to_csv(beside, index=False)
    return table


# ---------------------------------------------------------------- which errors, how sure


def compound(classes: Iterable[str]) -> bool:
    """Whether every class name joins two parts by its last "_", each part shared by several classes: MR_H1-2."""
    parts = [name.rsplit("_", 1) for name in classes]
    return all(len(part) == 2 for part in parts) and all(len({p[i] for p in parts}) < len(parts) for i in (0, 1))


def error_structure(study: Study) -> pd.DataFrame:
    """Shares of the errors of each run: run, backbone, variant, seed, task, kind, share (NaN without errors).

    In tasks of ordered classes kind "adjoining" (section 4.3 says: all height errors); in compound tasks (SBST) "first
    part only", "second part only" and "both" (there: material, height).
    """
    parts = [study.runs[KEYS].iloc[:0].assign(task="", kind="", share=0.0)]
    for task, classes in study.tasks.items():
        k = np.arange(len(classes))
        kinds = {"adjoining": np.abs(k[:, None] - k) == 1} if ordinal(classes) else {}
        if compound(classes):
            first, second = (np.array([name.rsplit("_", 1)[i] for name in classes]) for i in (0, 1))
            a, b = first[:, None] != first, second[:, None] != second
            kinds |= {"first part only": a & ~b, "second part only": b & ~a, "both": a & b}
        counts = confusions(study, task) * (1 - np.eye(len(classes)))
        total = np.where(counts.sum((1, 2)) > 0, counts.sum((1, 2)), np.nan)
        for kind, cells in kinds.items():
            parts.append(study.runs[KEYS].assign(task=task, kind=kind, share=(counts * cells).sum((1, 2)) / total))
    return pd.concat(parts, ignore_index=True)


def confused_pairs(study: Study, run: str, top: int = 3, pictures: int = 4) -> pd.DataFrame:
    """The most frequent errors of a run per task: task, reference, predicted, count, share, images (a list)."""
    at, rows = list(study.runs["run"]).index(run), []
    for n, (task, classes) in enumerate(study.tasks.items()):
        true, predicted, counts = study.true[:, n], study.predicted[at, :, n], confusions(study, task)[at]
        off = counts * (1 - np.eye(len(classes), dtype=int))
        for cell in np.argsort(-off.ravel(), kind="stable")[:top]:
            i, j = divmod(int(cell), len(classes))
            if off[i, j]:
                images = study.test["image"][(true == i) & (predicted == j)].head(pictures).tolist()
                row = {"task": task, "reference": classes[i], "predicted": classes[j], "count": int(off[i, j])}
                rows.append(row | {"share": off[i, j] / counts[i].sum(), "images": images})
    return pd.DataFrame(rows, columns=["task", "reference", "predicted", "count", "share", "images"])


def calibration_error(study: Study, draws: int = 200) -> pd.DataFrame:
    """Expected calibration error of each run and task: raw, scaled (by temperature), and perfect, the yardstick.

    ``perfect`` is what a network whose confidence is exactly right would score with as many images: for each bin of
    the scaled confidences the number right is drawn from its binomial distribution, and the mean over draws is taken.
    """
    rng, rows = np.random.default_rng(0), []
    for (run, task), bins in study.calibration.groupby(["run", "task"], sort=False):
        scaled, raw = bins[bins["scaled"]], bins[~bins["scaled"]]
        count, sure = scaled["count"].to_numpy(), scaled["confidence"].to_numpy().clip(0, 1)
        apart = np.abs(rng.binomial(count, sure, (draws, len(count))) / count - sure) * count
        row = {"raw": calibration_gap(raw), "scaled": calibration_gap(scaled)}
        rows.append({"run": run, "task": task} | row | {"perfect": (apart.sum(axis=1) / count.sum()).mean()})
    return study.runs[KEYS].merge(pd.DataFrame(rows, columns=["run", "task", "raw", "scaled", "perfect"]), on="run")


# ---------------------------------------------------------------- where it helps


def class_gains(study: Study, baseline: str = "stc") -> pd.DataFrame:
    """Mean F1 gain per class over ``baseline`` in points: backbone, variant, task, class, base, gain, ...

    ``frequency`` is the class's share of the annotated training images, ``n_test`` its number of test images.
    """
    keys = ["backbone", "variant", "task", "class"]
    f1 = class_scores(study).groupby(keys, sort=False)["f1"].mean().mul(100).reset_index(name="f1")
    base = f1[f1["variant"] == baseline].drop(columns="variant").rename(columns={"f1": "base"})
    table = f1[f1["variant"] != baseline].merge(base, on=["backbone", "task", "class"])
    counts = study.counts.rename(columns={"test": "n_test"})
    counts = counts.assign(frequency=counts["train"] / counts.groupby("task")["train"].transform("sum"))
    counts = counts[["task", "class", "frequency", "n_test"]]
    table = table.assign(gain=table["f1"] - table["base"]).merge(counts, on=["task", "class"])
    rank = {name: i for i, name in enumerate(study.variants)}
    return table.sort_values("variant", key=lambda v: v.map(rank), kind="stable", ignore_index=True)


def rarity(gains: pd.DataFrame) -> pd.DataFrame:
    """Spearman's rank correlation of gain and class frequency per variant; negative: rare classes gain more."""
    rows = []
    for (backbone, variant), group in gains.dropna(subset="gain").groupby(["backbone", "variant"], sort=False):
        known = len(group) > 2 and group["gain"].nunique() > 1 and group["frequency"].nunique() > 1
        rho, p = stats.spearmanr(group["frequency"], group["gain"]) if known else (np.nan, np.nan)
        rows.append({"backbone": backbone, "variant": variant, "rho": rho, "p": p, "classes": len(group)})
    return pd.DataFrame(rows, columns=["backbone", "variant", "rho", "p", "classes"])


def negative_transfer(gains: pd.DataFrame) -> pd.DataFrame:
    """Classes where BL's mean F1 is below STC's: their gains over STC (points), one column a variant (section 4.2).

    ``gains``: ``class_gains(study, "stc")``. Index backbone, task, class.
    """
    wide = gains.pivot(index=["backbone", "task", "class"], columns="variant", values="gain")
    return wide.loc[wide["bl"] < 0, list(dict.fromkeys(gains["variant"]))] if "bl" in wide else wide.iloc[:0]


# ---------------------------------------------------------------- at what cost


def cost(study: Study, benchmark: str | Path) -> pd.DataFrame:
    """What each variant costs (Fig. 12), from step times of the benchmark, never from the clocks of runs.

    Parameters
    ----------
    study : the runs.
    benchmark : ``results/bench.json``, whose row 3 holds each variant's step time relative to BL's, measured alone on
        the machine. Where it or the variant is absent, times are NaN.

    Returns
    -------
    DataFrame
        Means per backbone and variant: parameters, step (in steps of BL), epochs_to_best and steps_to_best (of STC's
        networks the sums), total (step times steps, in BL's steps), of_stc (total / STC's), memory (MB, peak), runs.
    """
    rows = json.loads(Path(benchmark).read_text(encoding="utf-8"))["rows"] if Path(benchmark).exists() else []
    step = {row["what"].split(", ")[1]: row["ratio"] for row in rows if row["row"] == 3}
    step |= {"bl": 1.0} if step else {}
    groups = study.runs.groupby(["backbone", "variant"])
    table = groups[["parameters", "networks", "epochs_to_best", "steps_to_best", "peak_memory_mb"]].mean()
    variant = table.index.get_level_values("variant")
    table.insert(1, "step", variant.map(step).astype(float))
    total = table["step"] / table.pop("networks") * table["steps_to_best"]  # a step of STC steps all its networks
    stc = total[variant == "stc"].droplevel("variant").reindex(table.index.get_level_values("backbone"))
    table = table.assign(total=total, of_stc=total / stc.to_numpy(), runs=groups.size())
    return table.loc[[(b, v) for b in study.backbones for v in study.variants if (b, v) in table.index]]


# ---------------------------------------------------------------- looking inside


def reads_labels(variant: str) -> bool:
    """Whether a variant's final classifiers read interim probabilities of the tasks."""
    return bool({"p_bl", "x_clim", "x_tlim"} & set(VARIANT_TABLE[variant].features))


def dependence(study: Study) -> pd.DataFrame:
    """How a label changes the odds of another in the training labels: P(column | row) - P(column), (S, S).

    Over "task:class"; NaN where the row's class never occurs with the column's task.
    """
    codes, counts = study.training
    columns = zip(study.tasks.items(), codes.T, strict=True)
    labels = {task: pd.Categorical.from_codes(own.repeat(counts), classes) for (task, classes), own in columns}
    share = [pd.Series(own).value_counts(normalize=True, sort=False) for own in labels.values()]
    return cooccurrence(pd.DataFrame(labels)) - np.concatenate(share)
