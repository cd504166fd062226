"""``python -m mtclim.city FOLDER``: make the synthetic city."""

import argparse
import inspect

from mtclim.city import make_city

HELP = {
    "facades": "number of photographs",
    "labelled": "how many of them are annotated",
    "seed": "everything follows from it",
    "size": "side of a photograph in pixels, 64 to 300",
    "interdependency": "0 (roof and position independent of all else) to 1 (the paper's)",
    "ambiguity": "0 to 1: how often a task's own cues are hidden",
    "missing": "share of annotations left out",
    "noise": "share of annotations that are wrong",
}


def main(arguments=None):
    """Parse `arguments` (default: the command line) and make the city."""
    defaults = {name: p.default for name, p in inspect.signature(make_city).parameters.items()}
    parser = argparse.ArgumentParser("python -m mtclim.city", description=__doc__)
    parser.add_argument("folder")
    for name, text in HELP.items():
        parser.add_argument(
            f"--{name}", type=type(defaults[name]), default=defaults[name], help=f"{text} (%(default)s)"
        )
    parser.add_argument("--workers", type=int, help="processes (all usable cores)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    chosen = vars(parser.parse_args(arguments))
    quiet = chosen.pop("quiet")
    try:
        print(make_city(**chosen, progress=not quiet))
    except ValueError as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
