"""Lets ``papermill notebooks/train.ipynb -p variant lim_ms_all`` work without an output path.

papermill imports its ``papermill.engine`` entry points, this module among them, before it reads its arguments. On that
import, and only in the process of papermill's own command, the notebook's place under ``runs/`` is added to
``sys.argv`` where no output path is given and the notebook is a source notebook of this project: its metadata hold an
entry ``mtclim`` (``{"output": "run"}`` for one that fills a run folder) and it has not been executed. Parameters that
the notebook lacks or the configuration refuses stop the command; all else is left to papermill. (papermill 2.7 without
an output path asks for one in a terminal, writes to stdout in a pipe and over the notebook itself when stdin is one.)
"""

import ast
import base64
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

import yaml

PAIRS = ("-p --parameters", "-r --parameters_raw")
READERS = ("-b --parameters_base64", "-f --parameters_file", "-y --parameters_yaml")
OTHERS = (
    "--engine", "--autosave-cell-every", "-k --kernel", "-l --language", "--cwd", "--stdout-file", "--stderr-file",
    "--log-level", "--start-timeout --start_timeout", "--execution-timeout",
)  # fmt: skip
"""papermill's options that take values: its command does not exist yet at this import (a test compares them)."""


def parse(arguments: list[str]) -> tuple[list[str], dict]:
    """The positional arguments and the parameters of a papermill command line."""
    import click

    options = [click.Option(names.split(), nargs=2, multiple=True) for names in PAIRS]
    options += [click.Option(names.split(), multiple=True) for names in (*READERS, *OTHERS)]
    words = click.Argument(["words"], nargs=-1, type=click.UNPROCESSED)
    ignoring = {"ignore_unknown_options": True}
    command = click.Command("papermill", ignoring, params=[words, *options], add_help_option=False)
    found = command.make_context("papermill", list(arguments), resilient_parsing=True).params
    texts = [base64.b64decode(text) for text in found["parameters_base64"] or ()]
    texts += [Path(path).read_text(encoding="utf-8") for path in found["parameters_file"] or ()]
    given: dict = {}
    for text in [*texts, *(found["parameters_yaml"] or ())]:
        given |= yaml.safe_load(text) or {}
    for pairs in (found["parameters"], found["parameters_raw"]):
        given |= dict(pairs or ())
    return [word for word in found["words"] or () if word == "-" or not word.startswith("-")], given


def assigned(source: str) -> dict:
    """The names that a cell of ``name = literal`` lines assigns, with their values (None where not a literal)."""
    values = {}
    for node in ast.parse(source).body:
        target = getattr(node, "targets", [getattr(node, "target", None)])[0]  # without a type, or with one
        if isinstance(target, ast.Name) and node.value:
            try:
                values[target.id] = ast.literal_eval(node.value)
            except ValueError:
                values[target.id] = None
    return values


def require_known(given: Mapping, valid: Mapping, notebook: str) -> None:
    """Stop with the list of valid parameters if one of ``given`` is not among them."""
    if unknown := sorted(set(given) - set(valid)):
        raise SystemExit(f"{notebook}: unknown parameter {', '.join(unknown)}; its parameters are {', '.join(valid)}.")


def check_injected(cells: list[str], notebook: str) -> None:
    """Stop, inside a notebook, at parameters that its parameters cell lacks: ``check_injected(In, "train.ipynb")``.

    ``cells`` are the sources executed so far; papermill starts the cell that it injects with ``# Parameters``.
    """
    injected = [place for place, source in enumerate(cells) if place and source.startswith("# Parameters\n")]
    if injected:
        require_known(assigned(cells[injected[-1]]), assigned(cells[injected[0] - 1]), notebook)


def output_path(notebook: Path, metadata: Mapping, values: Mapping) -> Path:
    """Where an executed notebook belongs: beside the run folder it fills, else in ``out`` or with the study's runs.

    Raises ValueError for ``values`` of its parameters that the configuration refuses.
    """
    from mtclim.config import Config, load_config, run_folder

    settings = {field.name: values[field.name] for field in fields(Config) if field.name in values}
    config = load_config(values.get("config", ""), values.get("overrides"), **settings)
    folder = run_folder(config)
    if metadata["mtclim"].get("output") == "run":
        return folder.with_name(f"{folder.name}.ipynb")
    return (folder if config.out else folder.parents[2]) / notebook.name


def supply(arguments: list[str]) -> None:
    """Append the output path to papermill's ``arguments`` if it is ours to choose; check the names of parameters."""
    try:
        words, given = parse(arguments)
        path = Path(words[0])
        notebook = json.loads(path.read_text(encoding="utf-8"))
        metadata = notebook["metadata"]
        cell = next(c for c in notebook["cells"] if "parameters" in c["metadata"].get("tags", []))
    except (OSError, ValueError, LookupError, TypeError, StopIteration, yaml.YAMLError):
        return  # no notebook, or parameters that cannot be read: papermill says so itself
    asked = {"-h", "--help", "--help-notebook", "--version"} & set(arguments)
    if asked or "mtclim" not in metadata or "papermill" in metadata:
        return
    defaults = assigned("".join(cell["source"]))
    require_known(given, defaults, str(path))
    if len(words) == 1:
        try:
            output = output_path(path, metadata, defaults | given)
        except ValueError as error:
            raise SystemExit(f"{path}: {error}") from None
        output.parent.mkdir(parents=True, exist_ok=True)
        # papermill fills the output path in like a format string, so that braces of the user's are doubled
        arguments.append(os.path.relpath(output).replace("{", "{{").replace("}", "}}"))


program = Path(sys.argv[0]).name if sys.argv else ""
if program in ("papermill", "papermill.exe") or (program == "-m" and "papermill" in sys.orig_argv):
    try:
        os.fstat(0)
    except OSError:  # stdin is closed, which papermill cannot stand: give it an empty one
        os.open(os.devnull, os.O_RDONLY)
        os.set_inheritable(0, True)
    added = sys.argv[1:]
    supply(added)
    sys.argv[1:] = added
