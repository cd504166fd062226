"""Classification tasks and their ordered classes: what every other module agrees on."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import yaml


class Tasks(Mapping[str, tuple[str, ...]]):
    """An immutable, ordered mapping from task name to its ordered class names.

    The order of tasks is the order of TLIM's time steps and of the columns of a target matrix; the order of classes is
    the order of each softmax output (section 2.3 of the paper).

    ``titles`` are readable names for pages and figures; a key is a task, or "task:class" for one of its classes.
    ValueError for what cannot be tasks, with the reason.

    >>> tasks = Tasks({"height": ["H1", "H2"], "roof": ["FLT", "PIT_GAB", "PIT_MON"]}, {"roof:FLT": "flat roof"})
    >>> tasks.sizes, tasks.total, tasks.largest
    ((2, 3), 5, 3)
    >>> tasks.columns[:3]
    ('height:H1', 'height:H2', 'roof:FLT')
    >>> tasks.title("roof"), tasks.title("roof", "FLT")
    ('roof', 'flat roof')
    """

    def __init__(self, classes: Mapping[str, Iterable[str]], titles: Mapping[str, str] | None = None):
        self._classes = {str(task): tuple(str(name) for name in names) for task, names in classes.items()}
        self._titles = {str(name): str(title) for name, title in (titles or {}).items()}
        if not self._classes:
            raise ValueError("Tasks: found no task; expected at least one task with its classes.")
        for task, names in self._classes.items():
            _check(task, names)
        if unknown := sorted(set(self._titles) - set(self._classes) - set(self.columns)):
            raise ValueError(
                f"Tasks: found titles of {unknown}; expected those of a task, or of a class as 'task:class'."
            )

    @classmethod
    def from_yaml(cls, path: str | Path) -> "Tasks":
        """Read tasks from YAML: ``task: [class, ...]``, or ``task: {title: ..., classes: ...}``.

        ``classes`` is a list, or a mapping from each class to its readable name. ValueError says what else was found.
        """
        try:
            loaded = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=yaml.BaseLoader)  # "no" and 2.0 are names
        except yaml.YAMLError as error:
            loaded = " ".join(str(error).split())
        if not isinstance(loaded, dict):
            raise ValueError(f"{path}: found {loaded!s:.200}; expected a YAML mapping 'task: [class, ...]'.")
        classes, titles = {}, {}
        for task, entry in loaded.items():
            entry = entry if isinstance(entry, dict) else {"classes": entry}
            names = entry.get("classes")
            if not set(entry) <= {"title", "classes"} or not isinstance(names, list | dict):
                raise ValueError(
                    f"{path}: task {task!r} is {loaded[task]!r:.80}; expected [class, ...] or "
                    "{title: readable name, classes: [class, ...] or {class: readable name, ...}}."
                )
            classes[task] = list(names)
            if "title" in entry:
                titles[task] = entry["title"]
            if isinstance(names, dict):
                titles |= {f"{task}:{name}": title for name, title in names.items()}
        return cls(classes, titles)

    def to_dict(self) -> dict[str, list[str]]:
        """The classes as plain lists, ready for YAML or JSON."""
        return {task: list(names) for task, names in self._classes.items()}

    @property
    def titles(self) -> dict[str, str]:
        """The readable names that were given, as a plain dictionary; the second argument of ``Tasks``."""
        return dict(self._titles)

    def title(self, task: str, name: str | None = None) -> str:
        """The readable name of a task, or of one of its classes; the name itself where there is no other."""
        if name is None:
            return self._titles.get(task, task)
        return self._titles.get(f"{task}:{name}", name)

    @property
    def sizes(self) -> tuple[int, ...]:
        """K_n, the number of classes of each task."""
        return tuple(len(names) for names in self._classes.values())

    @property
    def total(self) -> int:
        """S, the number of classes of all tasks together: CLIM's sequence length (Eq. 12)."""
        return sum(self.sizes)

    @property
    def largest(self) -> int:
        """Kmax, the number of classes of the largest task: TLIM's input width (Eq. 13)."""
        return max(self.sizes)

    @property
    def columns(self) -> tuple[str, ...]:
        """``task:class`` for every class, in order."""
        return tuple(f"{task}:{name}" for task, names in self._classes.items() for name in names)

    def __getitem__(self, task: str) -> tuple[str, ...]:
        return self._classes[task]

    def __iter__(self) -> Iterator[str]:
        return iter(self._classes)

    def __len__(self) -> int:
        return len(self._classes)

    def __eq__(self, other: object) -> bool:
        """Equal in names and in their order, which decides what a weight means; titles do not count."""
        return isinstance(other, Tasks) and list(self._classes.items()) == list(other._classes.items())

    def __hash__(self) -> int:
        return hash(tuple(self._classes.items()))

    def __repr__(self) -> str:
        return f"Tasks({self.to_dict()})"


def _check(task: str, names: tuple[str, ...]) -> None:
    repeated = sorted({name for name, count in Counter(names).items() if count > 1 or not name.strip()})
    if not task.strip() or ":" in task:
        problem = "its name is empty or contains ':', which separates a task from its classes; rename the task"
    elif task.casefold() == "mean":
        problem = "metrics.json calls the mean over tasks so; rename the task"
    elif len(names) < 2:
        problem = f"found the classes {list(names)}; expected at least two"
    elif repeated:
        problem = f"found repeated or empty class names {repeated}; name each class once"
    else:
        return
    raise ValueError(f"Tasks: task {task!r}: {problem}.")


def ordinal(classes: Iterable[str]) -> bool:
    """Whether the classes are three or more ranges in rising order, such as H1, H2, H3-4, H5+ (or 1, 2, 10, 10+)."""
    ranges = []
    for name in classes:
        numbers = [float(number) for number in re.findall(r"\d+(?:\.\d+)?", name)]
        if not numbers:
            return False
        ranges.append((numbers[0], float("inf") if re.search(r"\d\+|>", name) else numbers[-1]))
    return len(ranges) > 2 and all(a < b for a, b in zip(ranges, ranges[1:], strict=False))


SANTIAGO = Tasks.from_yaml(Path(__file__).with_name("santiago.yaml"))
"""The paper's five tasks and their classes, in its order, with readable names (Figs 1 and 2)."""
