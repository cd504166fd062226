"""The city's labels: their joint distribution, how strongly they depend on each other, and how that was calibrated.

``joint.csv`` is the distribution, to be read: one row a material and height with the number of the 29,567 annotated
images, the percentages of roof shapes and of block positions, and the reason. Material-height pairs without a row are
structural zeros. ``ROOF_POSITION`` adds how roof and position go together within a row.

The shapes of the rows follow what the paper says in sections 2.1, 4.3 and 4.5 and are otherwise invented; the numbers
were then moved as little as possible (least squares on their logarithms) until the sums of squared class shares after
LPRUS met the chance agreements that Table 3 implies, twelve labelsets lay above the cut-off, and Fig. 4's example held.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from mtclim.data.labels import cutoff
from mtclim.tasks import SANTIAGO

LABELLED, TOTAL = 29_567, 204_030  # annotated façades, all façades (section 2.1)
CELL = ["height", "mat_llrs", "roof_shape", "block_position"]  # SBST is a function of the first two
ROOF_POSITION = pd.DataFrame(
    [[1.0, 1.6, 0.7, 0.9, 0.7], [1.3, 0.7, 1.4, 0.8, 1.3], [0.8, 0.7, 0.7, 1.5, 0.8]],
    index=list(SANTIAGO["roof_shape"]),
    columns=list(SANTIAGO["block_position"]),
)
"""Relative odds of roof shape and block position within one material and height, before both are fitted to its row:
flat roofs go with several parties, gables with single and paired houses, monopitch roofs with closed blocks."""

CHANCE_AGREEMENT = dict(zip(SANTIAGO, (0.2155, 0.2454, 0.0883, 0.4039, 0.3127), strict=True))
"""(OA - kappa) / (1 - kappa), mean over the 24 rows of Table 3: close to the sum of squared reference shares."""

CALIBRATED = """Calibrated on the paper: the number of façades and of annotated ones; the number kept by LPRUS at 85 %;
the sum of squared class shares of each task after LPRUS (the chance agreement that Table 3 implies); Fig. 4's example
(55 % of MUR is H1, 18 % of H1 is MUR); which pairs of classes do not occur; which class is the most frequent one given
another, where sections 2.1, 4.3 and 4.5 say so; in which part of the city a class is found (section 4.5)."""

INVENTED = """Invented: the class shares themselves (the paper shows them only as bar charts), the remaining conditional
shares, the tail of rare labelsets, the geometry of the city, the sizes of blocks and of groups of equal houses, and
every picture. The whole city has the same labelset shares as its annotated part."""


@cache
def sbst_table() -> pd.Series:
    """Building type of every possible (height, material): 25 rows, all other pairs are structural zeros (Fig. 2)."""
    rows = pd.read_csv(Path(__file__).with_name("joint.csv"))
    return pd.Series({(h, m): _sbst(h, m) for h, m in zip(rows["height"], rows["material"], strict=True)})


def _sbst(height: str, material: str) -> str:
    merged = {"W,UNK": "H1-2", "COM1,2,IND": "H1+", "COM3": "H8+"}  # whatever the height
    if material == "MUR":  # of class H3-4 it has three storeys
        return "MUR_H1" if height == "H1" else "MUR_H2-3"
    return f"{material}_{merged.get(material, 'H1-2' if height in ('H1', 'H2') else height)}"


def sbst(height: Sequence[str], material: Sequence[str]) -> pd.Categorical:
    """Building type of each (height, material), the function of the two that it always is.

    height, material: (n,) class names without gaps. Returns an ordered Categorical over ``SANTIAGO["sbst"]``.
    Raises ValueError for a structural zero such as MUR with H13+.
    """
    h = pd.Index(SANTIAGO["height"]).get_indexer(pd.Index(height, dtype=object))
    m = pd.Index(SANTIAGO["mat_llrs"]).get_indexer(pd.Index(material, dtype=object))
    codes = np.where((h < 0) | (m < 0), -1, _sbst_codes()[h, m])
    if (codes < 0).any():
        i = int(np.argmax(codes < 0))
        pair = f"height {list(height)[i]!r} with material {list(material)[i]!r}"
        raise ValueError(f"sbst: {pair} (row {i}) does not exist.")
    return pd.Categorical.from_codes(codes, SANTIAGO["sbst"], ordered=True)


@cache
def _sbst_codes() -> np.ndarray:
    """(6, 7) code of the building type by height and material, -1 where there is none."""
    codes = np.full((len(SANTIAGO["height"]), len(SANTIAGO["mat_llrs"])), -1)
    for (height, material), name in sbst_table().items():
        place = SANTIAGO["height"].index(height), SANTIAGO["mat_llrs"].index(material)
        codes[place] = SANTIAGO["sbst"].index(name)
    return codes


def possible() -> np.ndarray:
    """(6, 7) boolean: which materials occur at which heights."""
    return _sbst_codes() >= 0


def fit_margins(table: np.ndarray, rows: np.ndarray, columns: np.ndarray, steps: int = 500) -> np.ndarray:
    """Iterative proportional fitting of a non-negative (..., r, c) table to its row and column sums, zeros kept."""
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
    mixture with fixed margins is convex in the weight and smallest at 0, so it falls all the way. That of height and
    material keeps the floor that the zeros impose: roof shape and block position are the informative outcomes of an
    experiment on interdependency.

    Returns 375 rows: ``height, mat_llrs, sbst, roof_shape, block_position`` (ordered categories) and ``p``, sum 1.
    """
    if not 0 <= interdependency <= 1:
        raise ValueError(f"interdependency is {interdependency}; expected a number from 0 to 1.")
    dependent, independent = _ends()
    p = interdependency * dependent + (1 - interdependency) * independent  # (6, 7, 3, 5)
    h, m, r, b = (axis.ravel() for axis in np.indices(p.shape))
    keep = possible()[h, m]
    h, m, r, b, p = h[keep], m[keep], r[keep], b[keep], p.ravel()[keep]
    codes = {"height": h, "mat_llrs": m, "sbst": _sbst_codes()[h, m], "roof_shape": r, "block_position": b}
    return pd.DataFrame({**categories(codes), "p": p})


def categories(codes: Mapping[str, np.ndarray]) -> dict[str, pd.Categorical]:
    """Codes of each task's classes, -1 for none, as ordered categoricals in the order of tasks."""
    return {task: pd.Categorical.from_codes(codes[task], SANTIAGO[task], ordered=True) for task in SANTIAGO}


@cache
def _ends() -> tuple[np.ndarray, np.ndarray]:
    """The dependent and the quasi-independent joint, each (6, 7, 3, 5) with sum 1."""
    rows = pd.read_csv(Path(__file__).with_name("joint.csv"))
    roof = rows[list(SANTIAGO["roof_shape"])].to_numpy() / 100
    position = rows[list(SANTIAGO["block_position"])].to_numpy() / 100
    cells = fit_margins(np.repeat(ROOF_POSITION.to_numpy()[None], len(rows), 0), roof, position, steps=60)
    dependent = np.zeros(tuple(len(SANTIAGO[task]) for task in CELL))
    h = pd.Categorical(rows["height"], SANTIAGO["height"]).codes
    m = pd.Categorical(rows["material"], SANTIAGO["mat_llrs"]).codes
    dependent[h, m] = cells * rows["images"].to_numpy()[:, None, None]
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


def mutual_information(labels: pd.DataFrame, first: str, second: str, weight: str | None = None) -> float:
    """Mutual information of two columns in bits; ``weight`` names a column of counts or probabilities."""
    values = np.ones(len(labels)) if weight is None else labels[weight].to_numpy()
    a, b = (pd.factorize(labels[name])[0] for name in (first, second))
    table = np.zeros((a.max() + 1, b.max() + 1))
    np.add.at(table, (a, b), values)
    table /= table.sum()
    expected = table.sum(1, keepdims=True) * table.sum(0, keepdims=True)
    seen = table > 0
    return float((table[seen] * np.log2(table[seen] / expected[seen])).sum())


def calibration(labels: pd.DataFrame, keep: float = 0.85) -> pd.DataFrame:
    """Paper against city: ``quantity, paper, city, difference``.

    labels: the annotated façades, one column a task, no gaps (label noise and missing labels off).
    Figures after LPRUS use min(n, cut-off) images of each labelset, which is exact.
    """
    bins = labels.groupby(list(SANTIAGO), observed=True).size()
    counts = bins.to_numpy()
    cut = cutoff(counts, keep)
    kept = pd.Series(np.minimum(counts, cut), bins.index)
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
