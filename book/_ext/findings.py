"""What was found, in sentences that are made from the numbers when the book is built, and the figure of the effects.

``{found} answer`` is the answer in five sentences, ``{found} advice`` its last one, ``{found} decoding``,
``{found} rates``, ``{found} rivals``, ``{found} grid`` and ``{found} NAME`` (a set of photographs) are lists,
``{numbers} NAME`` are tables. All read the committed results, those of the reference study, whatever a fresh study
found.
``python book/_ext/findings.py`` writes the tables that they read from the study's runs, and the two sentences of the
README.
"""

import re
from pathlib import Path

import pandas as pd
import rates
from docutils import nodes
from docutils.parsers.rst import directives
from matplotlib.figure import Figure
from rivals import COLUMNS, measured
from rivals import rows as rival_rows
from sphinx.util.docutils import SphinxDirective
from study import table as table_of

from mtclim.analysis import further
from mtclim.analysis.comparison import BACKBONES, paper_table3
from mtclim.analysis.effects import FACTORS, VERDICTS, contrasts, sentence, verdict, write_summaries
from mtclim.files import whole_or_absent, write_text
from mtclim.style import backbone_title
from mtclim.variants import RIVALS, VARIANTS, title

ROOT = Path(__file__).parents[2]
UNFINISHED = "The reference study has not finished, so that there is no answer yet."
FULL, PLAIN = "LIM-MS_ALL - BL-FC", "LIM-MS_ALL - BL"
FULL_JOINTLY = ("lim_ms_all", "joint")
SETS = {"coffee_leaves": "coffee leaves", "grocery": "groceries", "city": "the synthetic city"}
QUALITIES = {"exact_match": "all labels right", "contradictions": "contradictions", "mean_kappa": "mean κ"}
SAID = dict(zip(VERDICTS, ("an effect", "no effect worth having", "too uncertain to call an effect"), strict=True))


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
    families = ["main effect" if name in FACTORS else "primary" for name in table["contrast"]]
    return judged(table.assign(family=families))


def judged(table: pd.DataFrame) -> pd.DataFrame:
    """The table with a verdict on each of its differences."""
    verdicts = [verdict(low, high) for low, high in zip(table["low"], table["high"], strict=True)]
    return table.assign(verdict=verdicts)


def signed(number: float) -> str:
    """Two decimals with a sign."""
    return f"{number:+.2f}".replace("-", "−")


def amount(row) -> str:
    """A difference with its interval."""
    limits = f"95 % interval {signed(row.low)} to {signed(row.high)}, {row.runs} runs each"
    return f"{signed(row.estimate)} points of mean κ ({limits})"


def readable(text: str) -> str:
    """Minus signs in place of hyphens."""
    return re.sub(r"(?<= )-(?=[ \d])", "−", text)


def answer(results: Path) -> list[str]:
    """The answer in five sentences, for or against the paper; one sentence where there is none yet."""
    table, joint = read_effects(results), read_joint(results)
    rows = {(row.source, row.contrast): row for row in table.itertuples()}
    full, plain = rows.get(("city", FULL)), rows.get(("city", PLAIN))
    if full is None or plain is None or joint is None:
        return [UNFINISHED]
    if pd.isna(full.low):
        return ["One run of each variant has finished, and one run ranks nothing."]
    beside = "BL-FC, which has the same final layer and reads nothing about labels"
    start = {
        "better": f"Modelling label interdependency helps on the synthetic city: LIM-MS_ALL exceeds {beside}, by",
        "worse": "Modelling label interdependency does harm on the synthetic city: LIM-MS_ALL "
        f"differs from {beside}, by",
        VERDICTS[1]: "Modelling label interdependency has no effect worth having on the synthetic city: LIM-MS_ALL "
        f"differs from {beside}, by",
        VERDICTS[
            2
        ]: "Whether modelling label interdependency helps on the synthetic city cannot be told from these runs: "
        f"LIM-MS_ALL differs from {beside}, by",
    }
    paper = paper_table3()["mean", "kappa"]
    theirs = [signed(paper[name, "lim_ms_all"] - paper[name, "bl"]) for name in BACKBONES]
    return [
        with_rates(f"{start[_direction(full)]} {amount(full)}", results),
        f"Against BL itself the difference is {amount(plain)}, which is {SAID[plain.verdict]}, while the paper reports "
        f"{' and '.join(theirs)} points for its two backbones.",
        consistency(joint, pd.notna(getattr(rows.get(("city", "BL - STC")), "low", None))),
        photographs(table),
        advice(results),
    ]


def with_rates(sentence: str, results: Path) -> str:
    """The sentence, and what becomes of the difference with each network at the learning rate that suits it best."""
    best = best_rates(results)
    if best is None:
        return f"{sentence}."
    start = f"At the learning rate that was chosen by BL, {sentence[0].lower()}{sentence[1:]}"
    return f"{start}; with each at the rate that suits it best, by {amount(best)}, which is {SAID[best.verdict]}."


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


def read_joint(results: Path) -> pd.DataFrame | None:
    """Exact match, contradictions and mean kappa in percent by variant and decoding."""
    table = read(results / "joint.csv", ("variant", "decoding", "exact_match", "contradictions", "mean_kappa"))
    if table is None:
        return None
    table = table.set_index(["variant", "decoding"])[list(QUALITIES)] * 100
    return table if {("bl", "argmax"), ("bl", "joint"), ("lim_ms_all", "argmax")} <= set(table.index) else None


def consistency(joint: pd.DataFrame, several: bool) -> str:
    """What becomes of contradictions, and what decoding costs; the best variant, where there are several runs."""
    own, lim, decoded = (joint.loc[key] for key in (("bl", "argmax"), ("lim_ms_all", "argmax"), ("bl", "joint")))
    first = joint.xs("joint", level="decoding")["exact_match"]
    best = f"; with labels chosen jointly, {title(first.idxmax())} has the largest such share, {first.max():.1f} %"
    best = best if several else ""
    return (
        f"The labels of one façade contradict each other in {own['contradictions']:.1f} % of BL's answers and in "
        f"{lim['contradictions']:.1f} % of LIM-MS_ALL's; choosing BL's labels jointly, without any training, leaves "
        f"{decoded['contradictions']:.1f} % and changes the share of façades whose labels are all right from "
        f"{own['exact_match']:.1f} to {decoded['exact_match']:.1f} %{best}."
    )


def beyond_decoding(results: Path) -> list[str]:
    """Whether LIM-MS_ALL still gains once BL's labels are chosen jointly, by the means over realisations."""
    joint = read_joint(results)
    if joint is None or FULL_JOINTLY not in joint.index:
        return [UNFINISHED]
    told = []
    for quality, what in (("exact_match", "façades whose labels are all right"), ("mean_kappa", "mean κ")):
        base, own, both = (joint.loc[key, quality] for key in (("bl", "joint"), ("lim_ms_all", "argmax"), FULL_JOINTLY))
        verb = "still gains" if max(own, both) > base else "gains nothing"
        told.append(
            f"In {what}, LIM-MS_ALL {verb} over BL whose labels are chosen jointly: it has {own:.1f} % with labels "
            f"chosen alone and {both:.1f} % jointly, and BL has {base:.1f} % jointly."
        )
    return told


def photographs(table: pd.DataFrame) -> str:
    """The same difference on each set of photographs."""
    rows = table[(table["source"] != "city") & (table["contrast"] == FULL) & table["low"].notna()]
    told = [f"{amount(row)} on {SETS.get(row.source, row.source)}, {SAID[row.verdict]}" for row in rows.itertuples()]
    if not told:
        return "The runs on real photographs have not finished yet."
    return f"On real photographs LIM-MS_ALL differs from BL-FC by {'; and by '.join(told)}."


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
    single = _single(table, read_joint(results))
    jointly = f"choose its labels jointly where they must not contradict each other{single}"
    if {row.verdict for row in rows} == {VERDICTS[2]}:
        return f"Begin with BL, because these runs cannot tell whether LIM-MS_ALL is better, and {jointly}."
    return f"Use BL, and {jointly}."


def _single(table: pd.DataFrame, joint: pd.DataFrame | None) -> str:
    """A clause on single networks, where they are surely more accurate than BL, or have more façades all right."""
    rows, cost = table[table["contrast"] == "BL - STC"], "and costs as many trainings as there are tasks"
    told = [
        f"{-row.estimate:.2f} points on {SETS.get(row.source, row.source)}" for row in rows.itertuples() if row.high < 0
    ]
    if told:
        return f"; one network for each task (STC) is more accurate, by {' and '.join(told)}, {cost}"
    keys = [("stc", "joint"), ("bl", "joint")]
    if joint is None or rows["low"].isna().all() or not set(keys) <= set(joint.index):
        return ""
    stc, bl = joint.loc[keys, "exact_match"]
    right = f"all labels right for {stc:.1f} % of the façades when they are chosen jointly, BL for {bl:.1f} %"
    return f"; one network for each task (STC) has {right}, {cost}" if stc > bl else ""


def read_rates(results: Path) -> pd.DataFrame | None:
    """The runs with several learning rates, None where there are not two rates yet."""
    table = read(results / "rates.csv", tuple(rates.COLUMNS))
    return table if table is not None and len(rates.compared(table)) > 1 else None


def other_rates(results: Path) -> list[str]:
    """Whether another learning rate would change the answer."""
    table = read_rates(results)
    if table is None:
        return ["The runs with other learning rates have not finished yet."]
    return rates.sentences(table, signed)


def rivals(results: Path) -> list[str]:
    """One sentence a rival: its difference from BL-FC."""
    table = read_rivals(results)
    if table is None:
        return ["The runs of the rivals have not finished yet."]
    return [readable(sentence(row)) for row in table.dropna(subset="estimate").itertuples()]


def read_rivals(results: Path) -> pd.DataFrame | None:
    """The table of rivals with a verdict on each difference, None where no rival has finished."""
    table = read(results / "rivals.csv", tuple(COLUMNS))
    if table is None or not table["contrast"].str.startswith(tuple(f"{title(name)} -" for name in RIVALS)).any():
        return None
    return judged(table).astype({"runs": "Int64"})


def photograph_set(results: Path, name: str) -> list[str]:
    """One sentence a primary contrast on a set of photographs."""
    table = read_effects(results)
    rows = table[(table["source"] == name) & (table["family"] == "primary")]
    return [readable(sentence(row)) for row in rows.itertuples()] or ["The runs on this set have not finished yet."]


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
    ]


def _none(cells: pd.DataFrame) -> str:
    text = "Roof shape and block position gain nothing over BL-FC where labels are independent"
    if cells.empty:
        return f"{text}: not tested."
    gains = (cells["low"] > 0).sum()
    shown = ", ".join(
        f"{signed(mean)} ({signed(low)} to {signed(high)})"
        for mean, low, high in cells[["mean", "low", "high"]].itertuples(index=False, name=None)
    )
    return f"{text}: {'not borne out' if gains else 'borne out'}; the differences are {shown} points."


def _grows(dial: str, cells: pd.DataFrame) -> str:
    text = f"The gain of LIM-MS_ALL over BL grows with {dial}"
    if len(cells) < 2:
        return f"{text}: not tested."
    first, last = cells.iloc[0], cells.iloc[-1]
    ends = [f"{signed(row['mean'])} ({signed(row['low'])} to {signed(row['high'])})" for row in (first, last)]
    if last["low"] > first["high"]:
        outcome = "borne out"
    else:
        outcome = "not borne out, and withdrawn" if last["mean"] <= first["mean"] else "cannot be told"
    return f"{text}: {outcome}; the gain is {ends[0]} points at {first[dial]:g} and {ends[1]} at {last[dial]:g}."


def numbers(results: Path, name: str) -> list[list[str]]:
    """The rows of a table, the head first: ``effects``, ``joint``, ``rivals`` or the name of a set of photographs."""
    if name == "joint":
        table = read_joint(results)
        if table is None:
            return []
        heads = [f"{what}, {how} [%]" for what in QUALITIES.values() for how in ("alone", "jointly")]
        wide = table[list(QUALITIES)].unstack("decoding").reindex(table.index.unique("variant"))
        wide = wide[[(what, how) for what in QUALITIES for how in ("argmax", "joint")]]
        rows = [[title(name), *(f"{share:.1f}" for share in shares)] for name, *shares in wide.itertuples(name=None)]
        return [["Variant", *heads], *rows]
    if name in STREET:
        return street(results, name)
    if name == "rates":
        table = read_rates(results)
        return [] if table is None else rates.rows(table, signed)
    if name.startswith("rivals"):
        table = read_rivals(results if name == "rivals" else results / "real" / name.removeprefix("rivals-"))
        return [] if table is None else rival_rows(table, signed)
    table = read_effects(results)
    table = table if name == "effects" else table[table["source"] == name]
    rows = []
    for row in table.itertuples():
        what = f"main effect: {row.contrast}" if row.contrast in FACTORS else row.contrast.replace(" - ", " − ")
        limits = f"{signed(row.low)} to {signed(row.high)}" if pd.notna(row.low) else "none"
        rows.append([what, signed(row.estimate), limits, str(row.runs), SETS.get(row.source, row.source)])
    head = ["Difference", "estimate", "95 % interval", "runs", "on"]
    rows = [head, *rows] if rows else []
    return rows if name == "effects" else [row[:-1] for row in rows]


def street(results: Path, name: str) -> list[list[str]]:
    """Shares in percent from street.csv, a row a setting; a cell is empty where nothing was measured."""
    table = read(results / "street.csv", ("what", "setting", "value"))
    if table is None:
        return []
    first, columns, settings = STREET[name]
    shares = (100 * table.set_index(["what", "setting"])["value"]).map("{:.1f}".format).to_dict()
    rows = [[words, *(shares.get((what, key), "") for what in columns.values())] for key, words in settings.items()]
    return [[first, *columns], *rows]


STREET = {
    "street-assigned": (
        "errors",
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
LISTS = {"answer": answer, "rivals": rivals, "grid": grid, "decoding": beyond_decoding, "rates": other_rates}
LISTS |= {"advice": lambda results: [advice(results)]}


class Found(SphinxDirective):
    """``{found} NAME``: sentences made from the committed results, as a list or, if there is one, as a paragraph."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """The sentences; the page is read anew when a table of results changes."""
        name, results = self.arguments[0], Path(self.env.srcdir) / "results"
        for path in (*results.glob("*.csv"), *results.glob("real/*/effects.csv")):
            self.env.note_dependency(str(path))
        told = LISTS[name](results) if name in LISTS else photograph_set(results, name)
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
        rows = numbers(Path(self.env.srcdir) / "results", self.arguments[0])
        if rows:
            return [table_of(rows, self.options.get("caption"))]
        text = self.options.get("missing", "There is no table yet.")
        return [nodes.note("", nodes.paragraph(text=text), classes=["not-measured"])]


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
        shown = family in ("main effect", "primary") and name in set(table["contrast"])
        for backbone in BACKBONES if shown else ():
            estimate = sum(weight * paper[backbone, variant] for variant, weight in weights.items())
            rows.append([family, name, estimate, f"the paper, {backbone_title(backbone)}", VERDICTS[2]])
    theirs = pd.DataFrame(rows, columns=["family", "contrast", "estimate", "source", "verdict"])
    both = pd.concat([table.assign(source=table["source"].map(lambda name: SETS.get(name, name))), theirs])
    return further.effects(both.reset_index(drop=True))


def main() -> None:
    """Write effects.csv, joint.csv and rivals.csv from the tables of each study, and the README's two sentences."""
    from mtclim.analysis.study import load_study

    results = ROOT / "results"
    for folder in (results, *sorted(results.glob("real/*"))):
        if not (folder / "tables").exists():
            continue
        study = load_study(folder)
        write_summaries(study, folder)
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
