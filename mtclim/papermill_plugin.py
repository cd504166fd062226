"""Lets ``papermill notebooks/train.ipynb -p variant lim_ms_all`` work without an output path.

papermill imports its ``papermill.engine`` entry points, this module among them, before it runs its command. In the
process of that command, and only there, the import wraps the call of the command. The notebook's place under ``runs/``
becomes its output path where none is given and the notebook is a source notebook of this project: its metadata hold an
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
    """Stop with the list of valid parameters if one of ``given`` is not among them.

    Parameters
    ----------
    given, valid, notebook : Parameters by name, and what the message calls the notebook.
    """
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

    Parameters
    ----------
    notebook, metadata, values : Its path, its metadata with the entry ``mtclim``, and its parameters' values.

    Raises
    ------
    ValueError
        For ``values`` that the configuration refuses.
    """
    from mtclim.config import Config, load_config, run_folder

    settings = {field.name: values[field.name] for field in fields(Config) if field.name in values}
    config = load_config(values.get("config", ""), values.get("overrides"), **settings)
    folder = run_folder(config)
    if metadata["mtclim"].get("output") == "run":
        return folder.with_name(f"{folder.name}.ipynb")
    return (folder if config.out else folder.parents[2]) / notebook.name


def supply(options: dict) -> None:
    """Add the output path to the ``options`` of papermill's command if it is ours to choose; check the parameters."""
    try:
        path, given = Path(options["notebook_path"]), {}
        notebook = json.loads(path.read_text(encoding="utf-8"))
        metadata = notebook["metadata"]
        cell = next(c for c in notebook["cells"] if "parameters" in c["metadata"].get("tags", []))
        texts = [base64.b64decode(text) for text in options["parameters_base64"]]
        texts += [Path(name).read_text(encoding="utf-8") for name in options["parameters_file"]]
        for text in [*texts, *options["parameters_yaml"]]:
            given |= yaml.safe_load(text) or {}
        given |= dict(options["parameters"]) | dict(options["parameters_raw"])
    except (OSError, ValueError, LookupError, TypeError, StopIteration, yaml.YAMLError):
        return  # no notebook, or parameters that cannot be read: papermill says so itself
    if options["help_notebook"] or "mtclim" not in metadata or "papermill" in metadata:
        return
    defaults = assigned("".join(cell["source"]))
    require_known(given, defaults, str(path))
    if not options["output_path"]:
        try:
            output = output_path(path, metadata, defaults | given)
        except ValueError as error:
            raise SystemExit(f"{path}: {error}") from None
        output.parent.mkdir(parents=True, exist_ok=True)
        # papermill fills the output path in like a format string, so that braces of the user's are doubled
        options["output_path"] = os.path.relpath(output).replace("{", "{{").replace("}", "}}")


program = Path(sys.argv[0]).name if sys.argv else ""
if program in ("papermill", "papermill.exe") or (program == "-m" and "papermill" in sys.orig_argv):
    import click

    try:
        os.fstat(0)
    except OSError:  # stdin is closed, which papermill cannot stand: give it an empty one
        os.open(os.devnull, os.O_RDONLY)
        os.set_inheritable(0, True)
    invoke = click.Command.invoke

    def supplied(command: click.Command, context: click.Context):
        """Call papermill's command, which does not exist yet, with the output path."""
        supply(context.params)
        return invoke(command, context)

    click.Command.invoke = supplied
