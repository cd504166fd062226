"""The paper's tables from a study's runs (sections 3 and 4.2), and the scores that every comparison rests on.

Scores are fractions in frames of single runs, percent in tables. Functions take a ``Study`` and return data frames;
``effects`` says what differs, ``evidence`` looks beyond accuracy, ``figures`` draws.
"""

from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files

import numpy as np
import pandas as pd
from scipy import stats

from mtclim.analysis.study import Study
from mtclim.metrics import from_confusion
from mtclim.tasks import SANTIAGO, Tasks
from mtclim.variants import VARIANTS, ordered, title

COMBINATIONS = 200_000
BACKBONES = ("densenet121", "tf_efficientnetv2_b3")
"""The paper's."""


def delta_m(scores: Mapping[str, float], baseline: Mapping[str, float]) -> float:
    """Accumulated relative residuals over tasks, in percent (Eq. 15): 100 * sum_n (M_m,n - M_b,n) / M_b,n.

    >>> round(delta_m({"height": 0.84, "roof": 0.55}, {"height": 0.80, "roof": 0.50}), 6)
    15.0

    Raises ValueError when the two do not have the same tasks or a baseline is zero.
    """
    scores, baseline = dict(scores), dict(baseline)
    if set(scores) != set(baseline):
        raise ValueError(
            f"delta_m: found scores of {sorted(scores)}; expected the baseline's tasks {sorted(baseline)}."
        )
    zero = [task for task, value in baseline.items() if value == 0]
    if zero:
        raise ValueError(f"delta_m: the baseline of {zero} is 0; a relative residual needs a score other than 0.")
    return float(100 * sum((scores[task] - baseline[task]) / baseline[task] for task in baseline))


# ---------------------------------------------------------------- scores of single runs


def confusions(study: Study, task: str) -> np.ndarray:
    """Confusion matrices (runs, K, K), rows reference, of one task; only annotated test images count."""
    k, n = len(study.tasks[task]), list(study.tasks).index(task)
    true = study.true[:, n]
    predicted = study.predicted[:, true >= 0, n].astype(np.int64)
    cells = (np.arange(len(predicted))[:, None] * k + true[true >= 0]) * k + predicted
    return np.bincount(cells.ravel(), minlength=len(predicted) * k * k).reshape(-1, k, k)


def run_scores(study: Study) -> pd.DataFrame:
    """OA and kappa (fractions) of each run and task, and of the task "mean": run, backbone, variant, seed, task, ..."""
    keys = study.runs[["run", "backbone", "variant", "seed"]]
    parts = []
    for task in study.tasks:
        oa, kappa, _ = from_confusion(confusions(study, task))
        parts.append(keys.assign(task=task, oa=oa, kappa=kappa))
    frame = pd.concat(parts, ignore_index=True)
    mean = frame.groupby("run", sort=False)[["oa", "kappa"]].mean().reset_index()
    return pd.concat([frame, keys.merge(mean, on="run").assign(task="mean")], ignore_index=True)


def class_scores(study: Study) -> pd.DataFrame:
    """F1 (fraction) of each run, task and class (Fig. 10); NaN for a class without a test image, never 0."""
    keys, parts = study.runs[["run", "backbone", "variant", "seed"]], []
    for task, classes in study.tasks.items():
        counts = confusions(study, task)
        f1 = np.where(counts.sum(-1) > 0, from_confusion(counts)[2], np.nan)
        parts += [keys.assign(task=task, **{"class": name}, f1=f1[:, k]) for k, name in enumerate(classes)]
    return pd.concat(parts, ignore_index=True)


def best_run(study: Study) -> str:
    """The run that all looks inside show (the paper's Figs 11 and 13): of the highest mean kappa on validation images.

    Only the twelve variants of Table 2 can be chosen, unless the study has none of them.
    """
    runs = study.runs[study.runs["variant"].isin(VARIANTS)]
    runs = runs if len(runs) else study.runs
    return runs.loc[runs["val_kappa"].fillna(-1).idxmax(), "run"]


def finished(study: Study) -> pd.DataFrame:
    """The runs that there are, per backbone and variant: realisations, networks stopped early, dates, machine, code."""
    lines = {}
    for key, rows in study.runs.groupby(["backbone", "variant"]):
        networks = int(rows["networks"].sum())
        line = {"realisations": len(rows), "stopped early": f"{int(rows['stopped'].sum())} of {networks} networks"}
        line |= {
            "epochs": rows["epochs"].mean(),
            "made": " to ".join(sorted({min(d := rows["date"].str[:10]), max(d)})),
        }
        for name, column in (("device", "device"), ("code", "code")):
            line[name] = ", ".join(sorted(set(rows[column].astype(str).str[:12])))
        lines[key] = line
    table = pd.DataFrame.from_dict(lines, orient="index").rename_axis(["backbone", "variant"])
    return table.loc[[(b, v) for b in study.backbones for v in study.variants if (b, v) in lines]]


# ---------------------------------------------------------------- the paper's tables


def table1(tasks: Tasks, backbones: Iterable[str] = BACKBONES) -> pd.DataFrame:
    """Table 1: input size in pixels and ImageNet accuracy (the paper's), parameters in millions as counted and as printed.

    Columns ("input", "paper"), ("ImageNet top-1 [%]", "paper") and (variant, "here" | "paper"); missing where the paper
    has no such backbone or other tasks.
    """
    import torch

    from mtclim.model import create_model

    rows = {}
    for backbone in backbones:
        paper = paper_numbers()["table1"].get(backbone, {})
        row = {(name, "paper"): paper.get(name, np.nan) for name in ("input", "ImageNet top-1 [%]")}
        for name in ("stc", "bl", "lim_ms_all"):
            with torch.device("meta"):  # shapes without memory
                row[title(name), "here"] = create_model(name, tasks, backbone).parameters_count() / 1e6
            row[title(name), "paper"] = paper.get(name, np.nan) if tasks == SANTIAGO else np.nan
        rows[backbone] = row
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("backbone")


def table2() -> pd.DataFrame:
    """Table 2 from the code's own definition: modules, classification feature vector and losses of each variant."""
    from mtclim.variants import CONTROLS, VARIANT_TABLE

    rows = {}
    for name in (*VARIANTS, *CONTROLS):
        variant = VARIANT_TABLE[name]
        parts = [part.split("_", 1) for part in variant.features]
        vector = [f"P(Y_T | x_{which.upper()})" if kind == "p" else f"x_{which.upper()}" for kind, which in parts]
        modules = ", ".join(module.upper() for module in variant.modules if module != "stc") or "-"
        losses = ", ".join(variant.losses)
        rows[title(name)] = {"modules": modules, "feature vector": f"[{', '.join(vector)}]", "supervision": losses}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("experiment")


def table3(study: Study) -> pd.DataFrame:
    """Table 3: mean OA and kappa in percent per backbone and variant, and Delta_m of these means against STC.

    Columns (task | "mean" | ":delta_m", "OA" | "kappa") and (":runs", ""); Delta_m is NaN without STC. Tasks without an
    annotated test image do not enter it.
    """
    scores = run_scores(study)
    mean = scores.groupby(["backbone", "variant", "task"])[["oa", "kappa"]].mean().mul(100).unstack("task")
    wide = mean.rename(columns={"oa": "OA"}, level=0).swaplevel(axis=1)
    tasks = [task for task in study.tasks if wide[task].notna().all(axis=None)]
    wide = wide[[(task, m) for task in [*study.tasks, "mean"] for m in ("OA", "kappa")]]
    for metric in ("OA", "kappa"):
        own = wide.xs(metric, axis=1, level=1)[tasks]
        stc = own[own.index.get_level_values("variant") == "stc"].droplevel("variant")
        stc = stc.reindex(own.index.get_level_values("backbone")).set_axis(own.index)
        delta = 100 * (own / stc.where(stc != 0) - 1).sum(axis=1, skipna=False)
        wide[":delta_m", metric] = delta.where(own.index.get_level_values("variant") != "stc")
    wide[":runs", ""] = study.runs.groupby(["backbone", "variant"]).size()
    wide.columns.names = ["task", "metric"]
    return wide.loc[[(b, v) for b in study.backbones for v in study.variants if (b, v) in wide.index]]


@cache
def paper_table3() -> pd.DataFrame:
    """The paper's Table 3 (percent, means of 11 realisations), in the shape of ``table3``."""
    with (files("mtclim.analysis") / "paper_table3.csv").open(encoding="utf-8") as stream:
        table = pd.read_csv(stream)
    table["backbone"] = table["backbone"].replace({"efficientnetv2_b3": "tf_efficientnetv2_b3"})
    table["variant"] = table["variant"].str.lower().str.replace("-", "_")
    table = table.set_index(["backbone", "variant"])
    pairs = [name.replace("delta_mean_", ":delta_m_").rsplit("_", 1) for name in table.columns]
    pairs = [(task, "OA" if metric == "oa" else metric) for task, metric in pairs]
    return table.set_axis(pd.MultiIndex.from_tuples(pairs, names=["task", "metric"]), axis=1)


@cache
def paper_numbers() -> dict:
    """The paper's other published numbers: Table 1, Fig. 9's whiskers, Fig. 12's hours, section 4.2's classes."""
    import yaml

    return yaml.safe_load((files("mtclim.analysis") / "paper.yaml").read_text(encoding="utf-8"))


# ---------------------------------------------------------------- residuals against the median STC (Fig. 9)


def stc_combinations(lengths: Iterable[int], limit: int = COMBINATIONS, seed: int = 0) -> tuple[np.ndarray, bool]:
    """Indices (M, N) of all combinations of task-wise STC runs and False; of more than ``limit`` a sample and True."""
    lengths = list(lengths)
    if np.prod([float(n) for n in lengths]) > limit:
        rng = np.random.default_rng(seed)
        return np.stack([rng.integers(0, n, limit) for n in lengths], axis=1), True
    every = np.meshgrid(*(np.arange(n) for n in lengths), indexing="ij")
    return np.stack(every, axis=-1).reshape(-1, len(lengths)), False


def residuals(study: Study, backbone: str) -> pd.DataFrame:
    """Delta_m(median), percent, of every run of one backbone and of every combination of STC's task-wise runs (Fig. 9).

    The baseline is the STC combination of (lower) median cross-task mean kappa. Columns variant, metric ("oa",
    "kappa"), value; ``attrs``: "combinations" drawn and whether "sampled". ValueError without STC runs.
    """
    frame = run_scores(study)
    frame = frame[(frame["backbone"] == backbone) & (frame["task"] != "mean")]
    wide = frame.pivot(index=["variant", "seed"], columns="task", values=["oa", "kappa"])
    if "stc" not in wide.index.get_level_values("variant"):
        raise ValueError(
            f"residuals: found no stc run with {backbone}; Delta_m is measured against single-task networks."
        )
    kappa = wide["kappa"]
    tasks = [task for task in study.tasks if kappa[task].notna().all() and (kappa[task] != 0).all()]
    stc = {metric: wide.loc["stc", metric][tasks].to_numpy() for metric in ("oa", "kappa")}  # (runs, N)
    chosen, sampled = stc_combinations([len(stc["kappa"])] * len(tasks))
    take = np.arange(len(tasks))
    middle = np.argsort(stc["kappa"][chosen, take].mean(axis=1), kind="stable")[(len(chosen) - 1) // 2]
    rest, parts = wide.drop("stc", level="variant"), []
    for metric, own in stc.items():
        base = own[chosen[middle], take]
        every = 100 * (own[chosen, take] / base - 1).sum(axis=1)
        values = 100 * (rest[metric][tasks].to_numpy() / base - 1).sum(axis=1)
        variant = np.r_[["stc"] * len(every), rest.index.get_level_values("variant")]
        parts.append(pd.DataFrame({"variant": variant, "metric": metric, "value": np.r_[every, values]}))
    result = pd.concat(parts, ignore_index=True)
    result.attrs = {"combinations": len(chosen), "sampled": sampled}
    return result


def box_statistics(frame: pd.DataFrame) -> pd.DataFrame:
    """Median, quartiles and whiskers (1.5 interquartile ranges) of ``residuals``, and differences of upper whiskers.

    One row a variant and metric; ``above_stc`` and ``above_bl`` are upper whisker minus STC's and BL's (section 4.2).
    """
    from matplotlib.cbook import boxplot_stats

    groups = {key: values.to_numpy() for key, values in frame.groupby(["metric", "variant"])["value"]}
    names = {"med": "median", "q1": "q1", "q3": "q3", "whislo": "low", "whishi": "high"}
    boxes = {key: boxplot_stats(values)[0] for key, values in groups.items()}
    rows = {key: {"n": len(groups[key])} | {name: box[k] for k, name in names.items()} for key, box in boxes.items()}
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis(["metric", "variant"])
    for name in ("stc", "bl"):
        other = {metric: rows[metric, name]["high"] for metric in ("oa", "kappa") if (metric, name) in rows}
        table[f"above_{name}"] = table["high"] - table.index.get_level_values("metric").map(other).astype(float)
    return table.loc[[(metric, v) for metric in ("oa", "kappa") for v in ordered(frame["variant"].unique())]]


# ---------------------------------------------------------------- uncertainty


def interval(values: np.ndarray) -> tuple[float, float, float]:
    """Mean and 95 % t-interval (NaN limits for one value: its spread cannot be known)."""
    values = np.asarray(values, dtype=float)
    mean, n = float(values.mean()), len(values)
    if n < 2:
        return mean, np.nan, np.nan
    half = stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n)
    return mean, mean - half, mean + half


def bootstrap(study: Study, draws: int = 1000, seed: int = 0) -> dict[str, np.ndarray]:
    """Mean OA and kappa over tasks (draws, runs) on test blocks drawn with replacement, the same draws for all runs."""
    block, names = pd.factorize(study.test["block"])
    b, r = len(names), len(study.runs)
    weights = np.random.default_rng(seed).multinomial(b, np.full(b, 1 / b), size=draws).astype(float)  # (draws, B)
    every = {"oa": [], "kappa": []}
    for n, k in enumerate(study.tasks.sizes):
        use = study.true[:, n] >= 0
        true, where, predicted = study.true[use, n], block[use], study.predicted[:, use, n].astype(np.int64)
        place = where * r + np.arange(r)[:, None]  # (R, n)
        columns = weights @ np.bincount((place * k + predicted).ravel(), minlength=b * r * k).reshape(b, r * k)
        rows = weights @ np.bincount(where * k + true, minlength=b * k).reshape(b, k)  # (draws, K)
        right = weights @ np.bincount(place[predicted == true], minlength=b * r).reshape(b, r)
        total = np.where(rows.sum(1) > 0, rows.sum(1), np.nan)[:, None]
        chance = np.einsum("drk,dk->dr", columns.reshape(draws, r, k), rows) / total**2
        every["oa"].append(right / total)
        beyond = np.where(chance < 1, 1 - chance, 1)
        every["kappa"].append(np.where(chance < 1, (right / total - chance) / beyond, 0.0 * total))
    known = [n for n, part in enumerate(every["oa"]) if np.isfinite(part).any()]
    return {metric: np.nanmean([parts[n] for n in known], axis=0) for metric, parts in every.items()}
