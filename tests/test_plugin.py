"""The papermill plug-in, tried with papermill's real command in each way that a terminal or a script may call it."""

import base64
import json
import os
import pty
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import nbformat
import pytest

papermill = pytest.importorskip("papermill")

from mtclim import papermill_plugin  # noqa: E402

COMMAND = Path(sys.executable).with_name("papermill")
OURS = {"mtclim": {"output": "run"}}
PARAMETERS = """config = ""  # str: preset
variant = "lim_ms_all"  # str: variant
backbone = ""  # str: empty = the preset's
seed = 0  # int: realisation
data = ""  # str: table
out = ""  # str: run folder"""
CHECK = 'from mtclim.papermill_plugin import check_injected\ncheck_injected(In, "train.ipynb")'


def write_notebook(path: Path, metadata: dict, cells=(PARAMETERS, CHECK, "print(variant)")) -> Path:
    book = nbformat.v4.new_notebook(
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}} | metadata
    )
    book.cells = [nbformat.v4.new_code_cell(source) for source in cells]
    book.cells[0].metadata["tags"] = ["parameters"]
    path.parent.mkdir(exist_ok=True)
    nbformat.write(book, path)
    return path


@pytest.fixture
def project(tmp_path):
    """A folder like the repository's: a preset and a notebook of ours."""
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "demo.yaml").write_text("backbone: tiny_net\nvariant: bl\n")
    write_notebook(tmp_path / "notebooks" / "train.ipynb", OURS)
    before = (tmp_path / "notebooks" / "train.ipynb").read_bytes()
    yield tmp_path
    assert (tmp_path / "notebooks" / "train.ipynb").read_bytes() == before, "the source notebook was touched"


def call(project: Path, *arguments: str, command=(COMMAND,), **keywords) -> subprocess.CompletedProcess:
    keywords = {"stdin": subprocess.DEVNULL, "capture_output": True} | keywords
    return subprocess.run([*command, *arguments], cwd=project, timeout=120, text=True, **keywords)


def in_terminal(project: Path, *arguments: str) -> tuple[int, str]:
    """The command in a pseudo-terminal: exit status and what it printed."""
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(project)
        os.execv(COMMAND, [str(COMMAND), *arguments])
    shown = b""
    while True:
        try:
            chunk = os.read(terminal, 65536)
        except OSError:  # the terminal is gone with the last process that held it
            break
        if not chunk:
            break
        shown += chunk
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), shown.decode(errors="replace")


PREPARE = ("notebooks/train.ipynb", "-p", "variant", "tlim", "--prepare-only")
PLACE = "runs/demo/tiny_net/tlim/seed-0.ipynb"


def injected(path: Path) -> str:
    cells = json.loads(path.read_text())["cells"]
    return next("".join(c["source"]) for c in cells if "injected-parameters" in c["metadata"].get("tags", []))


def test_terminal_executes_and_writes_under_runs(project):
    status, shown = in_terminal(project, "notebooks/train.ipynb", "-p", "variant", "clim")
    assert status == 0, shown
    written = project / "runs/demo/tiny_net/clim/seed-0.ipynb"
    assert "Output Notebook: runs/demo/tiny_net/clim/seed-0.ipynb" in shown
    assert json.loads(written.read_text())["cells"][-1]["outputs"][0]["text"] == ["clim\n"]


def test_piped(project):
    done = call(project, *PREPARE)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "", "the notebook went to stdout"
    assert 'variant = "tlim"' in injected(project / PLACE)


def test_stdin_closed(project):
    done = call(project, "notebooks/train.ipynb", "-p", "variant", "tlim", stdin=None, preexec_fn=lambda: os.close(0))
    assert done.returncode == 0, done.stderr
    assert (project / PLACE).is_file()


@pytest.mark.parametrize("waiting", ["", "text in the pipe"])
def test_stdin_is_a_pipe(project, waiting):
    done = call(project, *PREPARE, stdin=None, input=waiting)
    assert done.returncode == 0, done.stderr
    assert 'variant = "tlim"' in injected(project / PLACE)


def test_stdin_is_a_named_fifo(project):
    os.mkfifo(project / "fifo")
    with open(os.open(project / "fifo", os.O_RDWR)) as fifo:
        done = call(project, *PREPARE, stdin=fifo)
    assert done.returncode == 0, done.stderr
    assert (project / PLACE).is_file()


def test_as_a_module_and_from_another_folder(project):
    (project / "elsewhere").mkdir()
    done = call(
        project / "elsewhere", "../notebooks/train.ipynb", *PREPARE[1:], command=(sys.executable, "-m", "papermill")
    )
    assert done.returncode == 0, done.stderr
    assert (project / PLACE).is_file() and not list((project / "elsewhere").iterdir())


@pytest.mark.parametrize("place", ["mine.ipynb", "deeper/mine.ipynb"])
def test_explicit_output_is_papermill_as_always(project, place):
    (project / place).parent.mkdir(exist_ok=True)
    done = call(project, PREPARE[0], place, *PREPARE[1:])
    assert done.returncode == 0, done.stderr
    assert (project / place).is_file() and not (project / "runs").exists()


def test_explicit_dash_still_means_stdout(project):
    done = call(project, PREPARE[0], "-", *PREPARE[1:])
    assert done.returncode == 0 and json.loads(done.stdout)["nbformat"] == 4 and not (project / "runs").exists()


def test_notebook_from_stdin_to_an_executed_notebook_is_left_alone(project):
    assert call(project, *PREPARE).returncode == 0
    source = (project / "notebooks/train.ipynb").read_text()
    done = call(project, PLACE, "-p", "variant", "stc", "--prepare-only", stdin=None, input=source)
    assert done.returncode == 0, done.stderr
    assert 'variant = "stc"' in injected(project / PLACE)
    assert not (project / "runs/demo/tiny_net/stc").exists()


def test_notebook_of_someone_else_is_left_alone(project):
    write_notebook(project / "notebooks" / "other.ipynb", {})
    status, shown = in_terminal(project, "notebooks/other.ipynb", "--prepare-only")
    assert status == 2 and "Missing argument 'OUTPUT_PATH'" in shown
    assert not (project / "runs").exists()


@pytest.mark.parametrize(
    "arguments", [("-p", "varaint", "bl"), ("-y", "varaint: bl"), ("mine.ipynb", "--parameters_raw", "varaint", "bl")]
)
def test_unknown_parameter_fails_at_once(project, arguments):
    done = call(project, "notebooks/train.ipynb", *arguments)
    assert done.returncode != 0
    assert "varaint" in done.stderr and "config, variant, backbone, seed, data, out" in done.stderr
    assert not (project / "runs").exists() and not (project / "mine.ipynb").exists()


def test_unknown_parameter_fails_in_the_notebook_too(project):
    with pytest.raises(papermill.PapermillExecutionError, match="(?s)varaint.*config, variant, backbone"):
        papermill.execute_notebook(
            project / "notebooks/train.ipynb", project / "mine.ipynb", {"varaint": "bl"}, progress_bar=False
        )


@pytest.mark.parametrize(
    "name, value, valid", [("config", "papre", "demo"), ("variant", "lim_ms", "lim_ms_all"), ("seed", "one", "int")]
)
def test_unknown_value_fails_at_once(project, name, value, valid):
    done = call(project, "notebooks/train.ipynb", "-p", name, value)
    assert done.returncode != 0 and repr(value) in done.stderr and valid in done.stderr
    assert not (project / "runs").exists()


def test_missing_notebook_and_help_are_papermills_own(project):
    assert "No such file" in call(project, "notebooks/trian.ipynb", "out.ipynb").stderr
    done = call(project, "notebooks/train.ipynb", "--help-notebook")
    assert "variant" in done.stdout and not (project / "runs").exists()


@pytest.mark.parametrize(
    "given, expected",
    [
        ({}, "runs/demo/tiny_net/lim_ms_all/seed-0.ipynb"),
        ({"seed": "1", "variant": "bl_fc"}, "runs/demo/tiny_net/bl_fc/seed-1.ipynb"),
        ({"config": "demo", "backbone": "densenet121"}, "runs/demo/densenet121/lim_ms_all/seed-0.ipynb"),
        ({"config": "configs/mine.yaml"}, "runs/mine/small/lim_ms_all/seed-0.ipynb"),
        ({"data": "houses.csv"}, "runs/photos-houses-*/tf_efficientnet_lite0/lim_ms_all/seed-0.ipynb"),
        ({"data": "houses.csv", "config": "demo"}, "runs/demo-houses-*/tiny_net/lim_ms_all/seed-0.ipynb"),
        ({"out": "else/where"}, "else/where.ipynb"),
    ],
)
def test_output_path_is_beside_the_run_folder(project, monkeypatch, given, expected):
    monkeypatch.chdir(project)
    (project / "configs" / "mine.yaml").write_text("backbone: small\n")
    values = papermill_plugin.assigned(PARAMETERS) | given
    path = papermill_plugin.output_path(Path("notebooks/train.ipynb"), OURS, values)
    assert fnmatch(str(path.resolve()), str(project.resolve() / expected))


def test_output_path_of_a_notebook_about_the_study(project, monkeypatch):
    monkeypatch.chdir(project)
    path = papermill_plugin.output_path(Path("notebooks/explore.ipynb"), {"mtclim": {}}, {"config": "demo", "top": 3})
    assert path.resolve() == project.resolve() / "runs/demo/explore.ipynb"
    path = papermill_plugin.output_path(
        Path("notebooks/map.ipynb"), {"mtclim": {}}, {"config": "demo", "out": "x/maps"}
    )
    assert path == Path.cwd() / "x" / "maps" / "map.ipynb"


def options_of(*arguments: str) -> dict:
    """What papermill's own command reads from a command line."""
    from papermill.cli import papermill as command

    return command.make_context("papermill", list(arguments)).params


def test_parameters_are_read_in_every_form(project, monkeypatch):
    monkeypatch.chdir(project)
    (project / "p.yaml").write_text("seed: 3")
    config = base64.b64encode(b"{config: demo, seed: 4}").decode()
    line = f"-pvariant bl notebooks/train.ipynb --log-output -f p.yaml -b {config} --engine=nbclient -k python3"
    options = options_of(*line.split(), "-y", "{backbone: densenet121}")
    papermill_plugin.supply(options)
    assert options["output_path"] == "runs/demo/densenet121/bl/seed-3.ipynb"


@pytest.mark.parametrize("text", ["[a, b]", "{a: [", "plain"])
def test_parameters_that_cannot_be_read_are_left_to_papermill(project, text):
    options = options_of(str(project / "notebooks/train.ipynb"), "-y", text)
    papermill_plugin.supply(options)
    assert options["output_path"] == ""


@pytest.mark.parametrize("parameter", ["data", "out"])
def test_braces_in_a_name_are_not_taken_for_a_format(project, parameter):
    """papermill fills its output path in like a format string: a table called photos{v2}.csv ended in a traceback."""
    (project / "photos{v2}.csv").write_text("image\n")
    value = {"data": "photos{v2}.csv", "out": "runs/{mine}"}[parameter]
    done = call(project, "notebooks/train.ipynb", "-p", parameter, value, "--prepare-only")
    assert done.returncode == 0, done.stderr
    (written,) = (project / "runs").rglob("*.ipynb")
    assert parameter == "data" or written == project / "runs/{mine}.ipynb"


def test_assignments_of_a_cell_are_read_in_every_form():
    source = 'a = 1  # int: one\nb: str = "x"\nc: int\nd = a + 1\ne, f = 1, 2\nprint(a)\n'
    assert papermill_plugin.assigned(source) == {"a": 1, "b": "x", "d": None}


def test_plugin_is_light():
    script = "import sys, mtclim.papermill_plugin; print({'torch', 'pandas', 'numpy', 'papermill'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
