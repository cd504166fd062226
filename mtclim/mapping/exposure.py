"""From predictions to an exposure model: GEM Building Taxonomy v4 strings and OpenQuake exposure files.

What a class means in the taxonomy is a table (``mtclim/mapping/gem_santiago.csv``: task, class, gem, note) that a user
replaces for other tasks. Several atoms of a class are separated by "/"; none means that the taxonomy cannot say it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache, reduce
from importlib.resources import files
from itertools import combinations, compress, product
from pathlib import Path
from string import Template
from xml.sax.saxutils import escape

import numpy as np
import pandas as pd

from mtclim.analysis.joint import Joint
from mtclim.data.reading import read_frame, some
from mtclim.files import write_text
from mtclim.mapping.frequencies import apart, calibrate, fused, probabilities
from mtclim.mapping.photographs import check_placed, mean_longitude, write_csv
from mtclim.tasks import Tasks

SANTIAGO_MAPPING = files("mtclim.mapping") / "gem_santiago.csv"
METHODS = {"argmax": "most probable labels", "product": "product of the tasks", "joint": "joint"}
"""How façades are counted, with readable names: the product is that of the tasks' probabilities."""
HOW = {
    False: "expected counts are products of the tasks' calibrated probabilities",
    True: "expected counts are sums of the joint posterior over the labelsets of training, calibrated",
}
"""What the expected counts of an exposure model are, by whether they are consistent."""
_MOST = 2_000_000  # combinations of classes that are counted

# ---------------------------------------------------------------- the taxonomy


def _read(path: str | Path, columns: Sequence[str]) -> pd.DataFrame:
    """Columns of a table as text, "" where a cell is empty; ValueError where one of them is not there.

    Their names are found in any case and without spaces at the ends, as in a table of images. As in newer versions of
    the engine, risk_id is another name of conversion, and without a column weight all weights are 1.
    """
    source = read_frame(path, columns[0])
    found, names = list(source.frame), [str(name).strip().lower() for name in source.frame]
    names = ["conversion" if name == "risk_id" else name for name in names]
    frame = source.frame.set_axis(names, axis=1)
    if "weight" not in frame:
        frame["weight"] = "1"
    if any(list(frame).count(name) != 1 for name in columns):
        raise ValueError(f"{path}: found the columns {found}; expected {', '.join(columns)}, each once.")
    source = replace(source, frame=frame[list(columns)])
    cells = {name: source.cells(name, keep=source.missing) for name in columns}  # a class may be called "NA"
    return pd.DataFrame({name: np.asarray(own, object) for name, own in cells.items()})


def read_mapping(path: str | Path | None = None) -> dict[str, dict[str, tuple[str, ...]]]:
    """Task -> class -> atoms of the taxonomy, from a table task, class, gem; the one for Santiago by default.

    UNK alone says of a class what an empty cell says.
    """
    path = SANTIAGO_MAPPING if path is None else path
    table = _read(path, ["task", "class", "gem"])
    repeated = table[table.duplicated(["task", "class"])]
    if len(repeated):
        task, name, _ = repeated.iloc[0]
        raise ValueError(f"{path}: {task}:{name} is mapped twice; keep one row.")
    mapping: dict[str, dict[str, tuple[str, ...]]] = {}
    for task, name, gem in table.itertuples(index=False):
        try:
            _canonical(gem or "UNK")
        except ValueError as error:
            raise ValueError(f"{path}: correct the gem of {task}:{name}, or leave it empty; {error}") from None
        mapping.setdefault(task, {})[name] = tuple(filter(None, gem.split("/"))) if gem != "UNK" else ()
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
    """The canonical form of a string, by the taxonomy's own validator; ValueError where it is none."""
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
    used = _used(labels.columns, mapping)

    def string(row: tuple) -> str:
        atoms: dict[str, None] = {}  # in order, each once
        for task, label in zip(used, row, strict=True):
            if pd.notna(label) and label not in mapping[task]:
                raise ValueError(f"GEM mapping: {task!r} has no row for class {label!r}; add one (gem may be empty).")
            atoms |= dict.fromkeys(mapping[task].get(label, ()))
        try:
            return _canonical("/".join(atoms) or "UNK")
        except ValueError as error:
            classes = ", ".join(f"{task}:{label}" for task, label in zip(used, row, strict=True) if pd.notna(label))
            raise ValueError(f"GEM mapping: {classes} have no string together, so correct their gem; {error}") from None

    rows = list(labels[used].itertuples(index=False, name=None))
    strings = {row: string(row) for row in set(rows)}
    return pd.Series([strings[row] for row in rows], labels.index, name="gem", dtype=object)


def covered(tasks: Tasks, mapping: Mapping) -> tuple[dict[str, Sequence[str]], list[str]]:
    """The tasks all of whose classes are in the mapping, and for each other task why it is left out.

    ValueError where two classes of these tasks have no string together, or all combinations are too many to count.
    """
    used, left_out = {}, []
    for task, classes in tasks.items():
        missing = [name for name in classes if name not in mapping.get(task, {})]
        if missing:
            what = f"row for {', '.join(missing)}" if task in mapping else "such task"
            left_out.append(f"{tasks.title(task)}: the mapping has no {what}")
        else:
            used[task] = classes
    _shape(tasks, used)
    for a, b in combinations(used, 2):
        gem_strings(pd.DataFrame(list(product(used[a], used[b])), columns=[a, b]), mapping)
    return used, left_out


def _shape(tasks: Tasks, used: Iterable[str]) -> tuple[int, ...]:
    """The numbers of classes of some tasks; ValueError where their combinations are too many to count."""
    shape = tuple(len(tasks[task]) for task in used)
    if np.prod(shape, dtype=float) > _MOST:
        raise ValueError(f"exposure: {' x '.join(map(str, shape))} combinations; map fewer tasks (at most {_MOST:,}).")
    return shape


def _used(columns: Iterable[str], mapping: Mapping) -> list[str]:
    used = [task for task in mapping if task in columns]
    if not used:
        raise ValueError(f"GEM mapping: found the tasks {[*columns]}; expected at least one of {', '.join(mapping)}.")
    return used


def attributes(predictions: pd.DataFrame, tasks: Tasks, mapping: Mapping | None = None) -> pd.DataFrame:
    """Flat attributes of each façade for a GIS: image, block, lon, lat ..., ``<task>:pred``, ``<task>:probability``.

    Parameters
    ----------
    mapping : As in :func:`exposure`. Where it covers a task, gem is the taxonomy's string of the tasks that it covers.
    """
    known = ("image", "building", "weight", "block", "municipality", "lon", "lat", "bearing")
    frame = predictions[[name for name in known if name in predictions]].copy()
    for task, classes in tasks.items():
        label = pd.Index(classes).get_indexer(predictions[f"{task}:pred"])
        p = probabilities(predictions, task, classes)[np.arange(len(label)), label]
        frame = frame.assign(**{f"{task}:pred": predictions[f"{task}:pred"], f"{task}:probability": p.round(4)})
    mapping = mapping or read_mapping()
    used, _ = covered(tasks, mapping)
    if used:
        labels = pd.DataFrame({task: predictions[f"{task}:pred"] for task in used})
        frame["gem"] = gem_strings(labels, mapping)
    return frame


# ---------------------------------------------------------------- counts


def buildings(predictions: pd.DataFrame, tasks: Tasks) -> pd.DataFrame:
    """One row a building: photographs of one ``building`` give one answer (see :func:`fused`), and their mean weight.

    Without that column every façade stands for itself, and so does a façade whose ``building`` is empty. An empty
    weight is 1.
    """
    check_placed(predictions)
    columns = [f"{task}:p:{name}" for task, classes in tasks.items() for name in classes]
    frame = predictions.reindex(columns=["lon", "lat", "block", *columns]).reset_index(drop=True)
    frame["weight"] = predictions["weight"].fillna(1.0).to_numpy(float) if "weight" in predictions else 1.0
    if "building" not in predictions:
        return frame
    named = predictions["building"].replace("", None).reset_index(drop=True)
    building, _ = pd.factorize(named.fillna(pd.Series([f"façade {n}" for n in range(len(frame))])))
    how = {"block": "first"} | dict.fromkeys(["lat", "weight"], "mean")
    found = frame.groupby(building).agg(how).assign(lon=mean_longitude(frame["lon"], building))
    return found.join(fused(frame, tasks, building, np.ones(len(frame))))


def exposure(
    predictions: pd.DataFrame,
    tasks: Tasks,
    mapping: Mapping | None = None,
    joint: Joint | None = None,
) -> pd.DataFrame:
    """Count buildings per block and taxonomy.

    Parameters
    ----------
    predictions : The networks' own, or for corrected counts those of :func:`mtclim.mapping.frequencies.calibrate`; not
        those of the joint, which would then count twice.
    tasks, mapping : All tasks of the predictions, and what says which make the taxonomy (see :func:`read_mapping`).
    joint : From :func:`mtclim.mapping.ensemble.joint_of`. With it, combinations of classes that training never showed
        have no weight; without it the tasks count as independent.

    Returns
    -------
    DataFrame
        The columns are block, lon, lat (means), taxonomy, expected (sums of the joint posterior) and argmax (the most
        probable labels). Expected counts that round to nothing at the six decimals of the files are dropped, and the
        others are scaled to the block's total.

    Raises
    ------
    ValueError
        Where the mapping covers no task, leaves out one of its classes, or has too many combinations of classes.
    """
    mapping = mapping or read_mapping()
    used = [task for task in tasks if task in _used(tasks, mapping)]
    shape = _shape(tasks, used)
    joint = joint or Joint(tasks, np.full((1, len(tasks)), -1), np.zeros(1))  # one labelset, in which nothing is known
    stock, frames = buildings(predictions, tasks), []
    blocks = stock["block"].fillna("no block").astype(str)
    longitudes = mean_longitude(stock["lon"], blocks)
    for block, rows in stock.groupby(blocks):
        weight = rows["weight"].to_numpy()
        p = {task: probabilities(rows, task, classes) for task, classes in tasks.items()}
        best = np.ravel_multi_index([p[task].argmax(1) for task in used], shape)
        argmax = np.bincount(best, weight, int(np.prod(shape)))
        frame = pd.DataFrame({"expected": _expected(joint, p, used, weight), "argmax": argmax})
        frame = frame.assign(block=block, lon=longitudes[block], lat=rows["lat"].mean())
        frames.append(frame[(frame["expected"] > 0) | (frame["argmax"] > 0)])
    whole = pd.concat(frames)  # indexed by the combination of classes
    cells, row = np.unique(whole.index, return_inverse=True)
    codes = zip(used, np.unravel_index(cells, shape), strict=True)
    labels = pd.DataFrame({task: np.asarray(tasks[task], object)[own] for task, own in codes})
    whole["taxonomy"] = gem_strings(labels, mapping).to_numpy()[row]
    how = {"lon": "first", "lat": "first", "expected": "sum", "argmax": "sum"}
    counts = whole.groupby(["block", "taxonomy"], as_index=False).agg(how)
    kept = counts["expected"].where(counts["expected"].round(6) > 0, 0.0)
    total, left = (own.groupby(counts["block"]).transform("sum") for own in (counts["expected"], kept))
    counts["expected"] = (kept * total / left).fillna(0.0)  # 0 / 0 where no count of the block is large enough
    counts = counts[(counts["expected"] > 0) | (counts["argmax"] > 0)]
    return counts[["block", "lon", "lat", "taxonomy", "expected", "argmax"]].reset_index(drop=True)


def _expected(joint: Joint, p: Mapping[str, np.ndarray], used: Sequence[str], weight: np.ndarray) -> np.ndarray:
    """Sum over rows of weight times the posterior of each labelset, flattened over the classes of the tasks ``used``.

    Where a labelset has no label for a task, the task's own probabilities say how it is shared out.
    """
    mass = weight[:, None] * joint.posterior(p)  # (n, L)
    labelsets = joint.labelsets[:, [list(joint.tasks).index(task) for task in used]]
    counts = np.zeros([len(joint.tasks[task]) for task in used])
    whole = (labelsets >= 0).all(1)
    np.add.at(counts, tuple(labelsets[whole].T), mass[:, whole].sum(0))
    for labels, own in zip(labelsets[~whole], mass[:, ~whole].T, strict=True):
        *first, last = own[:, None], *(p[task] for task in compress(used, labels < 0))
        outer = reduce(lambda q, r: (q[:, :, None] * r[:, None, :]).reshape(len(own), -1), first)
        here = counts[tuple(slice(None) if label < 0 else label for label in labels)]  # a view
        here += (outer.T @ last).reshape(here.shape)
    return counts.ravel()


def compare(
    predictions: pd.DataFrame,
    validation: pd.DataFrame,
    tasks: Tasks,
    fit: Callable,
    mapping: Mapping | None = None,
) -> pd.DataFrame:
    """Compare the ways of counting with the truth, on façades outside the blocks that training or validation used.

    Parameters
    ----------
    fit : Makes a joint of validation answers (:func:`mtclim.mapping.ensemble.joint_of` for one run).
    tasks, mapping : As in :func:`exposure`, which is compared by blocks.

    Returns
    -------
    DataFrame
        The columns are method, calibrated, level (the city, or the mean over municipalities weighted by façades),
        total_variation (half the summed difference of the counts per taxonomy, as a share), lines and impossible (the
        share of weight on taxonomies that no façade has).
    """
    outside = predictions[apart(predictions)].drop(columns=["building", "weight"], errors="ignore")
    outside = outside.assign(city="city")
    levels = [name for name in ("city", "municipality") if name in outside]
    outside[levels] = outside[levels].fillna("none").astype(str)
    outside["block"] = outside.groupby([*levels, "block"], dropna=False).ngroup().astype(str)
    areas = outside.drop_duplicates("block").set_index("block")[levels]  # where each block, within its area, lies
    mapping = mapping or read_mapping()
    taxonomy = gem_strings(pd.DataFrame({task: outside[f"{task}:true"] for task in tasks}), mapping)
    true = {level: taxonomy.groupby([outside[level], taxonomy.rename("taxonomy")]).size() for level in levels}
    rows = []
    for calibrated in (False, True):
        answers, own = (calibrate(f, validation, tasks) if calibrated else f for f in (outside, validation))
        joint = fit(own)
        for method in METHODS:
            kind = "argmax" if method == "argmax" else "expected"
            blocks = exposure(answers, tasks, mapping, joint if method == "joint" else None)
            blocks = blocks[blocks[kind] > 0].join(areas, "block")
            for level in levels:
                counts = blocks.groupby([level, "taxonomy"])[kind].sum()
                difference = counts.sub(true[level], fill_value=0).abs().sum() / (2 * len(outside))
                impossible = 1 - counts[counts.index.isin(true[level].index)].sum() / counts.sum()
                rows.append((method, calibrated, level, difference, len(blocks), impossible))
    names = ["method", "calibrated", "level", "total_variation", "lines", "impossible"]
    return pd.DataFrame(rows, columns=names)


# ---------------------------------------------------------------- files for the OpenQuake engine


def read_conversions(path: str | Path) -> pd.DataFrame:
    """Read a table taxonomy, conversion (the vulnerability class), weight, as the OpenQuake engine takes it.

    Weights are scaled so that those of a taxonomy sum to 1 within the engine's tolerance. ValueError for missing
    columns, empty conversions, and weights of a taxonomy whose sum is further from 1 than rounding explains.
    """
    table = _read(path, ["taxonomy", "conversion", "weight"])
    blank = table.loc[table["conversion"] == "", "taxonomy"].unique()
    if len(blank):
        raise ValueError(f"{path}: no conversion for {some(blank, 5)}; fill in the vulnerability class of each.")
    table["weight"] = pd.to_numeric(table["weight"].str.replace(",", "."), errors="coerce")
    sums = table.groupby("taxonomy")["weight"].sum(min_count=1)
    wrong = sums[~(np.abs(sums - 1) < 1e-3)].index.union(table.loc[~(table["weight"] >= 0), "taxonomy"])
    if len(wrong):
        raise ValueError(f"{path}: the weights of {some(wrong, 5)} do not sum to 1; give each taxonomy shares of 1.")
    return table.assign(weight=table["weight"] / table["taxonomy"].map(sums))


def write_openquake(
    counts: pd.DataFrame,
    folder: str | Path,
    kind: str = "expected",
    counted: str = "façades",
    conversions: pd.DataFrame | None = None,
    how: str = "",
) -> Path:
    """Write ``exposure_<kind>.xml``, its CSV and a mapping file, as the OpenQuake engine reads them; returns the XML.

    Parameters
    ----------
    counts, kind : From :func:`exposure`, and "expected" or "argmax".
    counted, how : What is counted, and from which answers, for the description.
    conversions : From :func:`read_conversions`. Without them the mapping file is a template: one line a taxonomy of
        either kind, whose vulnerability class is to be filled in, so that one file serves both.
    """
    folder, stem = Path(folder), f"exposure_{kind}"
    folder.mkdir(parents=True, exist_ok=True)
    assets = counts[counts[kind] > 0].reset_index(drop=True)
    if conversions is None:
        conversions = pd.DataFrame({"taxonomy": sorted(counts["taxonomy"].unique()), "conversion": "", "weight": 1})
    missing = set(assets["taxonomy"]) - set(conversions["taxonomy"])
    if missing:
        raise ValueError(f"conversions: found no line for {some(sorted(missing), 5)}; add one for each taxonomy.")
    conversions = conversions[conversions["taxonomy"].isin(counts["taxonomy"])]
    write_csv(conversions, folder / f"{stem}_mapping.csv", exact=True)
    table = assets.assign(id=[f"a{n:07d}" for n in range(len(assets))], number=assets[kind])
    table = table[["id", "lon", "lat", "taxonomy", "number", "block"]].round({"lon": 5, "lat": 5, "number": 6})
    write_csv(table, folder / f"{stem}.csv", exact=True)
    text = f"{kind} counts of {counted} per block and taxonomy, predicted from street-level photographs by mtclim"
    description = f"{text}; {how}" if how else text
    form = Template((files("mtclim.mapping") / "exposure.xml").read_text(encoding="utf-8"))
    write_text(folder / f"{stem}.xml", form.substitute(id=stem, description=escape(description)))
    return folder / f"{stem}.xml"
