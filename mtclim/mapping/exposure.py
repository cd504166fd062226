"""From predictions to an exposure model: GEM Building Taxonomy v4 strings and OpenQuake exposure files.

What a class means in the taxonomy is a table (``mtclim/mapping/gem_santiago.csv``: task, class, gem, note) that a user
replaces for other tasks. Several atoms of a class are separated by "/"; none means that the taxonomy cannot say it.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from string import Template
from xml.sax.saxutils import escape

import numpy as np
import pandas as pd

from mtclim.analysis.joint import Joint
from mtclim.data.reading import cells, number, read_frame, some
from mtclim.files import write_text
from mtclim.mapping.frequencies import calibrate, probabilities
from mtclim.mapping.photographs import write_csv
from mtclim.tasks import Tasks

METHODS = {"argmax": "most probable labels", "product": "product of the tasks", "joint": "joint"}
"""How façades are counted, with readable names: the product is that of the tasks' probabilities."""
HOW = {
    False: "expected counts are products of the tasks' calibrated probabilities",
    True: "expected counts are sums of the joint posterior over the labelsets of training, calibrated",
}
"""What the expected counts of an exposure model are, by whether they are consistent."""
_MOST = 100_000  # combinations of classes that are counted
_CELLS = 1_000_000  # façades times combinations at a time, which bounds the memory

# ---------------------------------------------------------------- the taxonomy


def _read(path: str | Path, columns: Sequence[str]) -> pd.DataFrame:
    """Columns of a table as text, "" where a cell is empty; their names are found in any case, as in other tables."""
    frame = read_frame(path, columns[0]).frame
    names = [str(name).strip().lower() for name in frame]
    if any(names.count(name) != 1 for name in columns):
        raise ValueError(f"{path}: found the columns {list(frame)}; expected {', '.join(columns)}, each once.")
    frame = frame.set_axis(names, axis=1)
    texts = {name: np.asarray(cells(frame[name], missing=()), object) for name in columns}  # a class may be called "NA"
    return pd.DataFrame(texts)


def read_mapping(path: str | Path | None = None) -> dict[str, dict[str, tuple[str, ...]]]:
    """Task -> class -> atoms of the taxonomy, from a table task, class, gem; the one for Santiago by default."""
    path = path or files("mtclim.mapping") / "gem_santiago.csv"
    mapping: dict[str, dict[str, tuple[str, ...]]] = {}
    for task, name, gem in _read(path, ["task", "class", "gem"]).itertuples(index=False):
        if name in mapping.setdefault(task, {}):
            raise ValueError(f"{path}: {task}:{name} is mapped twice; keep one row.")
        if gem:
            _canonical(gem)
        mapping[task][name] = tuple(filter(None, gem.split("/")))
    return mapping


@cache
def _taxonomy():
    try:
        from openquake.gem_taxonomy import GemTaxonomy
    except ImportError:
        raise ImportError("GEM strings need their validator: pip install 'openquake.gem_taxonomy'") from None
    return GemTaxonomy("4")


@cache
def _canonical(text: str) -> str:
    """The canonical form of a string, by the taxonomy's own validator."""
    try:
        report = _taxonomy().validate(text)[-1]
    except ValueError as error:
        raise ValueError(f"{text!r} is not a string of the GEM Building Taxonomy v4: {error}") from None
    return text if report["is_canonical"] else report["canonical"]


def gem_strings(labels: pd.DataFrame, mapping: Mapping | None = None) -> pd.Series:
    """A validated taxonomy string for each row of ``labels`` (a column a task); UNK where nothing can be said.

    >>> gem_strings(pd.DataFrame({"mat_llrs": ["CR"], "height": ["H13+"], "roof_shape": ["FLT"]})).tolist()
    ['CR/H:>12/RSH1']
    """
    mapping = mapping or read_mapping()
    used = [task for task in mapping if task in labels]
    if not used:
        raise ValueError(f"GEM mapping: found the tasks {[*labels]}; expected at least one of {', '.join(mapping)}.")

    @cache
    def string(row: tuple) -> str:
        atoms: dict[str, None] = {}  # in order, each once
        for task, label in zip(used, row, strict=True):
            if pd.notna(label) and label not in mapping[task]:
                raise ValueError(f"GEM mapping: {task!r} has no row for class {label!r}; add one (gem may be empty).")
            atoms |= dict.fromkeys(mapping[task].get(label, ()))
        return _canonical("/".join(atoms) or "UNK")

    strings = [string(row) for row in labels[used].itertuples(index=False, name=None)]
    return pd.Series(strings, labels.index, name="gem", dtype=object)


def covered(tasks: Tasks, mapping: Mapping) -> tuple[dict[str, Sequence[str]], list[str]]:
    """The tasks all of whose classes are in the mapping, and for each other task why it is left out."""
    used, left_out = {}, []
    for task, classes in tasks.items():
        missing = [name for name in classes if name not in mapping.get(task, {})]
        if missing:
            what = f"row for {', '.join(missing)}" if task in mapping else "such task"
            left_out.append(f"{tasks.title(task)}: the mapping has no {what}")
        else:
            used[task] = classes
    return used, left_out


def attributes(predictions: pd.DataFrame, tasks: Tasks, mapping: Mapping | None = None) -> pd.DataFrame:
    """Flat attributes of each façade for a GIS: image, block, lon, lat ..., ``<task>:pred``, ``<task>:probability``.

    Where the mapping covers a task, gem is the string of the taxonomy of the tasks that it covers.
    """
    known = ["image", "building", "weight", "block", "municipality", "lon", "lat", "bearing"]
    frame = predictions.filter(items=known)
    for task, classes in tasks.items():
        label = pd.Index(classes).get_indexer(predictions[f"{task}:pred"])
        p = probabilities(predictions, task, classes)[np.arange(len(label)), label]
        frame = frame.assign(**{f"{task}:pred": predictions[f"{task}:pred"], f"{task}:probability": p.round(4)})
    mapping = mapping or read_mapping()
    used, _ = covered(tasks, mapping)
    if used:
        frame["gem"] = gem_strings(pd.DataFrame({task: predictions[f"{task}:pred"] for task in used}), mapping)
    return frame


# ---------------------------------------------------------------- counts


def buildings(predictions: pd.DataFrame, tasks: Tasks) -> pd.DataFrame:
    """One row a building: photographs of one ``building`` are averaged, also their weights (an empty one is 1).

    Without that column every façade stands for itself, and so does a façade whose ``building`` is empty.
    """
    alone = pd.Series([f"façade {n}" for n in range(len(predictions))], predictions.index)
    building = predictions["building"].replace("", None).fillna(alone) if "building" in predictions else alone
    columns = [f"{task}:p:{name}" for task, classes in tasks.items() for name in classes]
    weight = predictions["weight"].fillna(1.0).astype(float) if "weight" in predictions else 1.0
    frame = predictions[["lon", "lat", *columns]].assign(weight=weight, block=predictions["block"].fillna("no block"))
    how = {"block": "first"} | dict.fromkeys(["lon", "lat", "weight", *columns], "mean")
    return frame.groupby(building, sort=False).agg(how).reset_index(drop=True)


def exposure(
    predictions: pd.DataFrame,
    tasks: Tasks,
    mapping: Mapping | None = None,
    joint: Joint | None = None,
    tail: float = 0.01,
) -> pd.DataFrame:
    """Count buildings per block and taxonomy.

    The columns are block, lon, lat (means), taxonomy, expected (sums of the joint posterior) and argmax (the most
    probable labels). ValueError where the mapping covers no task or leaves out one of its classes.

    ``predictions`` are calibrated (:func:`mtclim.mapping.frequencies.calibrate`) or the networks' own, but not those of
    the joint, which would then count twice. ``tasks`` are all of theirs, and the ``mapping`` (:func:`read_mapping`)
    says which make the taxonomy. With a ``joint`` (:func:`mtclim.mapping.ensemble.joint_of`) what training never showed
    has no weight; without it the tasks count as independent. Of each block the least likely taxonomies that make up at
    most the share ``tail`` of its expected counts are dropped, and the others are scaled to its total.
    """
    mapping = mapping or read_mapping()
    joint = joint or Joint(tasks, np.full((1, len(tasks)), -1), np.zeros(1))  # one labelset, in which nothing is known
    joint = _expanded(joint, mapping)

    def taxonomy(labelsets: np.ndarray) -> pd.Series:
        names = {task: np.asarray(tasks[task], object)[own] for task, own in zip(tasks, labelsets.T, strict=True)}
        return gem_strings(pd.DataFrame(names), mapping).rename("taxonomy")

    stock, strings = buildings(predictions, tasks), taxonomy(joint.labelsets)
    p = {task: probabilities(stock, task, classes) for task, classes in tasks.items()}
    best = taxonomy(np.stack([own.argmax(1) for own in p.values()], axis=1))
    argmax = stock["weight"].groupby([stock["block"], best]).sum()
    block, blocks = pd.factorize(stock["block"])
    expected, step = np.zeros((len(blocks), len(strings))), max(1, _CELLS // len(strings))
    for start in range(0, len(stock), step):
        rows = slice(start, start + step)
        posterior = joint.posterior({task: own[rows] for task, own in p.items()})
        np.add.at(expected, block[rows], posterior * stock["weight"].to_numpy()[rows, None])
    expected = pd.DataFrame(expected.T, strings, blocks.rename("block")).groupby(level=0).sum().unstack()
    counts = pd.DataFrame({"expected": expected, "argmax": argmax}).fillna(0.0).sort_index()
    total = counts.groupby("block")["expected"].transform("sum")
    least_first = (counts["expected"] / total).sort_values(kind="stable").groupby("block").cumsum()
    counts["expected"] = counts["expected"].mask(least_first <= tail, 0.0)
    counts["expected"] *= total / counts.groupby("block")["expected"].transform("sum")
    counts = counts[(counts["expected"] > 0) | (counts["argmax"] > 0)].reset_index()
    places = stock.groupby("block")[["lon", "lat"]].mean()
    return counts.join(places, on="block")[["block", "lon", "lat", "taxonomy", "expected", "argmax"]]


def _expanded(joint: Joint, used: Collection[str]) -> Joint:
    """The same joint, in which a labelset without a label of a task in ``used`` is there once for each of its classes.

    It is the same because such a task answers by itself, with probabilities whose sum is 1.
    """
    labelsets, log_ratio = joint.labelsets, joint.log_ratio
    for n, (task, classes) in enumerate(joint.tasks.items()):
        if task in used:
            times = np.where(labelsets[:, n] < 0, len(classes), 1)
            if times.sum() > _MOST:
                raise ValueError(f"exposure: more than {_MOST:,} combinations of classes; map fewer tasks.")
            labelsets, log_ratio = labelsets.repeat(times, axis=0), log_ratio.repeat(times)
            missing = np.flatnonzero(labelsets[:, n] < 0)
            labelsets[missing, n] = np.arange(len(missing)) % len(classes)
    return replace(joint, labelsets=labelsets, log_ratio=log_ratio)


def compare(
    predictions: pd.DataFrame, validation: pd.DataFrame, tasks: Tasks, fit: Callable, mapping: Mapping | None = None
) -> pd.DataFrame:
    """Compare the ways of counting with the truth, on façades outside the blocks that hold a training image.

    ``fit`` makes a joint of validation answers (:func:`mtclim.mapping.ensemble.joint_of` for one run). The columns are
    method, calibrated, level (the city, or the mean over municipalities weighted by façades), total_variation (half the
    summed difference of the counts per taxonomy, as a share), lines (of the exposure by blocks) and impossible (the
    share of weight on taxonomies that no façade has).
    """
    training = predictions["block"].isin(predictions.loc[predictions["in_training"], "block"])
    outside = predictions[~training].drop(columns="building", errors="ignore").assign(city="city")
    taxonomy = gem_strings(pd.DataFrame({task: outside[f"{task}:true"] for task in tasks}), mapping).rename("taxonomy")
    rows = []
    for calibrated in (False, True):
        answers, own = (calibrate(f, validation, tasks) if calibrated else f for f in (outside, validation))
        for method, joint in (("argmax", None), ("product", None), ("joint", fit(own))):
            kind = "argmax" if method == "argmax" else "expected"
            lines = (exposure(answers, tasks, mapping, joint)[kind] > 0).sum()
            for level in outside.columns.intersection(["city", "municipality"])[::-1]:
                counts = exposure(answers.assign(block=answers[level]), tasks, mapping, joint, tail=0.0)
                counts = counts.set_index(["block", "taxonomy"])[kind]
                true = taxonomy.groupby([outside[level].rename("block"), taxonomy]).size()
                difference = counts.sub(true, fill_value=0).abs().sum() / (2 * len(outside))
                impossible = 1 - counts[counts.index.isin(true.index)].sum() / counts.sum()
                rows.append((method, calibrated, level, difference, lines, impossible))
    names = ["method", "calibrated", "level", "total_variation", "lines", "impossible"]
    return pd.DataFrame(rows, columns=names)


# ---------------------------------------------------------------- files for the OpenQuake engine


def read_conversions(path: str | Path) -> pd.DataFrame:
    """Read a table taxonomy, conversion (the vulnerability class), weight, as the OpenQuake engine takes it.

    ValueError for missing columns, empty conversions, and weights of a taxonomy that do not sum to 1.
    """
    table = _read(path, ["taxonomy", "conversion", "weight"])
    blank = table.loc[table["conversion"] == "", "taxonomy"].unique()
    if len(blank):
        raise ValueError(f"{path}: no conversion for {some(blank, 5)}; fill in the vulnerability class of each.")
    table["weight"] = table["weight"].map(number)
    sums = table["weight"].where(table["weight"] >= 0, np.inf).groupby(table["taxonomy"]).sum()
    wrong = sums.index[(sums - 1).abs() > 1e-3]
    if len(wrong):
        raise ValueError(f"{path}: the weights of {some(wrong, 5)} do not sum to 1; give each taxonomy shares of 1.")
    return table


def write_openquake(
    counts: pd.DataFrame,
    folder: str | Path,
    kind: str = "expected",
    counted: str = "façades",
    conversions: pd.DataFrame | None = None,
    how: str = "",
) -> Path:
    """Write ``exposure_<kind>.xml``, its CSV and a mapping file, as the OpenQuake engine reads them; returns the XML.

    ``kind`` is "expected" or "argmax". The description says what is ``counted`` and ``how``. Without ``conversions``
    (see :func:`read_conversions`) the mapping file is a template, in which vulnerability classes are to be filled in.
    """
    folder, stem = Path(folder), f"exposure_{kind}"
    folder.mkdir(parents=True, exist_ok=True)
    assets = counts[counts[kind] > 0].reset_index(drop=True)
    taxonomies = sorted(assets["taxonomy"].unique())
    if conversions is None:
        conversions = pd.DataFrame({"taxonomy": taxonomies, "conversion": "", "weight": 1})
    missing = set(taxonomies) - set(conversions["taxonomy"])
    if missing:
        raise ValueError(f"conversions: found no line for {some(sorted(missing), 5)}; add one for each taxonomy.")
    write_csv(conversions[conversions["taxonomy"].isin(taxonomies)], folder / f"{stem}_mapping.csv", exact=True)
    table = assets.assign(id=[f"a{n:07d}" for n in range(len(assets))], number=assets[kind])
    table = table[["id", "lon", "lat", "taxonomy", "number", "block"]].round({"lon": 5, "lat": 5, "number": 6})
    write_csv(table, folder / f"{stem}.csv", exact=True)
    text = f"{kind} counts of {counted} per block and taxonomy, predicted from street-level photographs by mtclim"
    form = Template((files("mtclim.mapping") / "exposure.xml").read_text(encoding="utf-8"))
    description = escape(f"{text}; {how}" if how else text)
    write_text(folder / f"{stem}.xml", form.substitute(id=stem, description=description))
    return folder / f"{stem}.xml"
