"""Differences that the table of effects does not have: by task and class, and of answers given jointly or together.

``compared`` makes ``results/differences.csv`` from the tables of a study. ``averaged`` makes ``results/averages.csv``
from the folders of its runs: ``python book/_ext/differences.py runs/study``.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from rivals import DIFFERENCE, kappas_of, over_seeds
from scipy import stats

from mtclim import runs
from mtclim.analysis.comparison import class_scores, run_scores
from mtclim.analysis.evidence import cost
from mtclim.analysis.study import Study, load_study
from mtclim.files import whole_or_absent
from mtclim.mapping.ensemble import joint_of, make_consistent, tasks_of, validation
from mtclim.metrics import metrics
from mtclim.variants import title

RESULTS = Path(__file__).parents[2] / "results"
COLUMNS = ["group", "contrast", "what", *DIFFERENCE, "images"]
AVERAGES = ["variant", "networks", "decoding", "mean_kappa", "exact_match", "time", "runs"]
PAIRS = (("bl", "stc"), ("lim_ms_all", "bl_fc"))
QUALITIES = {"mean κ": "kappa", "all labels right": "exact_match"}  # words -> column of Study.decoded
NETWORKS = (1, 3, 5)  # how many realisations answer together
AVERAGED = ("stc", "bl", "bl_fc", "lim_ms_all")


def compared(study: Study) -> pd.DataFrame:
    """Differences in points with 95 % intervals over seeds, of one backbone's runs.

    Groups: "task" and "class" (kappa of each task and F1 of each class, for ``PAIRS``; ``images`` are the training
    images of the class), "jointly" (all labels right and mean kappa, with labels chosen jointly) and "decoding" (what
    choosing them jointly adds to the same runs).
    """
    one = study.only(study.backbones[0])
    tasks, classes, rows = run_scores(one), class_scores(one).assign(value=lambda f: 100 * f["f1"]), []
    for a, b in [pair for pair in PAIRS if set(pair) <= set(one.variants)]:
        name = f"{title(a)} - {title(b)}"
        for task in one.tasks:
            own = tasks[tasks["task"] == task]
            both = (100 * own.loc[own["variant"] == variant, "kappa"].to_numpy() for variant in (a, b))
            rows.append(["task", name, task, *over_seeds(*both).values(), np.nan])
        for place, own in classes.dropna(subset="value").groupby(["task", "class"], sort=False):
            both = (own.loc[own["variant"] == variant, "value"].to_numpy() for variant in (a, b))
            images = one.counts.set_index(["task", "class"])["train"][place]
            rows.append(["class", name, ":".join(place), *over_seeds(*both).values(), images])
    for a, b in (("stc", "bl"), ("lim_ms_all", "bl")):
        for what, column in QUALITIES.items() if {a, b} <= set(one.variants) else ():
            both = (kappas_of(one, variant, "joint", column) for variant in (a, b))
            rows.append(["jointly", f"{title(a)} - {title(b)}", what, *over_seeds(*both).values(), np.nan])
    for variant in [name for name in AVERAGED if name in one.variants]:
        for what, column in QUALITIES.items():
            alone, joint = (kappas_of(one, variant, decoding, column) for decoding in ("argmax", "joint"))
            change = joint - alone
            limits = stats.ttest_1samp(change, 0).confidence_interval() if len(change) > 1 else (np.nan, np.nan)
            rows.append(["decoding", title(variant), what, change.mean(), *limits, len(joint), np.nan])
    return pd.DataFrame(rows, columns=COLUMNS)


def averaged(root: Path, study: Study) -> pd.DataFrame:
    """What several realisations of a variant answer together, a row a variant, number of networks and decoding.

    Mean kappa and the share of façades whose labels are all right (fractions) are of the chosen labels, as means over
    ``runs`` choices of consecutive seeds. ``time`` is that of all their trainings as a share of STC's.
    """
    backbone, rows = study.backbones[0], []
    time = cost(study, RESULTS / "bench.json")["of_stc"]
    for variant in [name for name in AVERAGED if name in study.variants]:
        seeds = sorted(runs.find(root / backbone / variant), key=lambda run: runs.read_settings(run)["seed"])
        for n in [n for n in NETWORKS if n <= len(seeds)]:
            starts = range(len(seeds) if n < len(seeds) else 1)
            choices = [[seeds[(start + i) % len(seeds)] for i in range(n)] for start in starts]
            found = pd.DataFrame([_together(choice) for choice in choices]).mean()
            for decoding in ("argmax", "joint"):
                scores = found[[f"{decoding} kappa", f"{decoding} right"]]
                rows.append([variant, n, decoding, *scores, n * time.get((backbone, variant), np.nan), len(choices)])
    return pd.DataFrame(rows, columns=AVERAGES)


def _together(folders: list[Path]) -> dict[str, float]:
    """Mean kappa and exact match of the average of runs on test images, with labels chosen alone and jointly."""
    tasks, answers = tasks_of(folders[0]), validation(folders, True, "predictions")
    joint, found = joint_of(validation(folders, True), folders[0], tasks), {}
    for decoding, frame in (("argmax", answers), ("joint", make_consistent(answers, tasks, joint))):
        right = [(frame[f"{t}:pred"] == frame[f"{t}:true"]) | frame[f"{t}:true"].isna() for t in tasks]
        found[f"{decoding} kappa"] = metrics(frame, tasks)["mean"]["kappa"]
        found[f"{decoding} right"] = np.mean(np.all(right, axis=0))
    return found


if __name__ == "__main__":
    table = averaged(Path(sys.argv[1]).absolute(), load_study(RESULTS))
    with whole_or_absent(RESULTS / "averages.csv") as beside:
        table.round(5).to_csv(beside, index=False)
