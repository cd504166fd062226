"""Whether another learning rate would change the answer: BL-FC and LIM-MS_ALL at several rates, all variants at one.

``python book/_ext/rates.py runs/study runs/rates`` writes ``results/rates.csv`` and ``results/rate_effects.csv`` from
finished runs; the second folder has a folder of runs for each rate.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from rivals import over_seeds
from scipy import stats

from mtclim import runs
from mtclim.analysis.effects import DECISIVE, effects
from mtclim.analysis.study import load_study
from mtclim.files import whole_or_absent
from mtclim.variants import title

BASE, FULL = "bl_fc", "lim_ms_all"
COLUMNS = ["learning_rate", "variant", "seed", "val_kappa", "test_kappa", "epochs", "code"]
EFFECTS = ["learning_rate", "contrast", "estimate", "low", "high", "runs"]


def collected(roots: Sequence[Path]) -> pd.DataFrame:
    """One row a finished run of the two variants, with its mean kappa (fractions); seeds that all rates share."""
    rows = []
    for folder in (found for root in roots for found in runs.find(root)):
        settings = runs.read_settings(folder)
        if settings["variant"] in (BASE, FULL):
            scores, origin = (json.loads((folder / f"{name}.json").read_text()) for name in ("metrics", "provenance"))
            kappas = [scores[split]["mean"]["kappa"] for split in ("val", "test")]
            about = [settings[name] for name in COLUMNS[:3]]
            rows.append([*about, *kappas, origin["networks"][0]["epochs"], origin["code"]])
    table = pd.DataFrame(rows, columns=COLUMNS).sort_values(COLUMNS[:3])
    if table["code"].nunique() > 1:
        raise ValueError(f"rates: found runs of the codes {', '.join(table['code'].unique())}; expected one.")
    shared = table.groupby("seed")["learning_rate"].count()
    return table[table["seed"].isin(shared.index[shared == shared.max()])]


def compared(table: pd.DataFrame) -> pd.DataFrame:
    """A row a rate: mean kappa of both variants on validation images and the difference on test images, in points."""
    rows = {}
    for rate, own in table.groupby("learning_rate"):
        base, full = (own[own["variant"] == name] for name in (BASE, FULL))
        if len(base) and len(full):
            means = {name: 100 * part["val_kappa"].mean() for name, part in ((BASE, base), (FULL, full))}
            rows[rate] = means | over_seeds(100 * full["test_kappa"].to_numpy(), 100 * base["test_kappa"].to_numpy())
    return pd.DataFrame.from_dict(rows, orient="index")


def at_best(table: pd.DataFrame) -> tuple[dict[str, float], dict]:
    """The rate that suits each variant on validation images, and the difference on test images with each at its own."""
    means = compared(table)
    best = {name: means[name].idxmax() for name in (BASE, FULL)}
    parts = {name: table[(table["variant"] == name) & (table["learning_rate"] == rate)] for name, rate in best.items()}
    return best, over_seeds(*(100 * parts[name]["test_kappa"].to_numpy() for name in (FULL, BASE)))


def depends(table: pd.DataFrame) -> bool:
    """Whether the difference at the lowest rate surely differs from that at the highest (Welch, 95 %, over seeds)."""
    groups = table.groupby(["learning_rate", "variant"])["test_kappa"].agg(["mean", "var", "count"])
    ends = compared(table).index[[0, -1]]
    used = groups.loc[[(rate, name) for rate in ends for name in (FULL, BASE)]].to_numpy().T
    mean, variance, n = used[0], used[1] / used[2], used[2]
    freedom = variance.sum() ** 2 / (variance**2 / (n - 1)).sum()
    return bool(abs(mean @ [1, -1, -1, 1]) > stats.t.ppf(0.975, freedom) * np.sqrt(variance.sum()))


def sentences(table: pd.DataFrame, signed) -> list[str]:
    """Which rate suits each variant, and the difference with each at its own."""
    best, found = at_best(table)
    limits = f"95 % interval {signed(found['low'])} to {signed(found['high'])} over seeds, {found['runs']} runs each"
    suits = f"is best at the rate {best[BASE]:g} and {title(FULL)} at {best[FULL]:g}"
    if best[BASE] == best[FULL]:
        suits = f"and {title(FULL)} are both best at the rate {best[BASE]:g}"
    return [
        f"On validation images {title(BASE)} {suits}.",
        f"With each at its best rate, {title(FULL)} differs from {title(BASE)} by {signed(found['estimate'])} points "
        f"of mean κ on test images ({limits}).",
    ]


def by_rate(table: pd.DataFrame, signed) -> str:
    """The difference at each rate, in words."""
    (rate, first), *others = compared(table)["estimate"].items()
    *parts, last = [f"{signed(estimate)} at {other:g}" for other, estimate in others]
    return f"{', '.join([f'{signed(first)} points of mean κ at the rate {rate:g}', *parts])} and {last}"


def rows(table: pd.DataFrame, signed) -> list[list[str]]:
    """The table of ``compared`` in words, the head first."""
    names = [f"{title(name)}, validation κ [%]" for name in (BASE, FULL)]
    lines = [["Learning rate", *names, "difference on test images", "95 % interval", "runs"]]
    for row in compared(table).itertuples():
        limits = f"{signed(row.low)} to {signed(row.high)}" if pd.notna(row.low) else "none"
        means = [f"{getattr(row, name):.1f}" for name in (BASE, FULL)]
        lines.append([f"{row.Index:g}", *means, signed(row.estimate), limits, str(row.runs)])
    return lines


def effects_at(root: Path) -> pd.DataFrame:
    """The decisive effects at each rate with runs of more than the two variants; a folder below ``root`` is a rate."""
    parts = [pd.DataFrame(columns=EFFECTS)]
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        study, rate = load_study(folder), runs.read_settings(runs.find(folder)[0])["learning_rate"]
        if len(study.variants) > 2:
            told = effects(study).dropna(subset="low").assign(learning_rate=rate)
            parts.append(told.loc[told["family"].isin(DECISIVE), EFFECTS].drop_duplicates("contrast"))
    return pd.concat(parts, ignore_index=True).infer_objects()


if __name__ == "__main__":
    results, roots = Path(__file__).parents[2] / "results", [Path(root) for root in sys.argv[1:]]
    for name, table in (("rates", collected(roots)), ("rate_effects", effects_at(roots[-1]))):
        with whole_or_absent(results / f"{name}.csv") as beside:
            table.round(5).to_csv(beside, index=False)
