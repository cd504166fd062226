"""The city's labels: their joint distribution, how strongly they depend on each other, and how that was calibrated.

``joint.csv`` is the distribution, to be read: one row a material and height with the number of the 29,567 annotated
images, the percentages of roof shapes and of block positions, and the reason. Material-height pairs without a row are
structural zeros. ``ROOF_POSITION`` adds how roof and position go together within a row.

The rows follow sections 2.1, 4.3 and 4.5 of the paper and are otherwise invented. Their numbers were then moved as
little as possible (least squares on their logarithms) until what ``CALIBRATED`` names was met.
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from mtclim.data.labels import cutoff
from mtclim.tasks import SANTIAGO

LABELLED, TOTAL = 29_567, 204_030  # annotated façades, all façades (section 2.1)
ROOF_POSITION = np.array([[1.0, 1.6, 0.7, 0.9, 0.7], [1.3, 0.7, 1.4, 0.8, 1.3], [0.8, 0.7, 0.7, 1.5, 0.8]])
"""Relative odds of roof shape and block position within one material and height, before both are fitted to its row:
flat roofs go with several parties, gables with single and paired houses, monopitch roofs with closed blocks."""

CHANCE_AGREEMENT = dict(zip(SANTIAGO, (0.2155, 0.2454, 0.0883, 0.4039, 0.3127), strict=True))
"""(OA - kappa) / (1 - kappa), mean over the 24 rows of Table 3: close to the sum of squared reference shares."""

CALIBRATED, INVENTED = Path(__file__).with_name("calibration.md").read_text(encoding="utf-8").strip().split("\n\n")
"""What of the city is calibrated on the paper, and what is not."""


@cache
def _rows() -> pd.DataFrame:
    rows = pd.read_csv(Path(__file__).with_name("joint.csv"))
    for task, column in (("height", "height"), ("mat_llrs", "material"), ("sbst", "sbst")):
        rows[task] = pd.Categorical(rows[column], SANTIAGO[task]).codes
    return rows


@cache
def building_types() -> np.ndarray:
    """(6, 7) code of the building type (SBST) by height and material, -1 for the structural zeros."""
    rows = _rows()
    codes = np.full((len(SANTIAGO["height"]), len(SANTIAGO["mat_llrs"])), -1)
    codes[rows["height"], rows["mat_llrs"]] = rows["sbst"]
    return codes


def fit_margins(table: np.ndarray, rows: np.ndarray, columns: np.ndarray, steps: int = 500) -> np.ndarray:
    """Iterative proportional fitting of a non-negative table to its row and column sums, zeros kept.

    Parameters
    ----------
    table, rows, columns : (..., r, c), and the sums that its rows (..., r) and its columns (..., c) shall have.
    """
    table = np.array(table, dtype=float)
    for _ in range(steps):
        table *= (rows / np.maximum(table.sum(-1), 1e-300))[..., :, None]
        table *= (columns / np.maximum(table.sum(-2), 1e-300))[..., None, :]
    return table


def joint(interdependency: float = 1.0) -> pd.DataFrame:
    """Probability of every labelset of the city.

    ``interdependency`` mixes two distributions with the same class shares: at 1 that of ``joint.csv``; at 0 the
    quasi-independent one, in which height and material are as independent as the structural zeros allow (iterative
    proportional fitting) and roof shape and block position are independent of everything. The mutual information of a
    mixture with fixed margins is convex in the weight and smallest at 0, so it falls all the way; that of height and
    material keeps the floor that the zeros impose.

    Returns 375 rows: ``height, mat_llrs, sbst, roof_shape, block_position`` (ordered categories) and ``p``, sum 1.
    """
    dependent, independent = _ends()
    p = interdependency * dependent + (1 - interdependency) * independent  # (6, 7, 3, 5)
    h, m, r, b = np.nonzero(np.broadcast_to(building_types()[:, :, None, None] >= 0, p.shape))
    codes = {"height": h, "mat_llrs": m, "sbst": building_types()[h, m], "roof_shape": r, "block_position": b}
    return pd.DataFrame({**categories(codes), "p": p[h, m, r, b]})


def categories(codes: Mapping[str, np.ndarray]) -> dict[str, pd.Categorical]:
    """Codes of each task's classes, -1 for none, as ordered categoricals in the order of tasks."""
    return {task: pd.Categorical.from_codes(codes[task], SANTIAGO[task], ordered=True) for task in SANTIAGO}


@cache
def _ends() -> tuple[np.ndarray, np.ndarray]:
    """The dependent and the quasi-independent joint, each (6, 7, 3, 5) with sum 1."""
    rows = _rows()
    roof = rows[list(SANTIAGO["roof_shape"])].to_numpy() / 100
    position = rows[list(SANTIAGO["block_position"])].to_numpy() / 100
    cells = fit_margins(np.repeat(ROOF_POSITION[None], len(rows), 0), roof, position, steps=60)
    dependent = np.zeros((*building_types().shape, *ROOF_POSITION.shape))
    dependent[rows["height"], rows["mat_llrs"]] = cells * rows["images"].to_numpy()[:, None, None]
    dependent /= dependent.sum()
    pair = dependent.sum((2, 3))
    floor = fit_margins(pair > 0, pair.sum(1), pair.sum(0))
    independent = np.einsum("hm,r,b->hmrb", floor, dependent.sum((0, 1, 3)), dependent.sum((0, 1, 2)))
    return dependent, independent


def allocate(p: np.ndarray, total: int) -> np.ndarray:
    """Split ``total`` in proportion to ``p`` into whole numbers that add up to it, by largest remainders."""
    quota = np.asarray(p, dtype=float) / np.sum(p) * total
    counts = np.floor(quota).astype(int)
    counts[np.argsort(counts - quota, kind="stable")[: total - counts.sum()]] += 1
    return counts


def calibration(labels: pd.DataFrame) -> pd.DataFrame:
    """Paper against city: ``quantity, paper, city, difference``.

    labels: the annotated façades, one column a task, no gaps (label noise and missing labels off).
    Figures after LPRUS use min(n, cut-off) images of each labelset, which is exact.
    """
    counts = labels.groupby(list(SANTIAGO), observed=True).size()
    cut = cutoff(counts.to_numpy(), 0.85)
    kept = counts.clip(upper=cut)
    h1, mur = labels["height"] == "H1", labels["mat_llrs"] == "MUR"
    rows = [("annotated façades", LABELLED, len(labels)), ("kept by LPRUS", 25_133, int(kept.sum()))]
    for task, paper in CHANCE_AGREEMENT.items():
        shares = kept.groupby(level=task, observed=True).sum() / kept.sum()
        rows.append((f"chance agreement {task}", paper, float((shares**2).sum())))
    rows += [
        ("share of H1 in MUR", 0.55, float((h1 & mur).sum() / max(mur.sum(), 1))),
        ("share of MUR in H1", 0.18, float((h1 & mur).sum() / max(h1.sum(), 1))),
        ("labelsets", np.nan, len(counts)),
        ("labelsets above the cut-off", np.nan, int((counts > cut).sum())),
        ("labelsets with fewer than 10 images", np.nan, int((counts < 10).sum())),
    ]
    table = pd.DataFrame(rows, columns=["quantity", "paper", "city"])
    return table.assign(difference=table["city"] - table["paper"])
