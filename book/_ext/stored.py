"""The committed tables of results, read and judged, and the words for their numbers."""

import re
from pathlib import Path

import differences
import pandas as pd
import rates
from rivals import COLUMNS

from mtclim.analysis.effects import contrasts, verdict
from mtclim.variants import RIVALS, VARIANT_TABLE, title

SETS = {"coffee_leaves": "coffee leaves", "grocery": "groceries", "city": "the synthetic city"}
KAPPA, RIGHT = differences.QUALITIES
QUALITIES = {"exact_match": RIGHT, "contradictions": "contradictions", "mean_kappa": KAPPA}


def read(path: Path, columns: tuple[str, ...]) -> pd.DataFrame | None:
    """A table of results, or None where it is absent, or was written by another state of the code."""
    if not path.is_file():
        return None
    table = pd.read_csv(path, keep_default_na=False, na_values=[""])
    return table if set(columns) <= set(table) and len(table) else None


def read_effects(results: Path) -> pd.DataFrame:
    """The effects on the city and on each set of photographs, with family and verdict of each row."""
    columns = ("contrast", "estimate", "low", "high", "runs", "source")
    files = [results / "effects.csv", *sorted(results.glob("real/*/effects.csv"))]
    tables = [table for path in files if (table := read(path, columns)) is not None]
    if not tables:
        return pd.DataFrame(columns=[*columns, "family", "verdict"])
    table = pd.concat(tables, ignore_index=True).drop_duplicates(["source", "contrast"], ignore_index=True)
    families = {name: family for family, name in reversed(contrasts(dict.fromkeys(VARIANT_TABLE, 1)))}
    return judged(table.assign(family=table["contrast"].map(families)))


def judged(table: pd.DataFrame) -> pd.DataFrame:
    """The table with a verdict on each of its differences."""
    verdicts = [verdict(low, high) for low, high in zip(table["low"], table["high"], strict=True)]
    return table.assign(verdict=verdicts)


def read_joint(results: Path) -> pd.DataFrame | None:
    """Exact match, contradictions and mean kappa in percent by variant and decoding."""
    table = read(results / "joint.csv", ("variant", "decoding", "exact_match", "contradictions", "mean_kappa"))
    if table is None:
        return None
    table = table.set_index(["variant", "decoding"])[list(QUALITIES)] * 100
    return table if {("bl", "argmax"), ("bl", "joint"), ("lim_ms_all", "argmax")} <= set(table.index) else None


def read_differences(results: Path) -> pd.DataFrame:
    """The differences by task and class and of jointly chosen labels, with verdicts; empty where there are none."""
    table = read(results / "differences.csv", tuple(differences.COLUMNS))
    if table is None:
        return pd.DataFrame(columns=[*differences.COLUMNS, "verdict"])
    return judged(table)


def read_rates(results: Path) -> pd.DataFrame | None:
    """The runs with several learning rates, None where there are not two rates yet."""
    table = read(results / "rates.csv", tuple(rates.COLUMNS))
    return table if table is not None and len(rates.compared(table)) > 1 else None


def read_rate_effects(results: Path) -> pd.DataFrame | None:
    """The effects at other learning rates, None where they have not been trained."""
    return read(results / "rate_effects.csv", tuple(rates.EFFECTS))


def read_rivals(results: Path) -> pd.DataFrame | None:
    """The table of rivals with a verdict on each difference, None where no rival has finished."""
    table = read(results / "rivals.csv", tuple(COLUMNS))
    if table is None or not table["contrast"].str.startswith(tuple(f"{title(name)} -" for name in RIVALS)).any():
        return None
    return judged(table).astype({"runs": "Int64"})


def signed(number: float) -> str:
    """Two decimals with a sign."""
    return f"{number:+.2f}".replace("-", "−")


def readable(text: str) -> str:
    """Minus signs in place of hyphens."""
    return re.sub(r"(?<= )-(?=[ \d])", "−", text)


def limits(estimate: float, low: float, high: float) -> str:
    return f"{signed(estimate)} ({signed(low)} to {signed(high)})"
