"""The other methods beside BL, BL-FC and LIM-MS_ALL: accuracy, consistency, parameters and time in one table.

``measured`` makes the table from the runs of a study (``rivals.csv``), ``rows`` words it for the page.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from mtclim.analysis.comparison import welch
from mtclim.analysis.effects import effects
from mtclim.analysis.evidence import cost, decodings
from mtclim.analysis.study import Study
from mtclim.variants import RIVALS, title

METHODS = ("bl_fc", "bl", "lim_ms_all", *RIVALS)
JOINT, ORDERS, FULL, BASE = "BL with joint decoding", "LIM-MS_ALL in random orders", "LIM-MS_ALL", "BL-FC"
DIFFERENCE = ["estimate", "low", "high", "runs"]
COLUMNS = ["contrast", *DIFFERENCE, "mean_kappa", "exact_match", "contradictions", "parameters", "step"]


def measured(study: Study, benchmark: Path, orders: Study | None = None) -> pd.DataFrame:
    """One row a difference from BL-FC, in points of mean kappa, with what else is known of the method.

    ``orders`` holds runs of LIM-MS_ALL, each with the tasks and classes in another random order. Shares are fractions.
    Intervals cover seeds and test blocks; those of joint decoding and of the orders cover the seeds alone.
    """
    backbone = study.backbones[0]
    one, quality = study.only(backbone), decodings(study).loc[backbone]
    costs, told = cost(study, benchmark).loc[backbone], effects(one)
    told = told.drop_duplicates("contrast").set_index("contrast")[DIFFERENCE]
    found, kappas = [], {name: kappas_of(one, name) for name in ("bl_fc", "lim_ms_all")}

    def add(method: str, variant: str, decoding: str, difference: dict, shares: pd.DataFrame = quality) -> None:
        part = shares.loc[variant, decoding]
        row = {"contrast": f"{method} - {BASE}"} | difference | {"mean_kappa": part["kappa"]}
        found.append(row | dict(part[["exact_match", "contradictions"]]) | dict(costs.loc[variant, COLUMNS[-2:]]))

    for variant in METHODS:
        if variant not in one.variants:
            continue
        contrast = f"{title(variant)} - {BASE}"
        add(title(variant), variant, "argmax", dict(told.loc[contrast]) if contrast in told.index else {})
        if variant == "bl":
            add(JOINT, "bl", "joint", over_seeds(kappas_of(one, "bl", "joint"), kappas["bl_fc"]))
    if orders is not None:
        own = kappas_of(orders, "lim_ms_all")
        add(ORDERS, "lim_ms_all", "argmax", over_seeds(own, kappas["bl_fc"]), decodings(orders).loc[backbone])
        found.append({"contrast": f"{ORDERS} - {FULL}"} | over_seeds(own, kappas["lim_ms_all"]))
    return pd.DataFrame(found, columns=COLUMNS)


def kappas_of(study: Study, variant: str, decoding: str = "argmax", column: str = "kappa") -> np.ndarray:
    """Mean kappa, or another share of ``Study.decoded``, in percent of each run of a variant, sorted by seed."""
    rows = study.decoded.merge(study.runs[["run", "variant"]], on="run")
    return 100 * rows.loc[(rows["variant"] == variant) & (rows["decoding"] == decoding), column].to_numpy()


def over_seeds(a: np.ndarray, b: np.ndarray) -> dict:
    """The difference of two means with its interval over seeds (``comparison.welch``), and the fewest runs."""
    return dict(zip(DIFFERENCE, (*welch(a, b), min(len(a), len(b))), strict=True))


def rows(table: pd.DataFrame, signed) -> list[list[str]]:
    """The table in words that people read, the head first, with steps where any was measured."""
    head = ["Method", "mean κ [%]", f"from {BASE} [points]", "all labels right [%]", "contra\xaddictions [%]"]
    timed = bool(table["step"].notna().any())
    lines = [[*head, "para\xadmeters [million]", *["step, BL = 1"] * timed, "runs"]]
    for row in table[table["contrast"].str.endswith(f" - {BASE}")].itertuples():
        shares = [f"{100 * value:.1f}" for value in (row.mean_kappa, row.exact_match, row.contradictions)]
        known = pd.notna(row.estimate)
        limits = f" ({signed(row.low)}\xa0to\xa0{signed(row.high)})" if pd.notna(row.low) else ""
        line = [row.contrast.removesuffix(f" - {BASE}"), shares[0], signed(row.estimate) + limits if known else ""]
        step = [f"{row.step:.2f}" if pd.notna(row.step) else ""] * timed
        line += [*shares[1:], f"{row.parameters / 1e6:.2f}", *step]
        lines.append([*line, str(row.runs) if known else ""])
    return lines
