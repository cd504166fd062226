"""The command line: ``python -m mtclim COMMAND``, or ``mtclim COMMAND`` where the package is installed.

Each command is a function of this module, and its docstring is what ``--help`` shows. A mistake is one line on stderr
and the exit status 2. Nothing that takes its number of threads from the environment, torch above all, is imported
before the arguments are read and that number is set.
"""

import argparse
import inspect
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from mtclim.machine import cores


class Parser(argparse.ArgumentParser):
    """The arguments of one command, described by its docstring: a line that says what it does, then examples."""

    def __init__(self, command):
        text, _, examples = inspect.getdoc(command).partition("\n\n")
        look = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False}
        super().__init__(f"mtclim {command.__name__}", description=text, epilog=examples, **look)

    def error(self, message: str) -> NoReturn:
        """One line, where argparse would print the usage as well."""
        self.exit(2, f"{self.prog}: {message}; `{self.prog} --help` shows an example.\n")


def train(arguments: Sequence[str]) -> None:
    """Train one run, or go on with one that was stopped, and print its folder; a finished run is left as it is.

    examples:
      mtclim train --data photos.csv --variant lim_ms_all --out runs/mine
      mtclim train --config paper --variant stc --seed 3 --set max_epochs=50 precision=32-true
      mtclim train --config paper --variant lim_ms_all --devices 4
      torchrun --nproc-per-node 4 -m mtclim train --config paper --variant lim_ms_all --devices 4

    Several devices work on one network; batch_size is the batch of all of them together.
    """
    parser = Parser(train)
    parser.add_argument("--devices", type=int, default=1, help="GPUs, or processes of a CPU, of each node (1)")
    parser.add_argument("--nodes", type=int, default=1, help="machines that train the run together (1)")
    config, others = _settings(parser, arguments)
    from mtclim.training import fit, rank

    folder = fit(config, **others)
    if rank() == 0:
        print(folder)


def predict(arguments: Sequence[str]) -> None:
    """Predict a table of images or a folder of photographs, write a row an image to a GeoParquet file, print how many.

    examples:
      mtclim predict runs/mine photos.csv predictions.parquet
      mtclim predict runs/seed-0 runs/seed-1 photographs/ predictions.parquet --calibrated --without-position
      mtclim predict runs/mine photos.csv predictions.parquet --part 0/4

    The last command predicts the first of four parts, which four machines may do at the same time in one folder. The
    same command without --part joins them. A command that was stopped goes on when it is repeated.
    """
    parser = Parser(predict)
    parser.add_argument("runs", nargs="+", help="folders of finished runs; the probabilities of several are averaged")
    parser.add_argument("source", help="a table of images, or a folder of photographs")
    parser.add_argument("out", help="the GeoParquet file; <out>.listed.csv has what was not predicted, and why")
    parser.add_argument("--batch-size", type=int, default=64, help="images of a forward pass (64)")
    parser.add_argument("--workers", type=int, help="threads that decode images (all usable cores)")
    parser.add_argument("--image-root", help="the folder of a table's images (the table's own)")
    parser.add_argument("--na-values", nargs="*", help="what means missing in a table (NA, null and the like)")
    parser.add_argument("--limit", type=int, help="predict a fixed random sample of so many images")
    parser.add_argument("--calibrated", action="store_true", help="scale probabilities by the runs' temperatures")
    parser.add_argument("--consistent", action="store_true", help="answer with labels that fit together")
    parser.add_argument("--without-position", dest="require_position", action="store_false", help="need no position")
    part = _two("/", int, "I/N, for example 0/4")
    parser.add_argument("--part", type=part, default=(0, 1), metavar="I/N", help="the part I = 0 ... N-1 of N")
    options = vars(parser.parse_args(arguments))
    os.environ.setdefault("OMP_NUM_THREADS", str(cores()))
    from mtclim.mapping.predict import predict_file, provenance_of

    out = predict_file(**options)
    print(out)
    if out.is_file():  # else it is the folder of a part
        made = provenance_of(out)
        print(f"{made['rows']:,} of {made['images']:,} photographs predicted, {made['listed']:,} listed")
        if made["others"]:
            print("not photographs:", ", ".join(f"{count} {kind}" for kind, count in made["others"].items()))
        if not made["rows"]:
            raise ValueError(f"no photograph was predicted; {out}.listed.csv says why of each.")


def views(arguments: Sequence[str]) -> None:
    """Cut views out of 360° panoramas, and print the path of their table of positions and bearings, and notes on it.

    examples:
      mtclim views panoramas/ views/
      mtclim views mly_pids.csv views/ --sides -90 90 --field-of-view 75 --size 640
      mtclim views panoramas/ views/ --towards 45

    Photographs that are no panoramas are copied. What cannot be used is in listed.csv, with the reason.
    """
    parser = Parser(views)
    parser.add_argument("source", help="a folder of panoramas, or a table of them")
    parser.add_argument("out", help="the folder to write to")
    parser.add_argument("--sides", type=float, nargs="+", default=[-90, 90], help="from the heading (%(default)s)")
    parser.add_argument("--towards", type=float, help="one bearing in degrees from north, in place of --sides")
    parser.add_argument("--field-of-view", type=float, default=90, help="degrees (%(default)s)")
    parser.add_argument("--size", type=int, default=512, help="pixels (%(default)s)")
    options = vars(parser.parse_args(arguments))
    from mtclim.mapping.views import cut_views, read_views

    frame = read_views(options.pop("source"))
    print(cut_views(frame, **options), *frame.attrs["notes"], sep="\n")


def buildings(arguments: Sequence[str]) -> None:
    """Write a table of views with the building that each shows, and print how many show none, and why.

    example:
      mtclim buildings views/table.csv footprints.gpkg views/buildings.csv --field-of-view 90

    The column building is empty where a view shows no building, or two alike; _reason says which.
    """
    parser = Parser(buildings)
    parser.add_argument("views", help="a table of views with positions and bearings, or a folder of photographs")
    parser.add_argument("footprints", help="a layer of polygons, such as a GeoPackage, GeoParquet or GeoJSON file")
    parser.add_argument("out", help="the CSV file")
    parser.add_argument("--field-of-view", type=float, default=60, help="of a view, in degrees (%(default)s)")
    parser.add_argument("--reach", type=float, default=50, help="how far a view reaches, in metres (%(default)s)")
    options = vars(parser.parse_args(arguments))
    from mtclim.mapping.buildings import assign_file

    print(*assign_file(**options), sep="\n")


def city(arguments: Sequence[str]) -> None:
    """Make a synthetic city with drawn photographs of its façades and print the path of its table of images.

    example:
      mtclim city my-city --facades 8000 --labelled 5000 --size 128 --ambiguity 0.3

    The size is in pixels. Interdependency runs from 0 (roof and block position are independent of all else) to 1 (as in
    the paper), ambiguity from 0 to 1 (how often the cues of a task are hidden in a picture); missing and noise are the
    shares of annotations left out and wrong. A command that was stopped goes on when it is repeated.
    """
    from mtclim.city import make_city

    parser = Parser(city)
    parser.add_argument("folder", help="where to make it")
    for name, parameter in inspect.signature(make_city).parameters.items():
        if type(default := parameter.default) in (int, float):
            parser.add_argument(f"--{name}", type=type(default), default=default, help="(%(default)s)")
    parser.add_argument("--workers", type=int, help="processes (all usable cores)")
    parser.add_argument("--quiet", action="store_false", dest="progress", help="no progress bar")
    print(make_city(**vars(parser.parse_args(arguments))))


def prepare(arguments: Sequence[str]) -> None:
    """Read, balance, partition and decode the images of a configuration, and print what training would work on.

    examples:
      mtclim prepare --data photos.csv
      mtclim prepare --config study --set city_labelled=2000
    """
    config, _ = _settings(Parser(prepare), arguments)
    from mtclim.prepare import prepare as prepared

    data = prepared(config)
    print(data.table.path, *data.notes, data.counts().to_string(index=False), sep="\n")


def grid(arguments: Sequence[str]) -> None:
    """Write the tables and the figure of the grid of cities from the runs that are finished, however few.

    example:
      mtclim grid runs/grid results
    """
    parser = Parser(grid)
    parser.add_argument("root", nargs="?", default="runs/grid", help="the folder of the grid's runs")
    parser.add_argument("out", nargs="?", default="results", help="the folder to write to")
    options = vars(parser.parse_args(arguments))
    from mtclim.analysis.grid import write_grid

    write_grid(**options)


def collect(arguments: Sequence[str]) -> None:
    """Reduce finished runs to the small tables that the evaluation reads; runs that are in the tables already stay.

    example:
      mtclim collect runs/study results
    """
    parser = Parser(collect)
    parser.add_argument("root", help="the folder that holds the run folders")
    parser.add_argument("results", help="the folder whose sub-folder tables is written, and effects.csv and joint.csv")
    parser.add_argument("--code", default="", help="the digest of the code whose runs are wanted, if there are several")
    given = parser.parse_args(arguments)
    from mtclim.analysis.effects import write_summaries
    from mtclim.analysis.study import collect as collected

    study = collected(given.root, given.results, given.code)
    write_summaries(study, given.results)
    print(f"{len(study.runs)} runs of {len(study.tasks)} tasks, {len(study.problems)} problems listed")


COMMANDS = {command.__name__: command for command in (train, predict, views, buildings, city, prepare, grid, collect)}


def _settings(parser: Parser, arguments: Sequence[str]):
    """The configuration that the arguments describe, and what else they say; its threads go into the environment."""
    parser.add_argument("--config", default="", help="a preset (demo, photos, study, paper) or the path of a YAML file")
    names = ("variant", "backbone", "seed", "data", "tasks", "out")
    for name in names:
        parser.add_argument(f"--{name}", help=f"the setting {name}, in place of the preset's")
    pair = _two("=", str, "NAME=VALUE, for example max_epochs=3")
    parser.add_argument("--set", nargs="+", action="extend", default=[], type=pair, help="other settings, NAME=VALUE")
    given = vars(parser.parse_args(arguments))
    from mtclim.config import load_config

    config = load_config(given.pop("config"), dict(given.pop("set")), **{name: given.pop(name) for name in names})
    os.environ.setdefault("OMP_NUM_THREADS", str(config.threads or cores()))
    return config, given


def _two(mark: str, kind: type, expected: str):
    """A type of argument: two values with a mark between them."""

    def read(text: str) -> tuple:
        try:
            first, second = map(kind, text.split(mark, 1))
        except ValueError:
            raise argparse.ArgumentTypeError(f"found {text!r}; expected {expected}") from None
        return first, second

    return read


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the arguments (default: those of the process) name; the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    name = words[0]
    if name in ("-h", "--help"):
        print("usage: mtclim COMMAND ...; mtclim COMMAND --help shows its arguments and an example")
        for known, command in COMMANDS.items():
            print(f"  {known:<11}{inspect.getdoc(command).splitlines()[0]}")
        return 0
    if name not in COMMANDS:
        print(f"mtclim: found the command {name!r}; expected one of {', '.join(COMMANDS)}.", file=sys.stderr)
        return 2
    try:
        COMMANDS[name](words[1:])
    except Exception as error:
        mistake = isinstance(error, ValueError | OSError | ModuleNotFoundError)
        if not (mistake or type(error).__module__.startswith("mtclim.")):  # a fault of ours is shown whole
            raise
        print(f"mtclim {name}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
