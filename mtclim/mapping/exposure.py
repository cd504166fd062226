"""From predictions to an exposure model: GEM Building Taxonomy v4 strings and OpenQuake exposure files.

What a class means in the taxonomy is a table (``mtclim/data/gem_santiago.csv``: task, class, gem, note) that a user
replaces for other tasks. Several atoms of a class are separated by "/", none means that the taxonomy can't say it.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from itertools import product
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
import pandas as pd

from mtclim.mapping.frequencies import probabilities
from mtclim.mapping.photographs import safe_cell

NRML = """<?xml version="1.0" encoding="utf-8"?>
<nrml xmlns="http://openquake.org/xmlns/nrml/0.5">
  <exposureModel id="{id}" category="buildings" taxonomySource="GEM Building Taxonomy v4">
    <description>{description}</description>
    <conversions><costTypes/></conversions>
    <tagNames>block</tagNames>
    <assets>{assets}</assets>
  </exposureModel>
</nrml>
"""
SANTIAGO_MAPPING = files("mtclim.mapping") / "gem_santiago.csv"
SBST_MAPPING = files("mtclim.mapping") / "gem_santiago_sbst.csv"


def read_mapping(path: str | Path | None = None) -> dict[str, dict[str, tuple[str, ...]]]:
    """Task -> class -> atoms of the taxonomy, from a table task, class, gem, note; the Santiago table by default.

    Raises ValueError for missing columns, repeated classes and atoms that the taxonomy does not know.
    """
    path = SANTIAGO_MAPPING if path is None else path
    with open(path, encoding="utf-8") as file:
        table = pd.read_csv(file, dtype=str, keep_default_na=False)
    missing = {"task", "class", "gem"} - set(table)
    if missing:
        raise ValueError(f"{path}: found the columns {list(table)}; expected task, class, gem (and note).")
    repeated = table[table.duplicated(["task", "class"])]
    if len(repeated):
        raise ValueError(
            f"{path}: {repeated.iloc[0]['task']}:{repeated.iloc[0]['class']} is mapped twice; keep one row."
        )
    canonical(set(table["gem"]) - {""})
    mapping: dict[str, dict[str, tuple[str, ...]]] = {}
    for row in table.itertuples():
        mapping.setdefault(row.task, {})[row[2]] = tuple(filter(None, row.gem.split("/")))
    return mapping


def canonical(strings: Iterable[str]) -> dict[str, str]:
    """Each string -> its canonical form, validated by ``openquake.gem_taxonomy``; ValueError names an invalid one."""
    return {text: _canonical(text) for text in sorted(strings)}


@cache
def _taxonomy():
    try:
        from openquake.gem_taxonomy import GemTaxonomy
    except ImportError:
        raise ImportError("GEM strings need their validator: pip install 'openquake.gem_taxonomy'") from None
    return GemTaxonomy("4")


@cache
def _canonical(text: str) -> str:
    try:
        report = _taxonomy().validate(text)[-1]
    except ValueError as error:
        raise ValueError(f"{text!r} is not a string of the GEM Building Taxonomy v4: {error}") from None
    return text if report["is_canonical"] else report["canonical"]


def gem_strings(labels: pd.DataFrame, mapping: Mapping | None = None) -> pd.Series:
    """A validated taxonomy string for each row of `labels` (a column a task); UNK where nothing can be said.

    >>> gem_strings(pd.DataFrame({"mat_llrs": ["CR"], "height": ["H13+"], "roof_shape": ["FLT"]})).tolist()
    ['CR/H:>12/RSH1']
    """
    mapping = mapping or read_mapping()
    used = _used(labels.columns, mapping)
    combinations = labels[used].drop_duplicates()
    atoms = [_join(mapping, zip(used, row, strict=True)) for row in combinations.itertuples(index=False)]
    forms = canonical(set(atoms))
    strings = combinations.assign(gem=[forms[text] for text in atoms])
    return labels[used].merge(strings, how="left", on=used)["gem"].set_axis(labels.index)


def covered(tasks: Mapping[str, Sequence[str]], mapping: Mapping) -> tuple[dict[str, Sequence[str]], list[str]]:
    """The tasks all of whose classes are in the mapping, and for each other task why it is left out."""
    used, left_out = {}, []
    for task, classes in tasks.items():
        missing = [name for name in classes if name not in mapping.get(task, {})]
        if not missing:
            used[task] = classes
        elif task in mapping:
            left_out.append(f"{task}: the mapping has no row for {', '.join(missing)}")
        else:
            left_out.append(f"{task}: the mapping has no such task")
    return used, left_out


def _used(columns: Iterable[str], mapping: Mapping) -> list[str]:
    columns = list(columns)
    used = [task for task in mapping if task in columns]
    if not used:
        raise ValueError(f"GEM mapping: found the tasks {columns}; expected at least one of {', '.join(mapping)}.")
    return used


def _join(mapping: Mapping, labels: Iterable[tuple[str, str]]) -> str:
    atoms: list[str] = []
    for task, label in labels:
        if pd.isna(label):
            continue
        if label not in mapping[task]:
            raise ValueError(f"GEM mapping: task {task!r} has no row for class {label!r}; add one (gem may be empty).")
        atoms += [atom for atom in mapping[task][label] if atom not in atoms]
    return "/".join(atoms) or "UNK"


def attributes(predictions: pd.DataFrame, tasks: Mapping, mapping: Mapping | None = None) -> pd.DataFrame:
    """Flat attributes of each façade: image, block, lon, lat ..., each task's label and probability, and the string.

    The string (column gem) says what the mapping covers (see :func:`covered`); without any such task there is none.
    """
    known = ("image", "building", "weight", "block", "municipality", "lon", "lat")
    frame = predictions[[name for name in known if name in predictions]].copy()
    for task, classes in tasks.items():
        frame[task] = predictions[f"{task}:pred"]
        frame[f"{task}_probability"] = probabilities(predictions, task, classes).max(1).round(4)
    mapping = mapping or read_mapping()
    used, _ = covered(tasks, mapping)
    if used:
        frame["gem"] = gem_strings(frame[list(used)], mapping)
    return frame


def write_csv(frame: pd.DataFrame, path: str | Path) -> Path:
    """A CSV in which no cell is run as a formula."""
    frame = frame.rename(columns=str)
    text = frame.select_dtypes(["object", "string", "category"])
    safe = {name: column.astype(object).map(safe_cell) for name, column in text.items()}
    frame.assign(**safe).rename(columns=safe_cell).to_csv(path, index=False, encoding="utf-8")
    return Path(path)


def buildings(predictions: pd.DataFrame, tasks: Mapping) -> pd.DataFrame:
    """One row a building: several photographs of one `building` are averaged (probabilities, position, weight).

    Without that column every façade stands for itself; a façade without a building number too.
    """
    columns = [f"{task}:p:{name}" for task, classes in tasks.items() for name in classes]
    frame = predictions[["lon", "lat", "block", *columns]].copy()
    frame["weight"] = predictions["weight"].fillna(1.0).to_numpy(float) if "weight" in predictions else 1.0
    if "building" not in predictions:
        return frame
    alone = pd.Series([f"façade {n}" for n in range(len(frame))], predictions.index)
    groups = frame.groupby(predictions["building"].fillna(alone), sort=False)
    return groups.agg({"block": "first", **dict.fromkeys(["lon", "lat", "weight", *columns], "mean")}).reset_index(
        drop=True
    )


def exposure(
    predictions: pd.DataFrame, tasks: Mapping, mapping: Mapping | None = None, tail: float = 0.01
) -> pd.DataFrame:
    """Counts per block and taxonomy: block, lon, lat, taxonomy, expected, argmax.

    `expected` sums, over a block's buildings, the products of the tasks' probabilities (independent given the
    photograph, as the softmax outputs are); pass predictions from :func:`mtclim.mapping.frequencies.reweighted` for corrected
    counts. `argmax` counts the most probable labels. Of each block's expected counts the least likely taxonomies that
    make up at most the share `tail` are dropped and the others scaled to the block's total. Positions are block means.
    """
    mapping = mapping or read_mapping()
    used = _used(tasks, mapping)
    combinations = list(product(*(tasks[task] for task in used)))
    raw = [_join(mapping, zip(used, row, strict=True)) for row in combinations]
    forms = canonical(set(raw))
    names, group = np.unique([forms[text] for text in raw], return_inverse=True)
    stock = buildings(predictions, tasks)
    stock["block"] = stock["block"].fillna("no block").astype(str)
    parts = []
    for block, rows in stock.groupby("block", sort=True):
        weight = rows["weight"].to_numpy()
        p = [probabilities(rows, task, tasks[task]) for task in used]
        expected = np.bincount(group, _joint(p, weight), len(names))
        best = np.ravel_multi_index([q.argmax(1) for q in p], [q.shape[1] for q in p])
        counts = pd.DataFrame({"block": block, "lon": rows["lon"].mean(), "lat": rows["lat"].mean(), "taxonomy": names})
        counts["expected"], counts["argmax"] = (
            _without_tail(expected, tail),
            np.bincount(group[best], weight, len(names)),
        )
        parts.append(counts[(counts["expected"] > 0) | (counts["argmax"] > 0)])
    return pd.concat(parts, ignore_index=True)


def _joint(p: Sequence[np.ndarray], weight: np.ndarray) -> np.ndarray:
    """Sum over rows of weight times the outer product of the tasks' probabilities, flattened."""
    joint = weight[:, None]
    for q in p[:-1]:
        joint = (joint[:, :, None] * q[:, None, :]).reshape(len(weight), -1)
    return (joint.T @ p[-1]).ravel()


def _without_tail(counts: np.ndarray, tail: float) -> np.ndarray:
    order = np.argsort(counts, kind="stable")
    dropped = order[np.cumsum(counts[order]) <= tail * counts.sum()]
    kept = counts.copy()
    kept[dropped] = 0
    return kept * (counts.sum() / kept.sum()) if kept.sum() else counts


def write_openquake(
    counts: pd.DataFrame, folder: str | Path, kind: str = "expected", name: str = "exposure", counted: str = "façades"
) -> Path:
    """Write ``<name>_<kind>.xml`` and its CSV, as the OpenQuake engine reads them; returns the XML.

    `kind` is "expected" or "argmax"; `counted` says in the description what is counted. No costs: none are known.
    """
    if kind not in ("expected", "argmax"):
        raise ValueError(f"kind: found {kind!r}; expected 'expected' or 'argmax'.")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    assets = counts[counts[kind] > 0].reset_index(drop=True)
    table = pd.DataFrame(
        {
            "id": [f"a{n:07d}" for n in range(len(assets))],
            "lon": assets["lon"].round(5), "lat": assets["lat"].round(5), "taxonomy": assets["taxonomy"],
            "number": assets[kind].round(6), "block": assets["block"],
        }
    )  # fmt: skip
    stem = f"{name}_{kind}"
    write_csv(table, folder / f"{stem}.csv")
    description = (
        f"{kind} counts of {counted} per block and taxonomy, predicted from street-level photographs by mtclim"
    )
    text = NRML.format(id=escape(stem, {'"': "&quot;"}), description=escape(description), assets=escape(f"{stem}.csv"))
    (folder / f"{stem}.xml").write_text(text, encoding="utf-8")
    return folder / f"{stem}.xml"
