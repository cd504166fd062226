"""The book's own Sphinx extension: executed chapters and banners on them, stored results, alternative texts, redirects.

A chapter is an executed notebook under ``book/chapters/`` (not in git). It is taken from ``results/notebooks/`` unless
a newer one is there already, as after ``make study``. Where neither exists, a page says so and the build goes on.
"""

import csv
import html
import json
import re
import shutil
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.docutils import SphinxDirective

from mtclim.config import load_config
from mtclim.papermill_plugin import assigned
from mtclim.style import BACKBONES
from mtclim.tasks import SANTIAGO
from mtclim.variants import VARIANT_TABLE
from mtclim.variants import title as variant_title

CHAPTERS = ("explore", "balance", "train", "evaluate", "map")
MOVED = {
    "problem": "tasks", "data": "tasks", "correspondence": "method", "balancing": "chapters/balance",
    "training": "chapters/train", "evaluation": "chapters/evaluate", "maps": "chapters/map", "exposure": "chapters/map",
    "contradictions": "limits", "limitations": "limits", "trust": "reproduce", "speed": "reproduce",
}  # fmt: skip
"""Pages that were merged -> the page that has their content; old addresses lead there."""
NAMES = {name: variant_title(name) for name in VARIANT_TABLE if name not in ("chain", "pad", "powerset")} | BACKBONES
NAMES |= SANTIAGO.titles
"""Names of the code that are no words -> the names that people read."""
LINK = re.compile(r"/book/([\w/]+)\.(?:md|ipynb)\b")  # of a notebook, to another page
PAGE = "map/map.html"  # a page of its own among the results: copied to the root of the built book

MISSING = """# {title}

```{{admonition}} Not computed in this copy
:class: warning
The executed notebook `results/notebooks/{name}.ipynb` is not there. `make study` runs the study and this notebook.
```
"""


def prepare_chapters(app, config) -> None:
    """Put the executed notebooks where the table of contents expects them, newest first."""
    target = Path(app.srcdir) / "book" / "chapters"
    target.mkdir(parents=True, exist_ok=True)
    folders = (target / "notebooks", Path(app.srcdir) / "results" / "notebooks")
    for name in CHAPTERS:
        chapter, stand_in = target / f"{name}.ipynb", target / f"{name}.md"
        stored = next((path for folder in folders if (path := folder / f"{name}.ipynb").is_file()), None)
        if stored and (not chapter.is_file() or chapter.stat().st_mtime < stored.stat().st_mtime):
            shutil.copyfile(stored, chapter)
        if chapter.is_file():
            stand_in.unlink(missing_ok=True)
        elif not stand_in.is_file():
            stand_in.write_text(MISSING.format(title=name.capitalize(), name=name), encoding="utf-8")
    pages = (target / PAGE, Path(app.srcdir) / "results" / PAGE)
    config.html_extra_path += [str(page) for page in pages if page.is_file()][:1]


def parameters(notebook: dict) -> dict:
    """The values a notebook ran with: its cell tagged `parameters`, overridden by papermill's injected cell."""
    values = {}
    for cell in notebook["cells"]:
        if {"parameters", "injected-parameters"} & set(cell["metadata"].get("tags", [])):
            values |= assigned("".join(cell["source"]))
    return values


def origin(notebook: dict) -> tuple[bool | None, str]:
    """Whether a notebook's data are synthetic, None if it does not say, and the name of its table.

    Its own metadata (``mtclim.synthetic``) decides, then the settings that it ran with: preset, ``data``, overrides.
    """
    values, flag = parameters(notebook), notebook["metadata"].get("mtclim", {}).get("synthetic")
    elsewhere = not values.get("data") and any(values.get(name) for name in ("run", "runs", "predictions", "source"))
    if elsewhere or not {"config", "data"} & set(values):  # runs may be anyone's, whatever the preset says
        return flag, ""
    try:
        settings = load_config(values.get("config") or "", values.get("overrides"), data=values.get("data"))
    except (OSError, ValueError):  # another project's settings
        return flag, str(values.get("data", ""))
    return settings.synthetic if flag is None else flag, settings.data


def banner(notebook: dict) -> str:
    """The Markdown of the banner that tells synthetic from real data; text from users' files is escaped."""
    synthetic, name = origin(notebook)
    name = html.escape(name, quote=False)
    name = re.sub(r"([\\`*_{}\[\]()#$|~<!])", r"\\\1", name).replace("\n", " ")
    if synthetic:
        title, text = "Synthetic data", (
            "Everything on this page was computed from the embedded synthetic city: drawn façades with known labels, "
            "not photographs. It shows how the method and its evaluation work. It is no evidence about real buildings "
            "or about the paper's results. [The page on the city](/book/city.md) says what it can and cannot tell."
        )  # fmt: skip
    elif synthetic is None:
        title, text = "Origin of the data not recorded", (
            "This notebook does not say whether its data are synthetic. Treat its numbers accordingly."
        )  # fmt: skip
    else:
        title, text = "Real data", f"Everything on this page was computed from the user's own table: {name}"
    kind = {True: "synthetic", False: "real", None: "unknown"}[synthetic]
    return f":::{{admonition}} {title}\n:class: data-banner {kind}\n{text}\n:::\n"


def add_banner(app, docname: str, source: list[str]) -> None:
    """Insert the banner below the title of a chapter that is a notebook."""
    path = Path(app.env.doc2path(docname))
    if path.parent.name != "chapters" or path.suffix != ".ipynb":
        return
    notebook = unnamed(json.loads(LINK.sub(lambda link: address(Path(app.srcdir), link[1]), source[0])))
    cell = {"cell_type": "markdown", "metadata": {}, "source": banner(notebook)}
    if notebook.get("nbformat_minor", 0) >= 5:
        cell["id"] = "data-banner"
    first = notebook["cells"][0] if notebook["cells"] else None
    if first is not None and first["cell_type"] == "markdown" and "".join(first["source"]).lstrip().startswith("# "):
        title, _, rest = "".join(first["source"]).lstrip().partition("\n")
        first["source"] = title
        following = {"cell_type": "markdown", "metadata": {}, "source": rest.strip("\n")}
        if "id" in first:
            following["id"] = "after-banner"
        notebook["cells"][1:1] = [cell, following] if rest.strip() else [cell]
    else:
        notebook["cells"].insert(0, cell)
    if path.stem == "map":
        page = {"cell_type": "markdown", "metadata": {}, "source": EXPLORE}
        if notebook.get("nbformat_minor", 0) >= 5:
            page["id"] = "page-to-explore"
        notebook["cells"].append(page)
    source[0] = json.dumps(notebook)


def unnamed(notebook: dict) -> dict:
    """The notebook without names of figures, of which a cell with several outputs would have several."""
    for cell in notebook["cells"]:
        cell["metadata"].get("mystnb", {}).get("figure", {}).pop("name", None)
    return notebook


def address(root: Path, page: str) -> str:
    """Where a page is now: merged or not, and an executed notebook or, where there is none, the note that says so."""
    page = MOVED.get(page, page)
    return f"/book/{page}.{'ipynb' if (root / 'book' / f'{page}.ipynb').is_file() else 'md'}"


class Stored(SphinxDirective):
    """``{stored} results/file``: a committed result as a table (CSV), a figure (SVG, PNG), a list (lines of text
    that start with "- "), a page of its own in a frame (HTML) or verbatim, or a note that there is none yet.

    Cells and lines become text nodes, so whatever a user's table contains is shown, never interpreted.
    """

    required_arguments = 1
    option_spec = {"caption": directives.unchanged, "missing": directives.unchanged_required}  # noqa: RUF012

    def run(self) -> list[nodes.Node]:
        """The nodes for the file; a fresh study's file under book/chapters takes precedence over the committed one."""
        name = self.arguments[0]
        fresh = Path(self.env.srcdir) / "book" / "chapters" / Path(name).relative_to("results")
        path = fresh if fresh.is_file() else Path(self.env.srcdir) / name
        self.env.note_dependency(str(path))
        if not path.is_file():
            note = nodes.note(classes=["not-measured"])
            text, messages = self.state.inline_text(
                self.options.get("missing", f"There is no {name} yet."), self.lineno
            )
            note += nodes.paragraph("", "", *text)
            return [note, *messages]
        caption = self.options.get("caption", "")
        if path.suffix == ".html":
            return [framed(path.name, self.env.docname)]
        if path.suffix in (".svg", ".png"):
            image = nodes.image(uri=f"/{path.relative_to(self.env.srcdir).as_posix()}", alt=caption)
            return [nodes.figure("", image, nodes.caption(text=caption))]
        text = path.read_text(encoding="utf-8", errors="replace")
        if path.suffix == ".txt":
            items = [
                nodes.list_item("", nodes.paragraph(text=line[2:])) for line in text.splitlines() if line[:2] == "- "
            ]
            return [nodes.bullet_list("", *items, bullet="-")]
        if path.suffix == ".csv":
            return [table([[readable(cell) for cell in row] for row in csv.reader(text.splitlines())], caption)]
        if path.suffix == ".json":
            text = json.dumps(json.loads(text), indent=2, ensure_ascii=False)
        return [nodes.literal_block(text, text, language="none", classes=["stored"])]


def readable(cell: str) -> str:
    """The text of a cell with readable names of variants, backbones and tasks."""
    return re.sub(r"[\w-]+(?:\.\w+)?", lambda word: NAMES.get(word[0].split(".")[0], word[0]), cell)


def framed(page: str, docname: str) -> nodes.raw:
    """A page at the root of the built book in a frame, and a link to it alone; relative, so that it works from disk."""
    where = "../" * docname.count("/") + html.escape(page)
    frame = f'<iframe class="stored-page" src="{where}" title="Interactive page" loading="lazy"></iframe>'
    return nodes.raw("", f'{frame}<p><a href="{where}" target="_blank">Open the page alone</a></p>', format="html")


def table(rows: list[list[str]], caption: str | None = None) -> nodes.table:
    """A docutils table of plain text; the first row is its head."""
    whole = nodes.table(classes=["table-stored"])
    if caption:
        whole += nodes.title(text=caption)
    group = nodes.tgroup(cols=len(rows[0]))
    group += [nodes.colspec(colwidth=1) for _ in rows[0]]
    for part, lines in ((nodes.thead(), rows[:1]), (nodes.tbody(), rows[1:])):
        for line in lines:
            row = nodes.row()
            row += [nodes.entry("", nodes.paragraph(text=cell)) for cell in line]
            part += row
        group += part
    whole += group
    return whole


def explained_parameters(app, what, name, obj, options, lines: list[str]) -> None:
    """Move what follows the colon of `name : what it is` below the name, where napoleon looks for the explanation.

    The package writes no types there, because the signature has them. The text of a constant is made to begin with an
    escaped space, which shows nothing, since napoleon would take words before a colon in its first line for a type.
    """
    if what in ("attribute", "data", "property"):
        lines.insert(0, "\\")
    entry = r"^(\*{0,2}\w+(?:, \*{0,2}\w+)*) : (?=.)"
    lines[:] = re.sub(entry, r"\1\n    ", "\n".join(lines), flags=re.MULTILINE).split("\n")


class Pictures(SphinxPostTransform):
    """Only pictures are figures, and each has an alternative text: its own, its caption, or the heading above it."""

    default_priority = 950  # after the outputs of notebooks have become pictures

    def run(self, **kwargs) -> None:
        """Complete the pictures of one page; a cell's caption is not repeated below what it says in words."""
        for figure in list(self.document.findall(nodes.figure)):
            if not any(True for _ in figure.findall(nodes.image)):
                figure.replace_self([child for child in figure.children if not isinstance(child, nodes.caption)])
        for image in self.document.findall(nodes.image):
            if not image.get("alt", "").strip():
                image["alt"] = described(image)


def described(image: nodes.image) -> str:
    """What a picture shows, in the words that the page has for it."""
    holder = image.parent
    while holder is not None:
        captions = [child for child in holder.children if isinstance(child, nodes.caption)]
        if isinstance(holder, nodes.figure) and captions:
            return captions[0].astext()
        titles = [child for child in holder.children if isinstance(child, nodes.title)]
        if isinstance(holder, nodes.section) and titles:
            return f"Figure: {titles[0].astext()}"
        holder = holder.parent
    return "Figure"


EXPLORE = f"""## To explore

Switch the task, filter classes and probabilities, and hover or click a dot for the answers and the \
probabilities behind them. Drag and
scroll to move. The page is one file and loads nothing from elsewhere.

```{{stored}} results/{PAGE}
:missing: The interactive page is made by this notebook, and this copy of the book has none yet.
```

The exposure model of the same photographs is an XML file that names a CSV file, of which these are the first lines.

```{{stored}} results/map/exposure.csv
:caption: The first lines of the exposure model's table.
:missing: The exposure model is made by this notebook, and this copy of the book has none yet.
```
"""

REDIRECT = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Moved</title>
<meta http-equiv="refresh" content="0; url={target}"><link rel="canonical" href="{target}"></head>
<body><p>This page has moved to <a href="{target}">{target}</a>.</p></body></html>
"""


def redirect(app, exception) -> None:
    """Old addresses of merged pages lead to the pages that have their content."""
    if exception is None and app.builder.format == "html":
        for old, new in MOVED.items():
            page = Path(app.outdir) / "book" / f"{old}.html"
            if (page.parent / f"{new}.html").is_file():
                page.write_text(REDIRECT.format(target=f"{new}.html"), encoding="utf-8")


def without_numbers(app, config) -> None:
    """The numbers of figures and tables are the paper's alone; another extension of Jupyter Book switches ours on."""
    config["numfig"] = False


def no_thebe(app, pagename, templatename, context, doctree) -> None:
    """Leave out sphinx-thebe, which Jupyter Book loads with every page: it would fetch live code from a CDN."""
    files = context.get("script_files", [])
    files[:] = [file for file in files if "thebe" not in f"{file} {getattr(file, 'attributes', '')}".lower()]


def setup(app) -> dict:
    """Connect the handlers; the chapters must be in place before the table of contents is read (priority 900)."""
    app.connect("config-inited", prepare_chapters, priority=850)
    app.connect("config-inited", without_numbers, priority=900)
    app.connect("source-read", add_banner)
    app.connect("html-page-context", no_thebe, priority=900)
    app.connect("build-finished", redirect)
    app.add_directive("stored", Stored)
    app.add_post_transform(Pictures)
    app.connect("autodoc-process-docstring", explained_parameters, priority=400)  # before napoleon
    return {"parallel_read_safe": True, "parallel_write_safe": True}
