"""Hostile labels, an interrupted workflow, no network: one small study from the table to the page in a browser."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from tiny import ROOT, contents, environment, make_project, study_root

from mtclim import runs

SOAK = pytest.mark.soak
HARM = "window.hacked=1"
NASTY = (
    f"<img src=x onerror={HARM}>", f"<script>{HARM}</script>", f"[a](javascript:{HARM})", "=1+1", "$\\x {undefined} $",
    f"`</code><svg onload={HARM}>`", f'"><b onmouseover="{HARM}">', "{raw}`html`",
)  # fmt: skip
TASKS = {f"<img src=x onerror='{HARM}'>": NASTY[:4], "**tint** `x` $a$ <script>window.hacked=1</script>": NASTY[4:]}


def offline(*command: str) -> list[str]:
    """The command in a network namespace that holds only itself; as it is where that isn't permitted."""
    unshared = ["unshare", "-rn", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
    permitted = shutil.which("unshare") and subprocess.run([*unshared, "true"], capture_output=True).returncode == 0
    return [*(unshared if permitted else ()), *command]


needs_namespace = pytest.mark.skipif(len(offline()) == 0, reason="unshare -rn is not permitted here: the network stays")


def epochs(project: Path) -> set[tuple[Path, int]]:
    """The checkpoints there are, one an epoch."""
    found = project.glob("runs/**/*.ckpt")
    return {(path, path.stat().st_mtime_ns) for path in found if path.exists()}


def interrupted(project: Path, targets: list[str], interrupts: int, settings: list[str]) -> int:
    """Run the workflow, Ctrl-C it ``interrupts`` times while a network trains, let it end; Ctrl-Cs that it felt."""
    given = ["--cores", "1", "--config", "config=tiny", "data=table.csv", *settings, "--", *targets]
    command = offline(sys.executable, "-m", "snakemake", *given)
    felt = 0
    for turn in range(interrupts + 1):
        with open(project / "workflow.log", "a+", encoding="utf-8") as log:
            process = subprocess.Popen(
                command, cwd=project, env=environment(), stdout=log, stderr=log, start_new_session=True,
                # a shell's `&` passes on that this signal is ignored
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )  # fmt: skip
            before = epochs(project)
            while turn < interrupts and process.poll() is None and epochs(project) <= before:
                time.sleep(0.05)  # until a network has finished an epoch that it had not finished before
            if turn < interrupts and process.poll() is None:
                os.killpg(process.pid, signal.SIGINT)
                felt += 1
            process.wait(600)
            log.seek(0)
            if turn == interrupts:
                assert process.returncode == 0, log.read()
        for run in project.glob("runs/tiny-*/*/*/seed-0"):
            assert runs.is_complete(run), f"a half run stands under its name: {run}"
    return felt


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study of a table with hostile labels, its workflow interrupted once, all of it without network."""
    project = make_project(tmp_path_factory.mktemp("pages") / "project", tasks=TASKS, max_epochs=6)
    shutil.copy(ROOT / "Snakefile", project)
    shutil.copytree(ROOT / "profiles", project / "profiles")
    root = study_root(project)
    root.mkdir(parents=True)
    (root / "data.txt").touch()  # not of interest here, and slow
    run = root / "test_byobnet" / "bl" / "seed-0"
    targets = [
        str(Path(path).relative_to(project)) for path in (f"{run}.done", root / "results/notebooks/explore.ipynb")
    ]
    felt = interrupted(project, targets, 1, ["variants=bl"])
    return project, run, felt


def test_an_interrupted_workflow_goes_on_and_ends(study):
    project, run, felt = study
    assert felt == 1 and runs.is_complete(run)
    epochs = pd.read_csv(run / "history.csv")["epoch"].tolist()
    assert epochs == list(range(len(epochs))) and not list(project.glob("runs/**/*.partial"))


@SOAK
def test_a_workflow_interrupted_again_and_again(tmp_path, record_property):
    """From the table to two runs, data and balance chapter included; Ctrl-C six times; as if nothing had been."""
    results = {}
    for name, interrupts in {"quiet": 0, "disturbed": 6}.items():
        project = make_project(tmp_path / name, images=600, max_epochs=20, stop_patience=20)  # long enough to be met
        shutil.copy(ROOT / "Snakefile", project)
        shutil.copytree(ROOT / "profiles", project / "profiles")
        root = study_root(project).relative_to(project)
        targets = [f"{root}/test_byobnet/{variant}/seed-0" for variant in ("bl", "bl_ms")]
        felt = interrupted(project, [f"{run}.done" for run in targets], interrupts, ["variants=bl,bl_ms"])
        assert felt == interrupts and not list(project.glob("runs/**/*.partial"))
        results[name] = [contents(project / run) for run in targets]
    assert results["quiet"] == results["disturbed"]
    record_property("Ctrl-C", felt)
    record_property("runs", len(targets))


@needs_namespace
def test_notebooks_run_without_network(study):
    """The fixture ran them in a namespace without one: what is checked is that this was so, and that they are whole."""
    project, run, _ = study
    probe = "import socket; socket.create_connection(('1.1.1.1', 53), 3)"
    alone = subprocess.run(offline(sys.executable, "-c", probe), capture_output=True, text=True, timeout=60)
    assert "unreachable" in alone.stderr
    for path in (run.with_name("seed-0.ipynb"), study_root(project) / "results/notebooks/explore.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        code = [cell for cell in cells if cell["cell_type"] == "code"]
        assert len(code) > 4 and all(cell["execution_count"] for cell in code)
        assert not any(out["output_type"] == "error" for cell in code for out in cell["outputs"])


@needs_namespace
@pytest.mark.parametrize(
    "hub", [{"HF_HUB_OFFLINE": "1"}, pytest.param({"HF_HUB_OFFLINE": "0"}, marks=SOAK)], ids=["told", "tried"]
)
def test_pretrained_weights_without_network_say_what_to_do(tmp_path, hub):
    """At once where the hub's client is told that it is offline, and where it is not told."""
    make_project(tmp_path / "p", images=60, pretrained=True)
    command = offline(sys.executable, "-m", "mtclim", "train", "--config", "tiny")
    options = {"capture_output": True, "text": True, "timeout": 300}
    surroundings = environment(HF_HOME=str(tmp_path / "empty"), **hub)
    done = subprocess.run(command, cwd=tmp_path / "p", env=surroundings, **options)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert "pretrained weights of test_byobnet" in done.stderr and "Connect to the network once" in done.stderr
    assert "`weights` to a local safetensors file" in done.stderr and "`pretrained: false`" in done.stderr


# --- the book ---

CONF = """
import sys, yaml
sys.path.insert(0, {extension!r})
globals().update(yaml.safe_load(open({config!r}, encoding="utf-8"))["sphinx"]["config"])
html_static_path, extensions, nb_execution_mode = [{static!r}], ["myst_nb", "sphinx.ext.autodoc", "study"], "off"
myst_enable_extensions = yaml.safe_load(open({config!r}, encoding="utf-8"))["parse"]["myst_enable_extensions"]
html_theme, root_doc, exclude_patterns = "sphinx_book_theme", "index", ["out"]
suppress_warnings = ["myst", "toc", "ref"]
"""
PAGE = """# Stored

```{{stored}} results/table.csv
```

```{{stored}} results/note.txt
:missing: no note
```

```{{toctree}}
{pages}
```
"""


@pytest.fixture(scope="module")
def book(study):
    """The pages of the hostile study, built by Sphinx with the book's extension and settings, without network."""
    project, run, _ = study
    source = project / "source"
    (source / "results").mkdir(parents=True)
    pd.DataFrame({"label": NASTY, "count": 1}).to_csv(source / "results" / "table.csv", index=False)
    (source / "results" / "note.txt").write_text("".join(f"- {label}\n" for label in NASTY), encoding="utf-8")
    chapters = source / "book" / "chapters"
    chapters.mkdir(parents=True)
    shutil.copy(run.with_name("seed-0.ipynb"), chapters / "train.ipynb")
    shutil.copy(study_root(project) / "results/notebooks/explore.ipynb", chapters / "explore.ipynb")
    names = ["explore", "train"]
    (source / "index.md").write_text(PAGE.format(pages="\n".join(f"book/chapters/{name}" for name in names)))
    paths = {
        "extension": str(ROOT / "book/_ext"),
        "config": str(ROOT / "_config.yml"),
        "static": str(ROOT / "book/_static"),
    }
    (source / "conf.py").write_text(CONF.format(**paths), encoding="utf-8")
    command = offline(sys.executable, "-m", "sphinx", "-q", "-b", "html", str(source), str(source / "out"))
    done = subprocess.run(command, cwd=source, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return [source / "out" / "index.html", *(source / "out" / "book" / "chapters" / f"{name}.html" for name in names)]


@pytest.fixture(scope="module")
def browser():
    selenium = pytest.importorskip("selenium.webdriver")
    if not shutil.which("chromium") or not shutil.which("chromedriver"):
        pytest.skip("chromium and chromedriver are not installed")
    options = selenium.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1000,1400"):
        options.add_argument(flag)
    driver = selenium.Chrome(options=options, service=selenium.ChromeService(shutil.which("chromedriver")))
    yield driver
    driver.quit()


def test_hostile_labels_are_shown_and_never_run(book, browser):
    harm = book[0].parent / "harm.html"
    harm.write_text(f"<body>{NASTY[0]}</body>")
    browser.get(harm.as_uri())
    time.sleep(0.3)
    assert browser.execute_script("return window.hacked"), (
        "the label must be able to do harm, or this test shows nothing"
    )
    for page in book:
        browser.get(page.as_uri())
        time.sleep(0.5)
        text = browser.execute_script("return document.querySelector('main, article, body').textContent")
        assert not browser.execute_script("return window.hacked"), page
        wild = "return [...document.querySelectorAll('main a')].filter(a => a.href.startsWith('javascript:')).length"
        assert not browser.execute_script(wild), page
        assert not browser.execute_script(
            "return document.querySelectorAll('article img[src=x], article svg[onload]').length"
        )
        assert "onerror" in text, f"{page}: the label itself is shown"
    browser.get(book[0].as_uri())
    text = browser.execute_script("return document.body.textContent").replace("“", '"').replace("”", '"')  # typography
    assert all(text.count(label) == 2 for label in NASTY)
