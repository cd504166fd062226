"""What a reviewer would ask beyond accuracy: do labels fit together, which errors, how sure, where, at what cost."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from mtclim.analysis.comparison import class_scores, confusions
from mtclim.analysis.labelsets import contradictions, excluded, unseen
from mtclim.analysis.study import KEYS, Study, calibration_gap
from mtclim.tasks import SANTIAGO, ordinal


def decodings(study: Study) -> pd.DataFrame:
    """Means of ``Study.decoded`` over realisations; index backbone, variant, decoding ("argmax" or "joint")."""
    frame = study.decoded.merge(study.runs[KEYS], on="run").drop(columns=["run", "seed"])
    return frame.groupby(["backbone", "variant", "decoding"], sort=False).mean()


def of_the_labels(study: Study) -> pd.DataFrame:
    """The test labels' own unseen labelsets and contradictions, a row to stand below ``decodings``."""
    (labelsets, counts), true = study.training, study.true
    complete, annotated = true[(true >= 0).all(axis=1)], true[(true >= 0).any(axis=1)]
    against = contradictions(complete, excluded(labelsets, counts, study.tasks))
    row = {"unseen": unseen(annotated, labelsets).mean(), "contradictions": against}
    return pd.DataFrame(row, pd.MultiIndex.from_tuples([("the test labels", "")], names=["variant", "decoding"]))


def error_structure(study: Study) -> pd.DataFrame:
    """Shares of the errors of each run: run, backbone, variant, seed, task, kind, share (NaN without errors).

    In tasks of ordered classes kind "adjoining" (section 4.3 says: all height errors). Where every class name joins two
    parts by its last "_", as SBST's material and height, "first part only", "second part only" and "both".
    """
    parts = [study.runs[KEYS].iloc[:0].assign(task="", kind="", share=0.0)]
    for task, classes in study.tasks.items():
        k = np.arange(len(classes))
        kinds = {"adjoining": np.abs(k[:, None] - k) == 1} if ordinal(classes) else {}
        names = np.array([name.rpartition("_") for name in classes])[:, [0, 2]]
        if (names != "").all() and all(len(set(part)) < len(classes) for part in names.T):  # parts come again
            first, second = (part[:, None] != part for part in names.T)
            kinds |= {"first part only": first & ~second, "second part only": second & ~first, "both": first & second}
        counts = confusions(study, task)
        errors = counts.sum((1, 2)) - counts.trace(axis1=1, axis2=2)
        for kind, cells in kinds.items():
            share = pd.Series((counts * cells).sum((1, 2))) / errors  # 0 / 0 is NaN
            parts.append(study.runs[KEYS].assign(task=task, kind=kind, share=share))
    return pd.concat(parts, ignore_index=True)


def confused_pairs(study: Study, run: str) -> pd.DataFrame:
    """The three most frequent errors of a run per task: task, reference, predicted, count, share, images (up to 4)."""
    at, rows = list(study.runs["run"]).index(run), []
    for n, (task, classes) in enumerate(study.tasks.items()):
        counts = pd.DataFrame(confusions(study, task)[at], classes, classes)
        errors = counts.stack().drop(list(zip(classes, classes, strict=True))).nlargest(3)
        for (reference, said), count in errors[errors > 0].items():
            here = (study.true[:, n] == classes.index(reference)) & (study.predicted[at, :, n] == classes.index(said))
            images = study.test["image"][here].head(4).tolist()
            rows.append([task, reference, said, count, count / counts.loc[reference].sum(), images])
    return pd.DataFrame(rows, columns=["task", "reference", "predicted", "count", "share", "images"])


def calibration_error(study: Study) -> pd.DataFrame:
    """Expected calibration error of each run and task: raw, scaled (by temperature), and perfect, the yardstick.

    ``perfect`` is what a network whose confidence is exactly right would score with as many images (200 simulations).
    """
    rng, rows = np.random.default_rng(0), []
    for (run, task), bins in study.calibration.groupby(["run", "task"], sort=False):
        scaled, raw = bins[bins["scaled"]], bins[~bins["scaled"]]
        count, sure = scaled["count"].to_numpy(), scaled["confidence"].to_numpy().clip(0, 1)
        apart = np.abs(rng.binomial(count, sure, (200, len(count))) / count - sure) * count
        perfect = (apart.sum(axis=1) / count.sum()).mean()
        rows.append([run, task, calibration_gap(raw), calibration_gap(scaled), perfect])
    return study.runs[KEYS].merge(pd.DataFrame(rows, columns=["run", "task", "raw", "scaled", "perfect"]), on="run")


def class_gains(study: Study, baseline: str = "stc") -> pd.DataFrame:
    """Mean F1 gain per class over ``baseline`` in points: backbone, variant, task, class, f1, base, gain, frequency."""
    keys = ["backbone", "variant", "task", "class"]
    f1 = class_scores(study).groupby(keys, sort=False)["f1"].mean().mul(100).reset_index()
    base = f1[f1["variant"] == baseline].drop(columns="variant").rename(columns={"f1": "base"})
    share = study.counts["train"] / study.counts.groupby("task")["train"].transform("sum")
    table = f1[f1["variant"] != baseline].merge(base).merge(study.counts[["task", "class"]].assign(frequency=share))
    return table.assign(gain=table["f1"] - table["base"])


def rarity(gains: pd.DataFrame) -> pd.DataFrame:
    """Spearman's rank correlation of gain and class frequency per variant; negative: rare classes gain more."""
    rows = []
    for variant, group in gains.dropna(subset="gain").groupby("variant", sort=False):
        known = len(group) > 2 and group["gain"].nunique() > 1 and group["frequency"].nunique() > 1
        rho, p = stats.spearmanr(group["frequency"], group["gain"]) if known else (np.nan, np.nan)
        rows.append([variant, rho, p, len(group)])
    return pd.DataFrame(rows, columns=["variant", "rho", "p", "classes"]).set_index("variant")


def cost(study: Study, benchmark: str | Path) -> pd.DataFrame:
    """What each variant costs (Fig. 12), from step times of the benchmark and never from the clocks of runs.

    ``benchmark`` is ``results/bench.json``, whose row 3 holds each variant's step time relative to BL's, for tasks of
    as many classes as the paper's. Means per backbone and variant: parameters, step (in steps of BL, NaN where not
    measured, as for other tasks), epochs_to_best and steps_to_best (of STC's networks the sums), peak_memory_mb, of_stc
    (time of all steps as a share of STC's), runs.
    """
    measured = study.tasks.sizes == SANTIAGO.sizes and Path(benchmark).exists()
    rows = json.loads(Path(benchmark).read_text(encoding="utf-8"))["rows"] if measured else []
    steps = {}
    for row in rows:
        if row["row"] == 3:
            _, variant, network, *_ = row["what"].split(", ")
            backbone = network.split()[0].split(".")[0]
            steps |= {(backbone, variant): row["ratio"], (backbone, "bl"): 1.0}
    groups = study.runs.groupby(["backbone", "variant"], sort=False)
    table = groups[["parameters", "networks", "epochs_to_best", "steps_to_best", "peak_memory_mb"]].mean()
    table.insert(1, "step", table.index.map(steps).astype(float))
    total = table["step"] / table.pop("networks") * table["steps_to_best"]  # a step of STC steps all its networks
    stc = total[total.index.get_level_values("variant") == "stc"].droplevel("variant")
    return table.assign(of_stc=total.div(stc, level="backbone"), runs=groups.size())
