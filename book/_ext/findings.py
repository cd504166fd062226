"""What was found, in sentences that are made from the numbers when the book is built, and the figure of the effects.

``{found} answer`` is the answer, and ``{found} advice`` its last sentence. ``{found}`` origin, consistency, several
and cost are sentences, and decoding, classes, rates, rivals, rivals-grocery, grid and trends lists. ``{numbers} NAME``
are the tables of ``result_tables``. All read the committed results, those of the reference study, whatever a fresh
study found.
``python book/_ext/findings.py`` writes the tables that they read from the study's runs, and the README's sentences.
"""

import re
from itertools import product
from pathlib import Path

import differences
import numpy as np
import pandas as pd
import rates
from docutils import nodes
from docutils.parsers.rst import directives
from matplotlib.figure import Figure
from result_tables import numbers
from rivals import BASE, ORDERS, measured
from rivals import FULL as FULL_NAME
from sphinx.util.docutils import SphinxDirective
from stored import (
    KAPPA,
    RIGHT,
    SETS,
    judged,
    limits,
    read,
    read_differences,
    read_effects,
    read_joint,
    read_rates,
    read_rivals,
    signed,
)
from study import table as table_of

from mtclim.analysis import further
from mtclim.analysis.comparison import BACKBONES, paper_table3
from mtclim.analysis.effects import DECISIVE, MARGIN, VERDICTS, contrasts, write_summaries
from mtclim.analysis.grid import DIALS, SHOWN, trend
from mtclim.config import load_config
from mtclim.files import whole_or_absent, write_text
from mtclim.style import backbone_title
from mtclim.tasks import SANTIAGO
from mtclim.variants import VARIANTS, title

ROOT = Path(__file__).parents[2]
UNFINISHED = "The reference study has not finished, so that there is no answer yet."
FULL, PLAIN = "LIM-MS_ALL - BL-FC", "LIM-MS_ALL - BL"
CONTENT, GRADIENT = "LIM-MS_ALL - LIM-MS_ALL, shuffled", "LIM-MS_ALL, detached - BL-FC"
REST = "LIM-MS_ALL, shuffled - BL-FC"
BESIDE = "BL-FC, which also has a second classifier but reads nothing about labels"
IN = {KAPPA: "of mean κ", RIGHT: "in the share of façades whose labels are all right"}
STARTS = {
    "better": "Modelling label interdependency helps on the synthetic city:",
    "worse": "Modelling label interdependency does harm on the synthetic city:",
    VERDICTS[1]: "Modelling label interdependency has no effect worth having on the synthetic city:",
    VERDICTS[2]: "Whether modelling label interdependency helps on the synthetic city cannot be told from these runs:",
}
OUTCOMES = {
    "worse": "Surely less accurate than BL-FC",
    VERDICTS[1]: f"Surely within {MARGIN} points of BL-FC",
    VERDICTS[2]: "Not to be told from BL-FC with these runs",
}
SAID = dict(zip(VERDICTS, ("an effect", "no effect worth having", "too uncertain to call an effect"), strict=True))
COMES = {VERDICTS[1]: "does not come", VERDICTS[2]: "is not shown to come"}


def amount(row) -> str:
    """A difference with its 95 % interval."""
    return f"{signed(row.estimate)} points of mean κ ({signed(row.low)} to {signed(row.high)})"


def answer(results: Path) -> list[str]:
    """The answer, for or against the paper, in at most five sentences; one where there is none yet."""
    table, by_rate = read_effects(results), read_rates(results)
    full, plain = (city_effect(table, name) for name in (FULL, PLAIN))
    if full is None or plain is None:
        return [UNFINISHED]
    if pd.isna(full.low):
        return ["One run of each variant has finished, and one run cannot rank them."]
    first = [f"{STARTS[_direction(full)]} LIM-MS_ALL differs from {BESIDE}, by {amount(full)}."]
    depends = by_rate is not None and rates.depends(by_rate)
    if depends:
        best = best_rates(results)
        first = [
            "Whether modelling label interdependency helps on the synthetic city depends on the learning rate: "
            f"LIM-MS_ALL differs from {BESIDE}, by {rates.by_rate(by_rate, signed)}.",
            f"With each at the rate that suits it on validation images, the difference is {amount(best)}, which is "
            f"{SAID[best.verdict]}.",
        ]
    return [*first, beside_paper(table, depends), photographs(table), advice(results)]


def beside_paper(table: pd.DataFrame, depends: bool) -> str:
    """The difference of LIM-MS_ALL from BL beside the paper's, and what other tasks' answers contribute to it."""
    paper, plain, shuffled = paper_table3()["mean", "kappa"], city_effect(table, PLAIN), city_effect(table, CONTENT)
    theirs = " and ".join(signed(paper[name, "lim_ms_all"] - paper[name, "bl"]) for name in BACKBONES)
    rate = (
        f"At the rate {load_config('study').learning_rate:g}, with which all variants were trained, " if depends else ""
    )
    comes = ""
    if plain.verdict == VERDICTS[0] and shuffled is not None and pd.notna(shuffled.low):
        if shuffled.verdict in COMES:
            comes = f" but {COMES[shuffled.verdict]} from other tasks' labels"
        else:
            comes = f" to which the content of other tasks' answers contributes {amount(shuffled)}"
    return (
        f"{rate}LIM-MS_ALL differs from BL by {amount(plain)}, which is {SAID[plain.verdict]}{comes}, while the paper "
        f"reports {theirs} for its two backbones."
    )


def city_effect(table: pd.DataFrame, contrast: str):
    """A difference on the city as a row of effects; None where it has not been measured."""
    return next(table[(table["source"] == "city") & (table["contrast"] == contrast)].itertuples(), None)


def origin(results: Path) -> list[str]:
    """Whether the difference comes from the labels of other tasks, as the controls say."""
    table = read_effects(results)
    shuffled, detached, rest = (city_effect(table, name) for name in (CONTENT, GRADIENT, REST))
    if shuffled is None or detached is None or rest is None or pd.isna(shuffled.low):
        return [UNFINISHED]
    return [
        f"LIM-MS_ALL differs by {amount(shuffled)} from a control that reads the answers for other images. This is "
        f"what the content of other tasks' answers contributes, and it is {SAID[shuffled.verdict]}. The control reads "
        f"nothing true about other tasks, and differs from BL-FC by {amount(rest)}. Without a gradient through the "
        f"interim answers LIM-MS_ALL differs from BL-FC by {amount(detached)}."
    ]


def best_rates(results: Path):
    """The difference of LIM-MS_ALL from BL-FC with each at its best learning rate, as a row of effects; or None."""
    table = read_rates(results)
    if table is None:
        return None
    _, found = rates.at_best(table)
    if pd.isna(found["low"]):
        return None
    return next(judged(pd.DataFrame([found | {"source": "city", "contrast": FULL}])).itertuples())


def _direction(row) -> str:
    """An effect's sign, or else its verdict."""
    return row.verdict if row.verdict != VERDICTS[0] else "better" if row.estimate > 0 else "worse"


def consistency(results: Path) -> list[str]:
    """What becomes of contradictions when labels are chosen jointly."""
    joint = read_joint(results)
    if joint is None:
        return [UNFINISHED]
    own, lim, decoded = (joint.loc[key] for key in (("bl", "argmax"), ("lim_ms_all", "argmax"), ("bl", "joint")))
    return [
        f"The labels of one façade contradict each other in {own['contradictions']:.1f} % of BL's answers and in "
        f"{lim['contradictions']:.1f} % of LIM-MS_ALL's. Choosing BL's labels jointly, which needs no training, leaves "
        f"{decoded['contradictions']:.1f} % and changes the share of façades whose labels are all right from "
        f"{own['exact_match']:.1f} to {decoded['exact_match']:.1f} %."
    ]


def beyond_decoding(results: Path) -> list[str]:
    """Whether LIM-MS_ALL, and single networks, still gain over BL once labels are chosen jointly."""
    table, told = read_differences(results), []
    for contrast, own in table[table["group"] == "jointly"].groupby("contrast", sort=False):
        a, b = contrast.split(" - ")
        parts = [f"{limits(row.estimate, row.low, row.high)} points {IN[row.what]}" for row in own.itertuples()]
        told.append(
            f"With labels chosen jointly, {a} differs from {b} by {' and by '.join(parts)} (95 % intervals over seeds, "
            f"{own['runs'].min()} runs each)."
        )
    return told or [UNFINISHED]


def classes(results: Path) -> list[str]:
    """The classes whose F1 falls and rises most with LIM-MS_ALL, where that is more than chance."""
    table = read_differences(results)
    own = table[(table["group"] == "class") & (table["contrast"] == FULL) & (table["verdict"] == VERDICTS[0])]
    told = []
    for row in own.reindex(own["estimate"].abs().sort_values(ascending=False).index).head(5).itertuples():
        task, name = row.what.split(":", 1)
        words = f"{SANTIAGO.title(task, name)} ({SANTIAGO.title(task)}, {row.images:.0f} training images)"
        limits = f"95 % interval {signed(row.low)} to {signed(row.high)} over seeds"
        told.append(f"{words}: {signed(row.estimate)} points of F1 ({limits}).")
    return told or ["No class differs more than chance explains."]


def photographs(table: pd.DataFrame) -> str:
    """The same difference on each set of photographs."""
    own = table[(table["source"] != "city") & (table["contrast"] == FULL) & table["low"].notna()]
    if own.empty:
        return "The runs on real photographs have not finished yet."
    told = [f"{amount(row)} on {SETS.get(row.source, row.source)}" for row in own.itertuples()]
    if own["verdict"].nunique() > 1:
        told = [f"{words}, {SAID[kind]}" for words, kind in zip(told, own["verdict"], strict=True)]
        return f"On real photographs LIM-MS_ALL differs from BL-FC by {'; and by '.join(told)}."
    each = f"{'each ' * (len(own) > 1)}{SAID[own['verdict'].iloc[0]]}"
    return f"On real photographs LIM-MS_ALL differs from BL-FC by {' and by '.join(told)}, {each}."


def advice(results: Path) -> str:
    """Which variant to choose, from the effects on the city and on photographs."""
    table, best = read_effects(results), best_rates(results)
    rows = list(table[(table["contrast"] == FULL) & table["low"].notna()].itertuples())
    if not rows:
        return "Begin with BL: no result of this study recommends anything else yet."
    if best is not None:
        rows = [best, *(row for row in rows if row.source != "city")]
    better = {row.source for row in rows if _direction(row) == "better"}
    if "city" in better and better - {"city"}:
        return "Use LIM-MS_ALL, and train BL beside it to see what it gives on your photographs."
    if better:
        where = " and ".join(SETS.get(name, name) for name in sorted(better))
        return (
            f"Begin with BL, and train LIM-MS_ALL beside it, because it helps on {where} and not everywhere; keep the "
            "one that is better on your validation images."
        )
    begin = "Use BL"
    if {row.verdict for row in rows} == {VERDICTS[2]}:
        begin = "Begin with BL, because these runs cannot tell whether LIM-MS_ALL is better"
    return f"{begin}; choose its labels jointly where they must not contradict each other{_more(results)}."


def _more(results: Path) -> str:
    """The end of a sentence on several networks that answer together, where three of BL are better than one."""
    one, three = _averages(results)
    return ", and let several networks of it answer together to gain more" if three > one else ""


def cost(results: Path) -> list[str]:
    """How long LIM-MS_ALL and STC train beside BL."""
    table = read(results / "averages.csv", tuple(differences.AVERAGES))
    if table is None:
        return [UNFINISHED]
    one = table.query("networks == 1 and decoding == 'argmax'").set_index("variant")["time"]
    lim, stc = one.reindex(["lim_ms_all", "stc"]) / one.get("bl", np.nan)
    if np.isnan(lim + stc):
        return [UNFINISHED]
    return [
        f"Training until the best weights takes {lim:.1f} times as long for LIM-MS_ALL as for BL, and {stc:.1f} times "
        "as long for the five networks of STC."
    ]


def several(results: Path) -> list[str]:
    """What three networks of BL give that answer together."""
    one, three = _averages(results)
    if np.isnan(three):
        return [UNFINISHED]
    return [f"Three networks of BL that answer together change mean κ from {one:.1f} to {three:.1f} %."]


def _averages(results: Path) -> tuple[float, float]:
    """Mean kappa in percent of one network of BL, and of three that answer together; NaN where not measured."""
    table = read(results / "averages.csv", tuple(differences.AVERAGES))
    if table is None:
        return np.nan, np.nan
    own = table[(table["variant"] == "bl") & (table["decoding"] == "argmax")].set_index("networks")["mean_kappa"]
    return tuple(100 * own.reindex([1, 3]))


def other_rates(results: Path) -> list[str]:
    """Whether another learning rate would change the answer."""
    table = read_rates(results)
    if table is None:
        return ["The runs with other learning rates have not finished yet."]
    return rates.sentences(table, signed)


def rivals(results: Path) -> list[str]:
    """Which methods are surely better or worse than BL-FC, and whether the order of tasks and classes matters."""
    table = read_rivals(results)
    if table is None:
        return ["The runs of the rivals have not finished yet."]
    against = table[table["contrast"].str.endswith(f" - {BASE}")].dropna(subset="estimate")
    names = against["contrast"].str.removesuffix(f" - {BASE}")
    found = names.groupby([_direction(row) for row in against.itertuples()]).agg("; ".join).to_dict()
    told = [f"Surely more accurate than BL-FC: {found.get('better', 'no method')}."]
    told += [f"{said}: {found[kind]}." for kind, said in OUTCOMES.items() if kind in found]
    orders = table[table["contrast"] == f"{ORDERS} - {FULL_NAME}"].dropna(subset="low")
    return told + [
        f"With tasks and classes in random orders LIM-MS_ALL differs from LIM-MS_ALL in the paper's order by "
        f"{amount(row)}, which is {SAID[row.verdict]}."
        for row in orders.itertuples()
    ]


def grid(results: Path) -> list[str]:
    """Each expectation that was written down before the grid was run: borne out, not, or not to be told."""
    table = read(results / "grid.csv", ("a", "b", "task", "interdependency", "ambiguity", "n", "mean", "low", "high"))
    if table is None:
        return ["The grid has not been run yet, so that no expectation has been tested."]

    def at(b: str, task: str, **dials) -> pd.DataFrame:
        own = table[(table["a"] == "lim_ms_all") & (table["b"] == b) & (table["task"] == task)]
        return own[(own[list(dials)] == pd.Series(dials)).all(axis=1)].dropna(subset=["low"])

    independent = pd.concat([at("bl_fc", task, interdependency=0) for task in ("roof_shape", "block_position")])
    return [
        _none(independent),
        _grows("interdependency", at("bl", "mean", ambiguity=0.3).sort_values("interdependency")),
        _grows("ambiguity", at("bl", "mean", interdependency=1).sort_values("ambiguity")),
        _uses(results / "grid_runs.csv"),
    ]


def _none(cells: pd.DataFrame) -> str:
    text = "Roof shape and block position gain nothing over BL-FC where labels are independent"
    if cells.empty:
        return f"{text}: not tested."
    shown = ", ".join(limits(row.mean, row.low, row.high) for row in cells.itertuples())
    directions = {_direction(row) for row in judged(cells.assign(estimate=cells["mean"])).itertuples()}
    outcome = "borne out" if directions == {VERDICTS[1]} else "cannot be told"
    outcome = "not borne out" if "better" in directions else outcome
    return f"{text}: {outcome}; the differences are {shown} points."


def _grows(dial: str, cells: pd.DataFrame) -> str:
    text = f"The gain of LIM-MS_ALL over BL grows with {dial}"
    if len(cells) < 2:
        return f"{text}: not tested."
    first, last = cells.iloc[0], cells.iloc[-1]
    change, half = last["mean"] - first["mean"], np.hypot(last["high"] - last["mean"], first["high"] - first["mean"])
    ends = [limits(row["mean"], row["low"], row["high"]) for row in (first, last)]
    said = f"the gain is {ends[0]} points at {first[dial]:g} and {ends[1]} at {last[dial]:g}, which is a change of"
    return f"{text}: {_outcome(change - half, change + half)}; {said} {limits(change, change - half, change + half)}."


def _uses(stored: Path) -> str:
    text = "BL uses the cues of other tasks by itself, so that its own kappa rises with interdependency"
    table = read(stored, ("variant", "interdependency", "ambiguity", "mean:kappa"))
    found = trend(table, "bl", "interdependency") if table is not None else None
    if found is None or np.isnan(found[1]):
        return f"{text}: not tested."
    return f"{text}: {_outcome(*found[1:])}; it changes by {limits(*found)} points."


def trends(results: Path) -> list[str]:
    """How the kappa of each network itself changes along the dials of the grid."""
    table = read(results / "grid_runs.csv", ("variant", *DIALS, "mean:kappa"))
    known = [(v, dial, trend(table, v, dial)) for v, dial in product(SHOWN, DIALS)] if table is not None else []
    told = [
        f"From the lowest to the highest {dial} the kappa of {title(variant)} changes by {limits(*found)} points."
        for variant, dial, found in known
        if found is not None and not np.isnan(found[1])
    ]
    return told or ["The grid has not been run yet."]


def _outcome(low: float, high: float) -> str:
    """What an interval of a change says of the expectation that it is above zero."""
    if low > 0:
        return "borne out"
    return "cannot be told" if high > MARGIN else "not borne out"


LISTS = {"answer": answer, "rivals": rivals, "grid": grid, "decoding": beyond_decoding, "rates": other_rates}
LISTS |= {"classes": classes, "trends": trends, "origin": origin, "consistency": consistency, "several": several}
LISTS |= {"cost": cost, "advice": lambda results: [advice(results)]}
LISTS |= {"rivals-grocery": lambda results: rivals(results / "real" / "grocery")}


def note_results(env) -> None:
    """Have the page read anew when a table of results changes."""
    for path in (Path(env.srcdir) / "results").rglob("*.csv"):
        env.note_dependency(str(path))


class Found(SphinxDirective):
    """``{found} NAME``: sentences made from the committed results, as a list or, if there is one, as a paragraph."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """The sentences."""
        name, results = self.arguments[0], Path(self.env.srcdir) / "results"
        note_results(self.env)
        told = LISTS[name](results)
        told = [text.replace(" %", "\N{NO-BREAK SPACE}%") for text in told]
        if len(told) == 1:
            return [nodes.paragraph(text=told[0], classes=["found"])]
        items = [nodes.list_item("", nodes.paragraph(text=text)) for text in told]
        listed = nodes.enumerated_list("", *items, enumtype="arabic", suffix=".", prefix="", classes=["found"])
        return [listed if name == "answer" else nodes.bullet_list("", *items, bullet="-", classes=["found"])]


class Numbers(SphinxDirective):
    """``{numbers} NAME``: a table of results in words that people read (``numbers``), or a note that there is none."""

    required_arguments = 1
    option_spec = {"caption": directives.unchanged, "missing": directives.unchanged}  # noqa: RUF012

    def run(self) -> list[nodes.Node]:
        """The table."""
        note_results(self.env)
        rows = numbers(Path(self.env.srcdir) / "results", self.arguments[0])
        if rows:
            return [table_of(rows, self.options.get("caption"))]
        text = self.options.get("missing", "There is no table yet.")
        return [nodes.note("", nodes.paragraph(text=text), classes=["not-measured"])] if text else []


def draw(app, config) -> None:
    """The figures of the effects, with the paper's differences beside them, and of the rivals."""
    results, target = Path(app.srcdir) / "results", Path(app.srcdir) / "book" / "chapters"
    target.mkdir(parents=True, exist_ok=True)
    for name, table, figure in (
        ("effects", read_effects(results), effects_figure),
        ("rivals", read_rivals(results), rivals_figure),
    ):
        (target / f"{name}.svg").unlink(missing_ok=True)
        if table is not None and len(table):
            figure(table).savefig(target / f"{name}.svg")


def rivals_figure(table: pd.DataFrame) -> Figure:
    """The difference of each method from BL-FC."""
    shown = table[table["contrast"].str.endswith(" - BL-FC")].dropna(subset="estimate")
    return further.effects(shown.assign(family="difference from BL-FC").reset_index(drop=True))


def effects_figure(table: pd.DataFrame) -> Figure:
    """The effects on the city and on photographs, with the paper's differences beside them."""
    paper, rows = paper_table3()["mean", "kappa"], []
    for (family, name), weights in contrasts(dict.fromkeys(VARIANTS, 1)).items():
        shown = family in DECISIVE and name in set(table["contrast"])
        for backbone in BACKBONES if shown else ():
            estimate = sum(weight * paper[backbone, variant] for variant, weight in weights.items())
            rows.append([family, name, estimate, f"the paper, {backbone_title(backbone)}", VERDICTS[2]])
    theirs = pd.DataFrame(rows, columns=["family", "contrast", "estimate", "source", "verdict"])
    both = pd.concat([table.assign(source=table["source"].map(lambda name: SETS.get(name, name))), theirs])
    return further.effects(both.reset_index(drop=True))


def main() -> None:
    """Write effects, joint, rivals and differences from the tables of each study, and the README's sentences."""
    from mtclim.analysis.study import load_study

    results = ROOT / "results"
    for folder in (results, *sorted(results.glob("real/*"))):
        if not (folder / "tables").exists():
            continue
        study = load_study(folder)
        write_summaries(study, folder)
        if folder == results:
            with whole_or_absent(folder / "differences.csv") as beside:
                differences.compared(study).round(4).to_csv(beside, index=False)
        if "bl_fc" in study.variants:
            orders = load_study(folder / "orders") if (folder / "orders" / "tables").exists() else None
            with whole_or_absent(folder / "rivals.csv") as beside:
                measured(study, results / "bench.json", orders).round(4).to_csv(beside, index=False)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    write_text(ROOT / "README.md", with_findings(readme, results))


def with_findings(readme: str, results: Path) -> str:
    """The README with the first and the last sentence of the answer between its two marks."""
    told = answer(results)
    short = " ".join([told[0], advice(results)])
    return re.sub(r"(?s)(<!-- found -->\n).*?(\n<!-- /found -->)", lambda match: match[1] + short + match[2], readme)


def setup(app) -> dict:
    """Connect the directive and the figure, which must be there before a page asks for it."""
    app.connect("config-inited", draw, priority=860)
    app.add_directive("found", Found)
    app.add_directive("numbers", Numbers)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


if __name__ == "__main__":
    main()
