"""The command line: what it answers before anything heavy is imported, its examples, its mistakes."""

import inspect
import re
import shlex
import subprocess
import sys

import pandas as pd
import pytest
from tiny import environment, make_project

from mtclim import __main__ as command_line
from mtclim import runs


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return make_project(tmp_path_factory.mktemp("commands") / "project", max_epochs=1)


def call(folder, *arguments: str, module: str = "mtclim") -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("name", command_line.COMMANDS)
def test_help_shows_an_example_whose_arguments_are_known(name, capsys, monkeypatch):
    with pytest.raises(SystemExit) as ended:
        command_line.main([name, "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    examples = re.findall(rf"^  .*mtclim {name} (.*)$", shown, re.M)
    assert examples
    for example in examples:  # the parser takes it: what is tried is stopped where the parsed arguments arrive
        monkeypatch.setattr(command_line.Parser, "parse_args", stop_after_parsing)
        with pytest.raises(Parsed):
            command_line.COMMANDS[name](shlex.split(example))


class Parsed(Exception):
    """The arguments were understood."""


def stop_after_parsing(parser, arguments):
    super(command_line.Parser, parser).parse_args(arguments)
    raise Parsed


def test_without_a_command_it_lists_them(capsys):
    assert command_line.main([]) == command_line.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for name in command_line.COMMANDS)
    assert all(inspect.getdoc(command).splitlines()[0] in shown for command in command_line.COMMANDS.values())


MISTAKES = {
    "learn": ["'learn'", "train, predict"],
    "train --varaint bl": ["--varaint", "--help"],
    "train --set max_epochs": ["'max_epochs'", "NAME=VALUE"],
    "train --variant lim_al": ["'lim_al'", "lim_ms_all"],
    "train --config dem": ["'dem'", "demo"],
    "train --set max_epoch=1": ["max_epoch", "max_epochs"],
    "train --set batch_size=0": ["batch_size"],
    "train --data absent.csv": ["absent.csv"],
    "train --devices two": ["--devices", "'two'"],
    "train --devices 0": ["devices", "found 0", "1"],
    "train --nodes -2": ["nodes", "found -2", "from 1 on"],
    "prepare --data absent.csv": ["absent.csv"],
    "predict run photos.csv": ["out"],
    "predict run photos.csv out.parquet --part 1": ["--part", "'1'", "I/N", "0/4"],
    "predict run photos.csv out.parquet --part 4/4": ["part", "4/4", "I/N"],
    "predict run photos.csv out.parquet": ["run", "not there"],
    "city": ["folder"],
    "city made --quiet --facades 50 --labelled 20 --size 8": ["size"],
    "collect absent results": ["absent", "no complete run"],
    "grid absent results": ["absent", "no finished run"],
}


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_one_line_and_exit_2(line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    try:
        status = command_line.main(shlex.split(line))
    except SystemExit as ended:
        status = ended.code
    shown = capsys.readouterr()
    assert status == 2 and shown.out == "" and len(shown.err.splitlines()) == 1, shown.err
    assert shown.err.startswith(f"mtclim{' ' + line.split()[0] if line.split()[0] in command_line.COMMANDS else ''}: ")
    assert all(part in shown.err for part in MISTAKES[line]), shown.err


def test_a_fault_of_ours_is_shown_whole(monkeypatch):
    monkeypatch.setitem(command_line.COMMANDS, "train", lambda arguments: {}["absent"])
    with pytest.raises(KeyError):
        command_line.main(["train"])


def test_threads_are_set_before_torch_is_imported(project):
    script = """
import os, sys
from mtclim import __main__ as command_line
os.environ.pop("OMP_NUM_THREADS")
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            raise SystemExit("threads: " + os.environ.get("OMP_NUM_THREADS", "not set"))
sys.meta_path.insert(0, Watch())
command_line.main(sys.argv[1:])
"""
    for arguments in (["train", "--config", "tiny", "--set", "threads=3"], ["predict", "run", "table.csv", "out"]):
        done = subprocess.run([sys.executable, "-c", script, *arguments], cwd=project, env=environment(),
                              capture_output=True, text=True, timeout=60)  # fmt: skip
        assert re.search(r"threads: [1-9]", done.stderr), done.stderr


def test_prepare_train_predict_and_collect(project):
    prepared = call(project, "prepare", "--config", "tiny").stdout.splitlines()
    assert prepared[0] == str(project / "table.csv") and "shade (2 classes)" in prepared[1]
    assert prepared[-6].split() == ["task", "class", "train", "val", "test"] and prepared[-5].split()[:2] == [
        "shade",
        "dark",
    ]
    trained = call(project, "train", "--config", "tiny", "--out", "runs/mine/seed-0")
    assert trained.returncode == 0, trained.stderr
    run = project / "runs/mine/seed-0"
    assert trained.stdout.splitlines()[-1] == str(run) and runs.is_complete(run)
    parts = [call(project, "predict", str(run), "table.csv", "all.parquet", "--without-position", *part)
             for part in (["--part", "0/2"], ["--part", "1/2"], [])]  # fmt: skip
    assert [done.returncode for done in parts] == [0, 0, 0], parts[-1].stderr
    assert len(pd.read_parquet(project / "all.parquet")) == len(pd.read_csv(project / "table.csv"))
    assert re.search(r"^120 of 120 photographs predicted, 0 listed$", parts[-1].stdout, re.M), parts[-1].stdout
    nowhere = call(project, "predict", str(run), "images", "none.parquet")
    assert nowhere.returncode == 2 and nowhere.stdout.splitlines()[1].startswith("0 of 120 photographs predicted")
    assert "none.parquet.listed.csv says why" in nowhere.stderr
    collected = call(project, "collect", "runs/mine", "kept")
    assert collected.returncode == 0 and collected.stdout.startswith("1 runs of 2 tasks"), collected.stderr
    assert (project / "kept" / "tables" / "runs.parquet").is_file()
