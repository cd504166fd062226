"""When does it help? BL, BL-FC and LIM-MS_ALL on a grid of cities of different interdependency and ambiguity."""

import json
from itertools import product
from pathlib import Path

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from mtclim import runs
from mtclim.analysis.comparison import welch
from mtclim.files import whole_or_absent
from mtclim.style import WIDTH, drawn, variant_colour
from mtclim.variants import title

DIALS = ("interdependency", "ambiguity")
KEYS = [*DIALS, "variant", "seed"]
SHOWN = ("bl", "bl_fc", "lim_ms_all")
PAIRS = (("lim_ms_all", "bl"), ("lim_ms_all", "bl_fc"), ("bl_fc", "bl"))


def grid_scores(root: str | Path, stored: str | Path) -> pd.DataFrame:
    """Kappa (fractions) of each finished run of a grid of cities: those in the CSV ``stored`` and those below ``root``.

    Columns: interdependency, ambiguity, variant, seed, code, date, ``mean:kappa`` and ``<task>:kappa``. A run below
    ``root`` replaces a stored one. Raises FileNotFoundError without a run, ValueError for several states of the code.
    """
    frames = [pd.read_csv(stored, keep_default_na=False, na_values=[""])] if Path(stored).exists() else []
    rows = []
    for folder in runs.find(root):
        settings = runs.read_settings(folder)
        origin, scores = (json.loads((folder / f"{n}.json").read_text("utf-8")) for n in ("provenance", "metrics"))
        row = {key: settings[key] for key in KEYS} | {key: origin[key] for key in ("code", "date")}
        rows.append(row | {f"{task}:kappa": scores["test"][task]["kappa"] for task in ("mean", *settings["tasks"])})
    frames += [pd.DataFrame(rows)] if rows else []
    if not frames:
        raise FileNotFoundError(f"{root}: found no finished run of a grid, and no {stored}; `make grid` trains them.")
    table = pd.concat(frames).drop_duplicates(KEYS, keep="last").sort_values(KEYS, ignore_index=True)
    if table["code"].nunique() > 1:
        found = f"runs that were made by different states of the code ({', '.join(map(str, table['code'].unique()))})"
        raise ValueError(f"{root} and {stored}: found {found}; delete those of one, or train them anew.")
    return table


def grid_gains(scores: pd.DataFrame, a: str, b: str, task: str = "mean") -> pd.DataFrame:
    """Gain of a over b in points: the two dials, n (the fewest runs), mean, low, high (95 %, Welch).

    Parameters
    ----------
    scores, a, b, task : ``grid_scores``, two variants, and the task, or "mean", whose kappa is compared.
    """
    rows = []
    for place, cell in scores.groupby(list(DIALS)):
        ours, theirs = (100 * cell.loc[cell["variant"] == name, f"{task}:kappa"].dropna() for name in (a, b))
        if len(ours) and len(theirs):
            rows.append([*place, min(len(ours), len(theirs)), *welch(ours, theirs)])
    return pd.DataFrame(rows, columns=[*DIALS, "n", "mean", "low", "high"])


def trend(scores: pd.DataFrame, variant: str, dial: str) -> tuple[float, float, float] | None:
    """Change of a variant's own mean kappa (points, 95 % limits) from a dial's lowest to its highest setting.

    Parameters
    ----------
    scores : Only runs whose other dial has a setting that occurs at both ends count; None where there are none.
    """
    own, (other,) = scores[scores["variant"] == variant], set(DIALS) - {dial}
    first, last = (own[own[dial] == end] for end in (own[dial].min(), own[dial].max()))
    low, high = first[first[other].isin(last[other])], last[last[other].isin(first[other])]
    if own[dial].nunique() < 2 or low.empty:
        return None
    return welch(*(100 * end.groupby("seed")["mean:kappa"].mean() for end in (high, low)))


@drawn
def figure(scores: pd.DataFrame) -> Figure:
    """Kappa of BL, BL-FC and LIM-MS_ALL against the interdependency of labels, and the differences between them."""
    picture, axes = plt.subplots(1, 1 + len(PAIRS), figsize=(WIDTH, 2.5))
    levels = sorted(scores["ambiguity"].unique())
    marks = dict(zip(levels, "osD^v" * len(levels), strict=False))
    for (variant, ambiguity), rows in scores.groupby(["variant", "ambiguity"]):
        mean = 100 * rows.groupby("interdependency")["mean:kappa"].mean()
        style = {"color": variant_colour(variant), "marker": marks[ambiguity], "ms": 4, "lw": 1.2}
        axes[0].plot(mean.index, mean, label=title(variant) if ambiguity == levels[0] else None, **style)
    axes[0].legend()
    axes[0].set(title="kappa [%]", xlabel="interdependency")
    for ax, (a, b) in zip(axes[1:], PAIRS, strict=True):
        for ambiguity, rows in grid_gains(scores, a, b).groupby("ambiguity"):
            style = {"marker": marks[ambiguity], "ms": 4, "lw": 1.2, "color": variant_colour(a)}
            reach = (rows["high"] - rows["mean"]).fillna(0)
            beside = rows["interdependency"] + 0.03 * levels.index(ambiguity)  # or one interval would hide another
            ax.errorbar(beside, rows["mean"], reach, label=f"ambiguity {ambiguity:g}", **style)
        ax.axhline(0, color="#555555", lw=0.8)
        ax.set(title=f"{title(a)}\n− {title(b)} [points]", xlabel="interdependency")
    picture.legend(*axes[1].get_legend_handles_labels(), loc="outside lower center", ncols=6)
    return picture


def write_grid(root: str | Path, out: str | Path) -> None:
    """Write what the grid says to ``out``: grid_runs.csv, whose runs stay, grid.csv and grid.svg."""
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    scores = grid_scores(root, out / "grid_runs.csv")
    tasks = [name.removesuffix(":kappa") for name in scores if name.endswith(":kappa")]
    gains = [grid_gains(scores, a, b, t).assign(a=a, b=b, task=t) for (a, b), t in product(PAIRS, tasks)]
    table = pd.concat(gains)[["a", "b", "task", *DIALS, "n", "mean", "low", "high"]]
    for name, frame in (("grid_runs.csv", scores), ("grid.csv", table.round(3))):
        with whole_or_absent(out / name) as beside:
            frame.to_csv(beside, index=False)
    with whole_or_absent(out / "grid.svg") as beside:
        figure(scores, synthetic=True).savefig(beside)
