"""The whole book, built without a warning and read in a browser offline, at the width of a desk and a phone."""

import inspect
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest
import yaml

import mtclim

pytestmark = pytest.mark.timeout(600)
ROOT = Path(__file__).parents[2]
WIDTHS = (1280, 390)
GONE = (
    "On how many runs the sentences below rest",
    "Two figures are no ratios",
    "rows in equal rows predicted plus rows listed",
    "ahead of BL nowhere",
    "What does it make of what it thinks of the other tasks",
    "well under a minute",
    "assumes nothing about the city",
    "its numbers show how the methods compare there",
)
# What reaches beyond its column, or is cut off, and cannot be scrolled; pictures without words; columns: all the page.
LOOK = """
const page = document.documentElement.clientWidth, found = [], article = document.querySelector('article');
const column = article.getBoundingClientRect();
const scrolls = e => ['auto', 'scroll'].includes(getComputedStyle(e).overflowX);
const held = e => {
  for (let p = e.parentElement; p && p !== article; p = p.parentElement) if (scrolls(p)) return true;
};
const skipped = '.katex *, .headerlink, .visually-hidden, button, button *, svg *, ' +
  'details:not([open]) > *, .toggle-hidden *';
for (const e of article.querySelectorAll('*')) {
  const box = e.getBoundingClientRect(), style = getComputedStyle(e);
  if (!box.width || !box.height || style.visibility === 'hidden' || e.matches(skipped) || held(e)) continue;
  const limit = e.closest('.full-width') ? page : column.right;
  const name = `${e.tagName}.${e.className}: ${(e.textContent || e.src || '').trim().slice(0, 40)}`;
  if (box.right > limit + 2) found.push(`${name} ends at ${Math.round(box.right)} of ${Math.round(limit)}`);
  else if (style.overflowX === 'hidden' && e.scrollWidth > e.clientWidth + 2) found.push(`${name} is cut off`);
}
const silent = [...article.querySelectorAll('img')].filter(e => !e.alt.trim()).map(e => e.src);
return [document.documentElement.scrollWidth - page, found.slice(0, 6), silent];
"""


def toc() -> list[str]:
    parts = yaml.safe_load((ROOT / "_toc.yml").read_text())
    chapters = [chapter for part in parts["parts"] for chapter in part["chapters"]]
    return [parts["root"], *(entry["file"] for each in chapters for entry in (each, *each.get("sections", [])))]


@pytest.fixture(scope="module")
def html(tmp_path_factory) -> Path:
    """The book, from the committed results."""
    for name in ("jupyter_book", "ipykernel"):
        pytest.importorskip(name)
    root = tmp_path_factory.mktemp("whole")
    for name in ("book", "results"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("chapters", "__pycache__"))
    for name in ("_config.yml", "_toc.yml"):
        shutil.copy(ROOT / name, root)
    command = [Path(sys.executable).with_name("jupyter-book"), "build", root, "-W", "-n", "--keep-going"]
    done = subprocess.run(command, capture_output=True, text=True)
    said = [line for line in (done.stdout + done.stderr).splitlines() if "WARNING" in line or "rror" in line]
    assert done.returncode == 0, "\n".join(said[-20:])
    return root / "_build" / "html"


@pytest.fixture(scope="module")
def soup(html):
    parse = pytest.importorskip("bs4").BeautifulSoup
    return {page: parse((html / f"{page}.html").read_text(encoding="utf-8"), "html.parser") for page in toc()}


def test_the_book_is_short():
    assert len([page for page in toc() if not page.startswith(("book/references", "book/api"))]) <= 17


def test_what_was_untrue_or_unreadable_is_gone():
    sources = [*(ROOT / "book").glob("*.md"), ROOT / "README.md", *(ROOT / "notebooks").glob("*.ipynb")]
    for path in [*sources, *(ROOT / "results").glob("*.txt")]:
        text = " ".join(path.read_text(encoding="utf-8").split())
        assert not [words for words in GONE if words in text], path.name


def test_links_and_anchors_lead_somewhere(html, soup):
    ids = {page: {tag["id"] for tag in parsed.select("[id]")} for page, parsed in soup.items()}
    broken = []
    for page, parsed in soup.items():
        for link in parsed.select("a[href]"):
            target, anchor = urldefrag(unquote(link["href"]))
            if re.match(r"[a-z]+:", target):
                continue
            path = (html / page).parent / target if target else html / f"{page}.html"
            name = path.resolve().relative_to(html.resolve()).with_suffix("").as_posix() if path.is_file() else ""
            if not path.is_file() or (anchor and name in ids and anchor not in ids[name]):
                broken.append((page, link["href"]))
    assert not broken


def test_merged_pages_lead_to_their_successors(html):
    for old in "problem data correspondence training evaluation balancing maps exposure contradictions trust".split():
        target = re.search(r'url=([\w/]+\.html)"', (html / "book" / f"{old}.html").read_text())[1]
        assert (html / "book" / target).is_file()


def test_pages_are_small(html, soup):
    for page, parsed in soup.items():
        pictures = {(html / page).parent / unquote(tag["src"]) for tag in parsed.select("article img[src]")}
        assert (html / f"{page}.html").stat().st_size + sum(p.stat().st_size for p in pictures) <= 3e6, page


def test_the_reference_has_parameters_and_examples_as_such(soup):
    """Sections of docstrings are lists, examples are code, and no underline of a heading is left."""
    pages = [parsed for page, parsed in soup.items() if page.startswith("book/api/")]
    assert not [page for page in pages if "-----" in page.get_text()]
    heads = {tag.get_text().strip(" :\n") for page in pages for tag in page.select("dl.field-list > dt")}
    assert {"Parameters", "Raises", "Returns"} <= heads
    functions = {tag["id"]: tag.parent for page in pages for tag in page.select("dl.py > dt[id]")}
    entries = functions["mtclim.data.table.read_table"].select("dl.field-list li strong")
    assert [tag.get_text() for tag in entries] == list(inspect.signature(mtclim.read_table).parameters)[1:]
    assert ">>> title(" in functions["mtclim.variants.title"].select_one(".highlight").get_text()
    assert not functions["mtclim.variants.CONTROLS"].select("dl.field-list"), "words before a colon became a type"


def test_outputs_are_clean(soup):
    """No warning, progress bar or path of the machine that built the book."""
    for page, parsed in soup.items():
        text = "\n".join(tag.get_text() for tag in parsed.select(".cell_output"))
        assert not re.search(r"Warning:|it/s\]|\d+%\||/home/|/root/|/tmp/|Traceback", text), page


def test_nothing_is_cut_off_and_every_picture_has_words(html, soup):
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--host-resolver-rules=MAP * ~NOTFOUND"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    try:
        browser = webdriver.Chrome(options=options, service=webdriver.ChromeService("/usr/bin/chromedriver"))
    except Exception as error:
        pytest.skip(f"no headless Chromium here: {error}")
    seen = []
    try:
        for width in WIDTHS:
            size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            for page in soup:
                browser.get((html / f"{page}.html").as_uri())
                beyond, found, silent = browser.execute_script(LOOK)
                seen += [(page, width, "the page scrolls sideways")] if beyond > 0 else []
                seen += [(page, width, what) for what in (*found, *silent)]
                thrown = [e["message"] for e in browser.get_log("browser") if e["level"] == "SEVERE"]
                seen += [(page, width, message) for message in thrown]
        wide = (
            "document.querySelector('article').insertAdjacentHTML('beforeend', '<div style=\"width:2000px\">x</div>');"
        )
        browser.execute_script(wide)
        assert browser.execute_script(LOOK)[1], "the check sees nothing"
    finally:
        browser.quit()
    assert not seen, "\n".join(map(str, seen))
