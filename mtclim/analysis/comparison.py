"""The comparison: the paper's tables from a study's runs (sections 3 and 4.2), and its paired contrasts with intervals.

Scores are fractions in frames of single runs, percent and percentage points in tables and contrasts. Functions take a
``Study`` (or frames made from it) and return data frames; ``evidence`` goes beyond the paper, ``figures`` draws.
"""

from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files

import numpy as np
import pandas as pd
from scipy import stats

from mtclim.analysis.study import Study, collect, load_study, ordered
from mtclim.metrics import from_confusion
from mtclim.tasks import SANTIAGO, Tasks
from mtclim.variants import title

__all__ = ["Study", "collect", "load_study", "ordered"]
TESTS_FROM = 8
"""Realisations below which no test is made: with fewer pairs a p-value says little that the interval does not."""
COMBINATIONS = 200_000
BACKBONES = {"densenet121": "DenseNet121", "tf_efficientnetv2_b3": "EfficientNetV2-B3"}


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
    k, true = len(study.tasks[task]), study.test[task].to_numpy(np.int64)
    use = true >= 0
    predicted = study.predicted(task)[:, use].astype(np.int64)
    cells = (np.arange(len(predicted))[:, None] * k + true[use]) * k + predicted
    return np.bincount(cells.ravel(), minlength=len(predicted) * k * k).reshape(-1, k, k)


def run_scores(study: Study) -> pd.DataFrame:
    """OA and kappa (fractions) of each run and task, and of the task "mean": run, backbone, variant, seed, task, ..."""
    keys = study.runs[["run", "backbone", "variant", "seed"]]
    parts = []
    for task in study.tasks:
        oa, kappa, _ = from_confusion(confusions(study, task))
        parts.append(keys.assign(task=task, oa=oa, kappa=kappa))
    mean = {name: np.nanmean([part[name] for part in parts], axis=0) for name in ("oa", "kappa")}
    return pd.concat([*parts, keys.assign(task="mean", **mean)], ignore_index=True)


def class_scores(study: Study) -> pd.DataFrame:
    """F1 (fraction) of each run, task and class; NaN for classes without a test image (Fig. 10)."""
    parts = []
    for task, classes in study.tasks.items():
        counts = confusions(study, task)
        f1 = np.where(counts.sum(-1) > 0, from_confusion(counts)[2], np.nan)
        wide = study.runs[["run", "backbone", "variant", "seed"]].join(pd.DataFrame(f1, columns=list(classes)))
        parts.append(
            wide.melt(["run", "backbone", "variant", "seed"], var_name="class", value_name="f1").assign(task=task)
        )
    return pd.concat(parts, ignore_index=True)


def best_run(study: Study) -> str:
    """The run of the highest mean kappa over tasks (the paper's Fig. 11 shows its confusion matrices)."""
    scores = run_scores(study).query("task == 'mean'")
    return scores.loc[scores["kappa"].idxmax(), "run"]


# ---------------------------------------------------------------- the paper's tables


def table1(tasks: Tasks, backbones: Iterable[str] = tuple(BACKBONES)) -> pd.DataFrame:
    """Trainable parameters in millions for STC, BL and LIM-MS_ALL, beside the paper's (Table 1), five tasks only."""
    import torch

    from mtclim.model import create_model

    paper = paper_numbers()["table1"] if tasks == SANTIAGO else {}
    rows = {}
    for backbone in backbones:
        with torch.device("meta"):  # shapes without memory
            models = {name: create_model(name, tasks, backbone) for name in ("stc", "bl", "lim_ms_all")}
        counts = {name: model.parameters_count() / 1e6 for name, model in models.items()}
        published = dict(zip(counts, paper.get(backbone, [None] * 3), strict=True))
        rows[backbone] = {
            (title(v), side): x for v in counts for side, x in (("here", counts[v]), ("paper", published[v]))
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("backbone")


def table2() -> pd.DataFrame:
    """Modules, classification feature vector and losses of each variant (Table 2), from the code's own definition."""
    from mtclim.model import VARIANT_TABLE

    rows = {}
    for name, variant in VARIANT_TABLE.items():
        parts = [part.split("_", 1) for part in variant.features]
        vector = [f"P(Y_T | x_{which.upper()})" if kind == "p" else f"x_{which.upper()}" for kind, which in parts]
        modules = ", ".join(module.upper() for module in variant.modules) or "-"
        losses = ", ".join(variant.losses)
        rows[title(name)] = {"modules": modules, "feature vector": f"[{', '.join(vector)}]", "supervision": losses}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("experiment")


def table3(study: Study) -> pd.DataFrame:
    """Mean OA and kappa in percent per backbone and variant, and Delta_m of these means against STC (Table 3).

    Columns (task | "mean" | "delta_m", "OA" | "kappa") and ("runs", ""); Delta_m is NaN without STC.
    """
    scores = run_scores(study)
    mean = scores.groupby(["backbone", "variant", "task"])[["oa", "kappa"]].mean().mul(100).unstack("task")
    wide = mean.rename(columns={"oa": "OA"}).swaplevel(axis=1)
    tasks = [task for task in study.tasks if wide[task].notna().all().all()]
    wide = wide[[(task, m) for task in [*study.tasks, "mean"] for m in ("OA", "kappa")]]
    for metric in ("OA", "kappa"):
        wide[("delta_m", metric)] = np.nan
        for backbone, variant in wide.index:
            if variant != "stc" and (backbone, "stc") in wide.index:
                ours, stc = (
                    {t: wide.loc[key, (t, metric)] for t in tasks} for key in ((backbone, variant), (backbone, "stc"))
                )
                wide.loc[(backbone, variant), ("delta_m", metric)] = _delta_or_nan(ours, stc)
    wide[("runs", "")] = study.runs.groupby(["backbone", "variant"]).size()
    index = [(b, v) for b in study.backbones for v in study.variants if (b, v) in wide.index]
    wide = wide.loc[index]
    wide.columns.names = ["task", "metric"]
    return wide


def _delta_or_nan(scores: Mapping[str, float], baseline: Mapping[str, float]) -> float:
    return delta_m(scores, baseline) if min(map(abs, baseline.values()), default=0) > 0 else np.nan


@cache
def paper_table3() -> pd.DataFrame:
    """The paper's Table 3 (percent, means of 11 realisations), in the shape of ``table3``."""
    with (files("mtclim.analysis") / "paper_table3.csv").open(encoding="utf-8") as stream:
        table = pd.read_csv(stream)
    table["backbone"] = table["backbone"].replace({"efficientnetv2_b3": "tf_efficientnetv2_b3"})
    table["variant"] = table["variant"].str.lower().str.replace("-", "_")
    table = table.set_index(["backbone", "variant"])
    pairs = [name.replace("delta_mean_", "delta_m_").rsplit("_", 1) for name in table.columns]
    table.columns = pd.MultiIndex.from_tuples(
        [(task, "OA" if m == "oa" else m) for task, m in pairs], names=["task", "metric"]
    )
    return table


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
    return np.stack(np.meshgrid(*(np.arange(n) for n in lengths), indexing="ij"), axis=-1).reshape(
        -1, len(lengths)
    ), False


def residuals(study: Study, backbone: str) -> pd.DataFrame:
    """Delta_m(median), percent, of every run of one backbone and of every combination of STC's task-wise runs (Fig. 9).

    The baseline is the STC combination of (lower) median cross-task mean kappa. Columns variant, metric ("oa",
    "kappa"), value; ``attrs``: "combinations" drawn and whether "sampled". ValueError without STC runs.
    """
    scores = run_scores(study).query("backbone == @backbone and task != 'mean'")
    wide = {
        m: scores.pivot_table(index=["variant", "seed"], columns="task", values=m)[lambda f: f.columns]
        for m in ("oa", "kappa")
    }
    if "stc" not in wide["kappa"].index.get_level_values(0):
        raise ValueError(
            f"residuals: found no stc run with {backbone}; Delta_m is measured against single-task networks."
        )
    tasks = [
        t
        for t in study.tasks
        if t in wide["kappa"] and wide["kappa"][t].notna().all() and (wide["kappa"][t] != 0).all()
    ]
    stc = {m: frame.loc["stc", tasks].to_numpy() for m, frame in wide.items()}  # (runs, N)
    chosen, sampled = stc_combinations([len(stc["kappa"])] * len(tasks))
    take = np.arange(len(tasks))
    middle = np.argsort(stc["kappa"][chosen, take].mean(axis=1), kind="stable")[(len(chosen) - 1) // 2]
    parts = []
    for metric, frame in wide.items():
        base = stc[metric][chosen[middle], take]
        every = 100 * (stc[metric][chosen, take] / base - 1).sum(axis=1)
        parts.append(pd.DataFrame({"variant": "stc", "metric": metric, "value": every}))
        rest = frame.drop("stc", level="variant")[tasks]
        values = 100 * (rest.to_numpy() / base - 1).sum(axis=1)
        parts.append(pd.DataFrame({"variant": rest.index.get_level_values(0), "metric": metric, "value": values}))
    result = pd.concat(parts, ignore_index=True)
    result.attrs = {"combinations": len(chosen), "sampled": sampled}
    return result


def box_statistics(frame: pd.DataFrame) -> pd.DataFrame:
    """Median, quartiles and whiskers (1.5 interquartile ranges) of ``residuals``, and differences of upper whiskers.

    One row a variant and metric; ``above_stc`` and ``above_bl`` are upper whisker minus STC's and BL's (section 4.2).
    """
    rows = []
    for (metric, variant), values in frame.groupby(["metric", "variant"])["value"]:
        q1, median, q3 = np.percentile(values, [25, 50, 75])
        inside = values[(values >= q1 - 1.5 * (q3 - q1)) & (values <= q3 + 1.5 * (q3 - q1))]
        row = {"metric": metric, "variant": variant, "n": len(values), "median": median, "q1": q1, "q3": q3}
        rows.append(row | {"low": inside.min(), "high": inside.max()})
    table = pd.DataFrame(rows).set_index(["metric", "variant"])
    for name in ("stc", "bl"):
        other = (
            table["high"].xs(name, level="variant")
            if name in table.index.get_level_values(1)
            else pd.Series(dtype=float)
        )
        table[f"above_{name}"] = table["high"] - table.index.get_level_values("metric").map(other)
    order = [(m, v) for m in ("oa", "kappa") for v in ordered(frame["variant"].unique())]
    return table.loc[order]


# ---------------------------------------------------------------- paired contrasts with their uncertainty


def contrasts(variants: Iterable[str]) -> list[tuple[str, str, str]]:
    """The comparisons (family, a, b) among the variants present, to be read as a minus b."""
    names = ordered(variants)
    multitask = [name for name in names if name not in ("stc", "bl_fc") and "-" not in name]
    pairs = [("the paper's steps", a, b) for a, b in (("bl", "stc"), ("bl_ms", "bl"))]
    pairs += [("the paper's steps", name, "bl_ms") for name in ("clim", "tlim", "lim")]
    pairs += [("stacking", f"{name}_ms_{which}", name) for name in ("clim", "tlim", "lim") for which in ("bl", "all")]
    pairs += [("against STC", name, "stc") for name in multitask]
    pairs += [("against BL", name, "bl") for name in multitask if name != "bl"]
    pairs += [("against BL-FC", name, "bl_fc") for name in multitask if name != "bl"]
    pairs += [("against detached", name, f"{name}-detach") for name in multitask]
    return [(family, a, b) for family, a, b in pairs if a in names and b in names]


def interval(values: np.ndarray) -> tuple[float, float, float]:
    """Mean and 95 % t-interval (NaN limits for one value: its spread cannot be known)."""
    values = np.asarray(values, dtype=float)
    mean, n = float(values.mean()), len(values)
    if n < 2:
        return mean, np.nan, np.nan
    half = stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n)
    return mean, mean - half, mean + half


def holm(p: np.ndarray) -> np.ndarray:
    """p-values adjusted for their number (Holm, 1979); NaN stays NaN and does not count."""
    p = np.asarray(p, dtype=float)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    adjusted = np.full(len(p), np.nan)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)))
    return adjusted


def bootstrap(study: Study, draws: int = 1000, seed: int = 0) -> dict[str, np.ndarray]:
    """Mean OA and kappa over tasks (draws, runs) on test blocks drawn with replacement, the same draws for all runs."""
    block, names = pd.factorize(study.test["block"])
    b, r = len(names), len(study.runs)
    weights = np.random.default_rng(seed).multinomial(b, np.full(b, 1 / b), size=draws).astype(float)  # (draws, B)
    every = {"oa": [], "kappa": []}
    for task, classes in study.tasks.items():
        k, true = len(classes), study.test[task].to_numpy(np.int64)
        use = true >= 0
        predicted, where = study.predicted(task)[:, use].astype(np.int64), block[use]
        cells = (where * r + np.arange(r)[:, None]) * k + predicted  # (R, n)
        columns = weights @ np.bincount(cells.ravel(), minlength=b * r * k).reshape(b, r * k)
        rows = weights @ np.bincount(where * k + true[use], minlength=b * k).reshape(b, k)  # (draws, K)
        hits = (where * r + np.arange(r)[:, None])[predicted == true[use]]
        right = weights @ np.bincount(hits, minlength=b * r).reshape(b, r)
        total = np.where(rows.sum(1) > 0, rows.sum(1), np.nan)[:, None]
        oa = right / total
        chance = np.einsum("drk,dk->dr", columns.reshape(draws, r, k), rows) / total**2
        every["oa"].append(oa)
        every["kappa"].append(np.where(chance < 1, (oa - chance) / np.where(chance < 1, 1 - chance, 1), 0.0))
    return {metric: np.nanmean(parts, axis=0) for metric, parts in every.items()}


def compare(study: Study, metric: str = "kappa", draws: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Contrasts paired by realisation (same partition, same seed), in percentage points of the mean over tasks.

    One row a contrast: backbone, family, a, b, n pairs, mean, its 95 % t-interval over realisations (low, high; from
    2), p and p_holm (paired t-test, corrected over all contrasts of the backbone; from 8 realisations), a 95 % interval
    over resampled test blocks (boot_low, boot_high), verdict.
    """
    parts = []
    for backbone in study.backbones:
        part = study.only(backbone)
        scores = run_scores(part).query("task == 'mean'").reset_index(drop=True)
        drawn, rows = bootstrap(part, draws, seed)[metric], []
        at = {(row.variant, row.seed): i for i, row in enumerate(scores.itertuples())}
        for family, a, b in contrasts(part.variants):
            seeds = sorted({s for v, s in at if v == a} & {s for v, s in at if v == b})
            if not seeds:
                continue
            ia, ib = ([at[variant, s] for s in seeds] for variant in (a, b))
            difference = 100 * (scores[metric].to_numpy()[ia] - scores[metric].to_numpy()[ib])
            mean, low, high = interval(difference)
            spread = 100 * (drawn[:, ia] - drawn[:, ib]).mean(axis=1)
            row = {"backbone": backbone, "family": family, "a": a, "b": b, "n": len(seeds), "mean": mean}
            row |= {"low": low, "high": high, "p": _paired_p(difference)}
            rows.append(row | dict(zip(("boot_low", "boot_high"), np.nanpercentile(spread, [2.5, 97.5]), strict=True)))
        table = pd.DataFrame(rows)
        if len(table):
            once = table.drop_duplicates(["a", "b"]).set_index(["a", "b"])["p"]
            adjusted = pd.Series(holm(once.to_numpy()), index=once.index)
            table.insert(9, "p_holm", adjusted.reindex(pd.MultiIndex.from_frame(table[["a", "b"]])).to_numpy())
            table["verdict"] = [verdict(row, metric) for row in table.itertuples()]
        parts.append(table)
    return pd.concat(parts, ignore_index=True)


def _paired_p(difference: np.ndarray) -> float:
    if len(difference) < TESTS_FROM:
        return np.nan
    if np.ptp(difference) == 0:
        return float(difference[0] == 0)
    return float(stats.ttest_1samp(difference, 0).pvalue)


def verdict(row, metric: str = "kappa") -> str:
    """One plain sentence on a row of ``compare``."""
    a, b, runs = title(row.a), title(row.b), f"{row.n} runs"
    name, side = "OA" if metric == "oa" else metric, "above" if row.mean >= 0 else "below"
    size = f"{abs(row.mean):.2f} points of mean {name} {side}"
    if row.n < 2:
        return f"{a} is {size} {b} in the one run of each; one run gives no interval, so no difference can be told."
    shown = f"95 % interval {row.low:+.2f} to {row.high:+.2f}"
    told = row.p_holm < 0.05 if row.n >= TESTS_FROM else row.low > 0 or row.high < 0
    if not told:
        chance = ""
        if row.low > 0 or row.high < 0:  # possible only where p is corrected
            chance = f"; alone that excludes 0, among so many comparisons it may be chance, Holm-adjusted p = {row.p_holm:.2f}"
        return (
            f"No difference between {a} and {b} can be told from {runs} (mean {row.mean:+.2f} points, {shown}{chance})."
        )
    if row.boot_low <= 0 <= row.boot_high:
        blocks = f"{row.boot_low:+.2f} to {row.boot_high:+.2f}"
        return (
            f"{a} is {size} {b} on these test images ({runs}, {shown}), but other test blocks could undo it ({blocks})."
        )
    return f"{a} is {size} {b} ({runs}, {shown}), and stays so over resampled test blocks."
