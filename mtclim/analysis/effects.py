"""What differs between variants, and how surely: main effects, contrasts, verdicts, and what a number of runs can show.

Everything is in points of the mean over tasks. Intervals cover both realisations and test images.
"""

import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from mtclim.analysis.comparison import bootstrap, paper_numbers, paper_table3, run_scores
from mtclim.analysis.evidence import decodings
from mtclim.analysis.study import Study
from mtclim.files import whole_or_absent
from mtclim.variants import CONTROLS, VARIANT_TABLE, VARIANTS, title

MARGIN = 0.3  # points: a difference that is surely smaller is no effect worth having
REALISATIONS = 11  # the paper's
DECISIVE = ("main effect", "primary", "control")  # the families of contrasts that effects.csv holds
VERDICTS = ("effect", "no effect worth having", "cannot be told")
MULTITASK = VARIANTS[2:]  # all but STC and BL: their modules and stacked probabilities form a factorial design
FACTORS = {  # factor -> the parts of the feature vector that it adds, one of which each variant of it has
    "CLIM": {"x_clim"},
    "TLIM": {"x_tlim"},
    "stacking BL's probabilities": {"p_bl"},
    "stacking the module's own": {"p_clim", "p_tlim"},
}


def main_effects(runs: Mapping[str, int]) -> dict[str, dict[str, float]]:
    """Main effects by least squares over all runs of the ten multitask variants: factor -> weights of variants' means.

    ``runs``: how many each variant has. A factor whose effect these variants cannot tell from the others' is left out.
    """
    names = [name for name in MULTITASK if runs.get(name)]
    columns = [[not added.isdisjoint(VARIANT_TABLE[name].features) for name in names] for added in FACTORS.values()]
    design, root = np.array([np.ones(len(names)), *columns]), np.sqrt([runs[name] for name in names])
    weights = np.linalg.pinv((root * design).T) * root  # the mean and the factors = weights @ means of variants
    told = np.isclose(weights @ design.T, np.eye(len(design)), atol=1e-9).all(axis=1)
    rows = zip(FACTORS, weights[1:].tolist(), told[1:], strict=True)
    return {factor: dict(zip(names, row, strict=True)) for factor, row, known in rows if known}


def contrasts(runs: Mapping[str, int]) -> dict[tuple[str, str], dict[str, float]]:
    """All comparisons that these variants allow: (family, name) -> weights of the variants' means.

    Families: "main effect", "primary" (fixed before the study's runs), "control" (what a difference comes from),
    "against BL", "against BL-FC" and "the paper's steps". ``runs``: how many each variant has.
    """
    recurrent = [name for name in MULTITASK if name != "bl_ms"]
    pairs = {
        "primary": [("bl", "stc"), ("bl_ms", "bl_fc"), ("recurrent", "bl_fc"), ("lim_ms_all", "bl")]
        + [("lim_ms_all", other) for other in ("bl_fc", "lim_ms_all-shuffled")],
        "control": [("lim_ms_all", "lim_ms_all-own"), ("lim_ms_all", "lim_ms_all-detach")]
        + [(name, "bl_fc") for name in CONTROLS[1:]],
        "against BL": [(name, "bl") for name in VARIANT_TABLE if name not in ("stc", "bl")],
        "against BL-FC": [(name, "bl_fc") for name in VARIANT_TABLE if name not in ("stc", "bl_fc")],
        "the paper's steps": [("bl", "stc"), ("bl_ms", "bl")]
        + [(name, "bl_ms") for name in ("clim", "tlim", "lim")]
        + [(f"{name}_ms_{of}", name) for name in ("clim", "tlim", "lim") for of in ("bl", "all")],
    }
    found = {("main effect", factor): weights for factor, weights in main_effects(runs).items()}
    for family, of_family in pairs.items():
        for a, b in of_family:
            first = recurrent if a == "recurrent" else [a]
            if all(runs.get(name) for name in (*first, b)):
                name = "mean of the recurrent variants" if a == "recurrent" else title(a)
                found[family, f"{name} - {title(b)}"] = dict.fromkeys(first, 1 / len(first)) | {b: -1.0}
    return found


def effects(study: Study, metric: str = "kappa", draws: int = 2000) -> pd.DataFrame:
    """Every contrast of one backbone's runs with a 95 % interval over seeds and test blocks, by a two-way bootstrap.

    Deviations of seeds are widened for their small number (Hesterberg, 2015). Seeds and blocks are drawn together,
    which makes intervals rather too wide than too narrow (Owen, 2007).

    Parameters
    ----------
    metric, draws : "kappa" or "oa", and the number of draws of the bootstrap.

    Returns
    -------
    DataFrame
        Columns: family, contrast, estimate, low, high (points; NaN limits with a single realisation), runs (the fewest
        of a variant), paired (by seed, where correlation, the mean between variants, is above 0), correlation, verdict.
    """
    scores = run_scores(study).query("task == 'mean'").reset_index(drop=True)
    drawn, table = 100 * bootstrap(study, draws)[metric], (100 * scores[metric]).to_numpy()
    at = scores.reset_index().pivot(index="seed", columns="variant", values="index")
    correlation, rows = seed_correlation(scores, metric), []
    for (family, name), weights in contrasts(at.count().to_dict()).items():
        common = at[list(weights)].dropna()
        paired = correlation > 0 and len(common) > 1
        used = {v: (common if paired else at)[v].dropna().astype(int).to_numpy() for v in weights}
        if family == "main effect":  # least squares weights each of these runs alike
            weights = main_effects({v: len(own) for v, own in used.items()})[name]
        estimate = sum(weight * table[used[v]].mean() for v, weight in weights.items())
        few, spread, picked = min(map(len, used.values())), np.zeros(draws), None
        rng = np.random.default_rng(zlib.crc32(name.encode()))  # a contrast has one interval, in whichever family it is
        for v, weight in weights.items():
            n = len(used[v])
            picked = picked if paired and picked is not None else rng.multinomial(n, np.full(n, 1 / n), draws) / n
            own = drawn[:, used[v]]
            wider = stats.t.ppf(0.975, n - 1) / stats.norm.ppf(0.975) * np.sqrt(n / (n - 1)) if n > 1 else 1
            spread += weight * (own.mean(axis=1) + wider * ((own * picked).sum(axis=1) - own.mean(axis=1)))
        low, high = np.nanpercentile(spread, [2.5, 97.5]) if few > 1 else (np.nan, np.nan)
        rows.append([family, name, estimate, low, high, few, paired, correlation, verdict(low, high)])
    columns = ["family", "contrast", "estimate", "low", "high", "runs", "paired", "correlation", "verdict"]
    return pd.DataFrame(rows, columns=columns)


def seed_correlation(scores: pd.DataFrame, metric: str) -> float:
    """Mean correlation of variants across the seeds that they share; NaN with fewer than 3 seeds or 2 variants."""
    between = scores.pivot(index="seed", columns="variant", values=metric).corr(min_periods=3).to_numpy()
    return pd.Series(between[np.triu_indices(len(between), 1)], dtype=float).mean()


def verdict(low: float, high: float) -> str:
    """One of ``VERDICTS`` from an interval in points."""
    if -MARGIN < low and high < MARGIN:
        return VERDICTS[1]
    return VERDICTS[0] if low > 0 or high < 0 else VERDICTS[2]


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """``effects`` in words: difference and 95 % interval in points ("–" for a single run), realisations and verdict."""
    limits = [f"{row.low:+.2f} to {row.high:+.2f}" if np.isfinite(row.low) else "–" for row in table.itertuples()]
    columns = {"difference [points]": table["estimate"].map("{:+.2f}".format), "95 % interval": limits}
    columns |= {"realisations": table["runs"], "is it an effect?": table["verdict"]}
    return pd.DataFrame(columns).set_axis(table["contrast"])


def power(difference: float, sd: float, runs: int) -> float:
    """Power of a two-sided t-test at 5 %; NaN for a single run and without a scatter.

    Parameters
    ----------
    difference, sd : The true difference, and the standard deviation of the difference between two single runs.
    runs : Number of realisations. The degrees of freedom are one less, which is cautious for unpaired ones.
    """
    if runs < 2 or not sd > 0:
        return np.nan
    limit, shift = stats.t.ppf(0.975, runs - 1), abs(difference) / sd * np.sqrt(runs)
    return float(stats.nct.sf(limit, runs - 1, shift) + stats.nct.cdf(-limit, runs - 1, shift))


def powers(study: Study, metric: str = "kappa") -> pd.DataFrame:
    """What eleven realisations can show, from the scatter of one backbone's runs: contrast, sd, pilot, power, needed.

    ``sd`` (points) is of the difference of two single runs, ``pilot`` how many realisations it comes from, ``power``
    that for a true difference of the margin, and ``needed`` the realisations for a power of 80 % (up to 200).
    """
    scores, rows = run_scores(study).query("task == 'mean'"), []
    paired = seed_correlation(scores, metric) > 0
    wide = 100 * scores.pivot(index="seed", columns="variant", values=metric)
    for (family, name), weights in contrasts(wide.notna().sum().to_dict()).items():
        own = wide[list(weights)] * pd.Series(weights)
        sd = own.sum(axis=1, skipna=False).std() if paired else np.sqrt(own.var().sum(skipna=False))
        if family == "primary" and np.isfinite(sd):
            enough = next((n for n in range(2, 201) if power(MARGIN, sd, n) >= 0.8), np.nan)
            rows.append([name, sd, int(own.notna().sum().min()), power(MARGIN, sd, REALISATIONS), enough])
    return pd.DataFrame(rows, columns=["contrast", "sd", "pilot", "power", "needed"])


def paper_powers() -> pd.DataFrame:
    """Which differences of the paper's Table 3 (mean kappa) could eleven runs with its own scatter show?

    The paper prints no standard deviation. Its best run lies 0.53 points above the mean of its variant's eleven; the
    best of eleven lies 1.586 standard deviations above the mean on average. One row a backbone and contrast: backbone,
    contrast, difference, sd (of the difference of two runs), power. The test images are taken as given.
    """
    best, table = paper_numbers()["best_run"], paper_table3()["mean", "kappa"]
    one, rows = (best["kappa"] - table[best["backbone"], best["variant"]]) / 1.586, []
    for backbone, means in table.groupby(level="backbone"):
        means = means.droplevel("backbone")
        for (family, name), weights in contrasts(dict.fromkeys(means.index, 1)).items():
            if family in ("main effect", "primary") or name.startswith(("LIM-MS_ALL", "CLIM-MS_BL")):
                difference = sum(weight * means[v] for v, weight in weights.items())
                sd = one * np.linalg.norm(list(weights.values()))
                rows.append([backbone, name, difference, sd, power(difference, sd, REALISATIONS)])
    table = pd.DataFrame(rows, columns=["backbone", "contrast", "difference", "sd", "power"])
    return table.drop_duplicates(["backbone", "contrast"], ignore_index=True)


def write_summaries(study: Study, results: str | Path) -> None:
    """Write effects.csv (points of kappa; source: "city" or the folder's name) and joint.csv beside a study's tables.

    They have the contrasts of the ``DECISIVE`` families, and ``evidence.decodings``, of the backbone with most runs.
    """
    one, results = study.only(study.backbones[0]), Path(results)
    told = effects(one).query("family in @DECISIVE").round(4)
    told = told.assign(source="city" if study.synthetic else results.resolve().name)
    joint = decodings(one).reset_index().rename(columns={"kappa": "mean_kappa"}).round(5)
    for name, table, columns in (
        ("effects", told, ["contrast", "estimate", "low", "high", "runs", "source"]),
        ("joint", joint, ["variant", "decoding", "exact_match", "contradictions", "mean_kappa"]),
    ):
        with whole_or_absent(results / f"{name}.csv") as beside:
            table.to_csv(beside, index=False, columns=columns)
