"""Tables of results in words that people read, for the directive ``{numbers}``."""

from pathlib import Path

import differences
import pandas as pd
import rates
from rivals import rows as rival_rows
from stored import (
    KAPPA,
    QUALITIES,
    RIGHT,
    SETS,
    limits,
    read,
    read_differences,
    read_effects,
    read_joint,
    read_rate_effects,
    read_rates,
    read_rivals,
    readable,
    signed,
)  # fmt: skip

from mtclim.analysis.effects import FACTORS
from mtclim.config import load_config
from mtclim.tasks import SANTIAGO
from mtclim.variants import title

STREET = {
    "street-assigned": (
        "errors of position and bearing",
        {"right [%]": "assigned", "wrong [%]": "assigned_wrong", "right by the central ray [%]": "assigned_ray",
         "right by the nearest [%]": "assigned_nearest"},
        {f"position={metres} bearing={degrees}": f"{metres} m, {degrees} degrees"
         for metres in (0, 1, 3, 10) for degrees in (0, 5, 15)},
    ),
    "street-fused": (
        "answer from",
        {"OA [%]": "fused_oa", "mean κ [%]": "fused_kappa", "calibration error [%]": "fused_ece",
         "the same if perfectly calibrated [%]": "fused_ece_perfect", "contradictions [%]": "fused_contradictions"},
        {"views=1": "1 view", "views=1 joint": "1 view, jointly", "views=2": "2 views",
         "views=2 joint": "2 views, jointly", "views=4": "4 views", "views=4 joint": "4 views, jointly",
         "views=4 surest": "the surest of 4", "views=4 majority": "the majority of 4"},
    ),
}  # fmt: skip
"""The tables of the page on streets: the first heading, heading -> what was measured, and setting -> words."""


def numbers(results: Path, name: str) -> list[list[str]]:
    """The rows of a table, the head first: ``effects``, ``joint``, ``rivals`` or the name of a set of photographs."""
    if name.startswith("joint"):
        table = read_joint(results if name == "joint" else results / "real" / name.removeprefix("joint-"))
        if table is None:
            return []
        heads = [f"{what}, {how} [%]" for what in QUALITIES.values() for how in ("alone", "jointly")]
        wide = table[list(QUALITIES)].unstack("decoding").reindex(table.index.unique("variant"))
        wide = wide[[(what, how) for what in QUALITIES for how in ("argmax", "joint")]]
        rows = [[title(name), *(f"{share:.1f}" for share in shares)] for name, *shares in wide.itertuples(name=None)]
        return [["Variant", *heads], *rows]
    if name in STREET:
        return street(results, name)
    if name == "tasks":
        return by_task(read_differences(results))
    if name == "decoding":
        return decodings(read_differences(results))
    if name == "averages":
        return averages(results)
    if name == "rates":
        table = read_rates(results)
        return [] if table is None else rates.rows(table, signed)
    if name == "rate-effects":
        return by_rate(results)
    if name.startswith("rivals"):
        table = read_rivals(results if name == "rivals" else results / "real" / name.removeprefix("rivals-"))
        return [] if table is None else rival_rows(table, signed)
    table = read_effects(results)
    table = table if name == "effects" else table[table["source"] == name]
    rows = []
    for row in table.itertuples():
        what = _difference(row.contrast)
        limits = f"{signed(row.low)} to {signed(row.high)}" if pd.notna(row.low) else "none"
        rows.append([what, signed(row.estimate), limits, str(row.runs), SETS.get(row.source, row.source)])
    head = ["Difference", "estimate [points]", "95 % interval", "runs", "data"]
    rows = [head, *rows] if rows else []
    return rows if name == "effects" else [row[:-1] for row in rows]


def _difference(contrast: str) -> str:
    return f"main effect: {contrast}" if contrast in FACTORS else readable(contrast)


def by_rate(results: Path) -> list[list[str]]:
    """The same differences on the city at the study's learning rate and at others, side by side."""
    other, own = read_rate_effects(results), read_effects(results)
    if other is None:
        return []
    own = own[own["source"] == "city"].assign(learning_rate=load_config("study").learning_rate)
    both = pd.concat([own, other]).sort_values("learning_rate", ascending=False, kind="stable")
    texts = [f"{limits(row.estimate, row.low, row.high)}, {row.runs} runs" for row in both.itertuples()]
    wide = both.assign(text=texts).pivot(index="contrast", columns="learning_rate", values="text")
    wide = wide.loc[
        [name for name in own["contrast"] if name in set(other["contrast"])], both["learning_rate"].unique()
    ]
    head = ["Difference", *(f"at the rate {rate:g} [points]" for rate in wide)]
    return [head, *([_difference(name), *row] for name, *row in wide.itertuples(name=None))]


def by_task(table: pd.DataFrame) -> list[list[str]]:
    """The differences of each task, a row a task."""
    own = table[table["group"] == "task"]
    if own.empty:
        return []
    pairs = list(own["contrast"].unique())
    cells = {(row.what, row.contrast): limits(row.estimate, row.low, row.high) for row in own.itertuples()}
    rows = [[SANTIAGO.title(task), *(cells[task, pair] for pair in pairs)] for task in own["what"].unique()]
    return [["Task", *(f"{readable(pair)} [points of κ]" for pair in pairs)], *rows]


def decodings(table: pd.DataFrame) -> list[list[str]]:
    """What choosing labels jointly changes, and how variants then differ."""
    own = table[table["group"].isin(("decoding", "jointly"))]
    rows = []
    for (group, contrast), part in own.groupby(["group", "contrast"], sort=False):
        cells = part.set_index("what")
        what = f"{contrast}, jointly − alone" if group == "decoding" else f"{readable(contrast)}, both jointly"
        shown = [limits(*cells.loc[name, ["estimate", "low", "high"]]) for name in (KAPPA, RIGHT)]
        rows.append([what, *shown, str(part["runs"].min())])
    return [["Difference", f"{KAPPA} [points]", f"{RIGHT} [points]", "runs"], *rows] if rows else []


def averages(results: Path) -> list[list[str]]:
    """What several networks answer together, a row a variant and number of networks."""
    table = read(results / "averages.csv", tuple(differences.AVERAGES))
    if table is None:
        return []
    rows = []
    for (variant, n), own in table.groupby(["variant", "networks"], sort=False):
        scores = 100 * own.set_index("decoding")[["mean_kappa", "exact_match"]]
        shares = [f"{scores.loc[how, what]:.1f}" for what in scores for how in ("argmax", "joint")]
        time = own["time"].iloc[0]
        rows.append([title(variant), str(n), *shares, f"{time:.2f}" if pd.notna(time) else ""])
    heads = [f"{what}, {how} [%]" for what in (KAPPA, RIGHT) for how in ("alone", "jointly")]
    return [["Variant", "runs together", *heads, "training time, STC = 1"], *rows]


def street(results: Path, name: str) -> list[list[str]]:
    """Shares in percent from street.csv, a row a setting; a cell is empty where nothing was measured."""
    table = read(results / "street.csv", ("what", "setting", "value"))
    if table is None:
        return []
    first, columns, settings = STREET[name]
    shares = (100 * table.set_index(["what", "setting"])["value"]).map("{:.1f}".format).to_dict()
    rows = [[words, *(shares.get((what, key), "") for what in columns.values())] for key, words in settings.items()]
    return [[first, *columns], *rows]
