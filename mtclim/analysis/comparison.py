"""The paper's tables from a study's runs (sections 3 and 4.2), and the scores that every comparison rests on.

Scores are fractions in frames of single runs, percent in tables.
"""

from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files

import numpy as np
import pandas as pd
import yaml
from matplotlib.cbook import boxplot_stats
from scipy import stats
from scipy.sparse import csr_array

from mtclim.analysis.study import KEYS, Study
from mtclim.metrics import confusion, from_confusion
from mtclim.tasks import SANTIAGO, Tasks
from mtclim.variants import CONTROLS, VARIANT_TABLE, VARIANTS, ordered, title

COMBINATIONS = 200_000  # of more combinations of STC's networks a sample of so many is taken
BACKBONES = ("densenet121", "tf_efficientnetv2_b3")  # the paper's


def delta_m(scores: Mapping[str, float], baseline: Mapping[str, float]) -> float:
    """Accumulated relative residuals over tasks, in percent (Eq. 15): 100 * sum_n (M_m,n - M_b,n) / M_b,n.

    >>> round(delta_m({"height": 0.84, "roof": 0.55}, {"height": 0.80, "roof": 0.50}), 6)
    15.0

    Raises ValueError when the two do not have the same tasks or a baseline is zero.
    """
    ours, base = (pd.Series(dict(values), dtype=float) for values in (scores, baseline))
    if set(ours.index) != set(base.index) or (base == 0).any():
        found = f"scores {ours.to_dict()} and a baseline {base.to_dict()}"
        raise ValueError(f"delta_m: found {found}; expected the same tasks in both, and no baseline of 0.")
    return float(100 * (ours / base - 1).sum(skipna=False))


def confusions(study: Study, task: str) -> np.ndarray:
    """Confusion matrices (runs, K, K), rows reference, of one task; only annotated test images count."""
    k, n = len(study.tasks[task]), list(study.tasks).index(task)
    return np.stack([confusion(study.true[:, n], predicted, k) for predicted in study.predicted[:, :, n]])


def run_scores(study: Study) -> pd.DataFrame:
    """OA and kappa (fractions) of each run and task, and of the task "mean": run, backbone, variant, seed, task, ..."""
    parts = []
    for task in study.tasks:
        oa, kappa, _ = from_confusion(confusions(study, task))
        parts.append(study.runs[KEYS].assign(task=task, oa=oa, kappa=kappa))
    mean = pd.concat(parts).groupby(level=0)[["oa", "kappa"]].mean()
    return pd.concat([*parts, study.runs[KEYS].assign(task="mean").join(mean)], ignore_index=True)


def class_scores(study: Study) -> pd.DataFrame:
    """F1 (fraction) of each run, task and class (Fig. 10); NaN for a class without a test image, never 0."""
    keys, parts = study.runs[KEYS], []
    for task, classes in study.tasks.items():
        f1 = from_confusion(confusions(study, task))[2]
        parts += [keys.assign(task=task, **{"class": name}, f1=f1[:, k]) for k, name in enumerate(classes)]
    return pd.concat(parts, ignore_index=True)


def best_run(study: Study) -> str:
    """The run of the highest mean kappa on validation images, if possible of a variant of Table 2 (Figs 11 and 13)."""
    runs = study.runs.assign(twelve=study.runs["variant"].isin(VARIANTS))
    return runs.sort_values(["twelve", "val_kappa"], ascending=False)["run"].iloc[0]


def finished(study: Study) -> pd.DataFrame:
    """The runs there are, per backbone and variant: how many, networks, networks stopped early, and mean epochs."""
    return study.runs.groupby(["backbone", "variant"], sort=False).agg(
        realisations=("run", "size"),
        networks=("networks", "sum"),
        stopped=("stopped", "sum"),
        epochs=("epochs", "mean"),
    )


def table1(tasks: Tasks, backbones: Iterable[str] = BACKBONES) -> pd.DataFrame:
    """Table 1: input size in pixels and ImageNet accuracy (the paper's), and parameters in millions.

    Columns (name, "here" | "paper"), as counted and as printed; missing where the paper has no such backbone or tasks.
    """
    import torch

    from mtclim.model import create_model

    rows = {}
    for backbone in backbones:
        paper = paper_numbers()["table1"].get(backbone, {})
        row = {(name, "paper"): paper.get(name) for name in ("input", "ImageNet top-1 [%]")}
        for name in ("stc", "bl", "lim_ms_all"):
            with torch.device("meta"):  # shapes without memory
                row[title(name), "here"] = create_model(name, tasks, backbone).parameters_count() / 1e6
            row[title(name), "paper"] = paper.get(name) if tasks == SANTIAGO else None
        rows[backbone] = row
    return pd.DataFrame.from_dict(rows, orient="index", dtype=float).rename_axis("backbone")


def table2(variants: Iterable[str] = (*VARIANTS, *CONTROLS)) -> pd.DataFrame:
    """Table 2 from the code's own definition: modules, classification feature vector and losses of each variant."""
    kinds, rows = {"x": "x_{}", "p": "P(Y_T | x_{})"}, {}
    for name in variants:
        variant = VARIANT_TABLE[name]
        vector = [kinds[part[0]].format(part[2:].upper()) for part in variant.features]  # such as "p_clim"
        modules = ", ".join(variant.modules).upper() or "-"
        rows[title(name)] = [modules, f"[{', '.join(vector)}]", ", ".join(variant.losses)]
    columns = ["modules", "feature vector", "supervision"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("experiment")


def table3(study: Study) -> pd.DataFrame:
    """Table 3: mean OA and kappa in percent per backbone and variant, and Delta_m of these means against STC.

    Columns (task | "mean" | ":delta_m", "OA" | "kappa") and (":runs", ""); Delta_m is NaN without STC. Tasks without an
    annotated test image do not enter it.
    """
    mean = run_scores(study).groupby(["backbone", "variant", "task"], sort=False)[["oa", "kappa"]].mean()
    wide = mean.mul(100).unstack("task").rename(columns={"oa": "OA"}, level=0).swaplevel(axis=1)
    columns = [(task, metric) for task in [*study.tasks, "mean"] for metric in ("OA", "kappa")]
    wide = wide.loc[mean.index.droplevel("task").unique(), columns]
    tasks = [task for task in study.tasks if wide[task].notna().all(axis=None)]
    for metric in ("OA", "kappa"):
        own = wide.xs(metric, axis=1, level=1)[tasks]
        stc = own[own.index.get_level_values("variant") == "stc"].droplevel("variant")
        gains = own.div(stc.where(stc != 0), level="backbone").sub(1).sum(axis=1, skipna=False)
        wide[":delta_m", metric] = 100 * gains.drop("stc", level="variant", errors="ignore")
    wide[":runs", ""] = study.runs.groupby(["backbone", "variant"]).size()
    return wide.rename_axis(columns=["task", "metric"])


def paper_table3() -> pd.DataFrame:
    """The paper's Table 3 (percent, means of 11 realisations), in the shape of ``table3``."""
    return pd.read_csv(files("mtclim.analysis") / "paper_table3.csv", header=[0, 1], index_col=[0, 1])


def paper_numbers() -> dict:
    """The paper's other published numbers: Table 1, Fig. 9's whiskers, Fig. 12's hours, section 4.2's classes."""
    return yaml.safe_load((files("mtclim.analysis") / "paper.yaml").read_text(encoding="utf-8"))


def stc_combinations(lengths: Sequence[int]) -> tuple[np.ndarray, bool]:
    """Indices (M, N) of all combinations of task-wise STC runs and False; of too many a sample and True."""
    if np.prod(lengths, dtype=float) > COMBINATIONS:
        return np.random.default_rng(0).integers(0, lengths, (COMBINATIONS, len(lengths))), True
    return np.indices(lengths).reshape(len(lengths), -1).T, False


def residuals(study: Study) -> pd.DataFrame:
    """Delta_m(median), percent, of every run of one backbone and of every combination of STC's task-wise runs (Fig. 9).

    The baseline is the STC combination of (lower) median cross-task mean kappa. Columns variant, metric ("oa",
    "kappa"), value; ``attrs``: "combinations" drawn, whether "sampled", and "left_out", the tasks for which a run has
    the score 0 or none. Without another task it is empty. There must be runs of STC.
    """
    frame = run_scores(study).query("task != 'mean'")
    wide = frame.pivot(index=["variant", "seed"], columns="task", values=["oa", "kappa"])
    usable = (wide.notna() & (wide != 0)).all().unstack("task").all()
    tasks, left_out = ([task for task in study.tasks if usable[task] == kind] for kind in (True, False))
    if not tasks:
        empty = pd.DataFrame(columns=["variant", "metric", "value"])
        empty.attrs["left_out"] = left_out
        return empty
    stc = {metric: wide.loc["stc", metric][tasks].to_numpy() for metric in ("oa", "kappa")}  # (runs, N)
    chosen, sampled = stc_combinations([len(stc["kappa"])] * len(tasks))
    take = np.arange(len(tasks))
    middle = np.argsort(stc["kappa"][chosen, take].mean(axis=1), kind="stable")[(len(chosen) - 1) // 2]
    rest, parts = wide.drop("stc", level="variant"), []
    for metric, own in stc.items():
        base = own[chosen[middle], take]
        every = np.r_[own[chosen, take], rest[metric][tasks].to_numpy()]
        variant = np.r_[["stc"] * len(chosen), rest.index.get_level_values("variant")]
        value = 100 * (every / base - 1).sum(axis=1)
        parts.append(pd.DataFrame({"variant": variant, "metric": metric, "value": value}))
    result = pd.concat(parts, ignore_index=True)
    result.attrs = {"combinations": len(chosen), "sampled": sampled, "left_out": left_out}
    return result


def whiskers(frame: pd.DataFrame) -> pd.DataFrame:
    """Medians and upper whiskers of ``residuals`` by variant, and the whiskers above STC's and BL's (section 4.2)."""
    groups = frame.groupby(["variant", "metric"])["value"]
    boxes = pd.DataFrame({key: boxplot_stats(own)[0] for key, own in groups}).T.rename_axis(["variant", "metric"])
    median, high = (boxes[what].astype(float).unstack()[["oa", "kappa"]] for what in ("med", "whishi"))
    parts = {"median": median, "upper whisker": high}
    parts |= {f"above {title(name)}'s": high - high.reindex([name]).iloc[0] for name in ("stc", "bl")}
    return pd.concat(parts, axis=1).loc[ordered(high.index)]


def welch(a: np.ndarray, b: np.ndarray) -> tuple[float, float, float]:
    """Mean of a minus mean of b, with a 95 % interval that allows for unequal variances (NaN limits for one value)."""
    few = min(len(a), len(b)) < 2
    limits = (np.nan, np.nan) if few else stats.ttest_ind(a, b, equal_var=False).confidence_interval()
    return float(np.mean(a) - np.mean(b)), *map(float, limits)


def bootstrap(study: Study, draws: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Mean OA and kappa over tasks (draws, runs) on test blocks drawn with replacement, the same draws for all runs.

    Parameters
    ----------
    draws, seed : How many times all blocks are drawn, and where the random numbers begin.
    """
    block, names = pd.factorize(study.test["block"])
    blocks, found = len(names), np.full((2, draws, len(study.runs), len(study.tasks)), np.nan)
    weights = np.random.default_rng(seed).multinomial(blocks, np.full(blocks, 1 / blocks), size=draws).astype(float)
    for n, k in enumerate(study.tasks.sizes):
        use = study.true[:, n] >= 0
        for run, predicted in enumerate(study.predicted[:, use, n].astype(np.int64)):
            cells = study.true[use, n] * k + predicted
            counts = csr_array((np.ones(len(cells)), (block[use], cells)), (blocks, k * k))
            found[:, :, run, n] = from_confusion((weights @ counts).reshape(draws, k, k))[:2]
    return dict(zip(("oa", "kappa"), np.nanmean(found, axis=-1), strict=True))
