"""Classification tasks and their ordered classes: what every other module agrees on."""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import yaml


class Tasks(Mapping[str, tuple[str, ...]]):
    """An immutable, ordered mapping from task name to its ordered class names.

    The order of tasks is the order of TLIM's time steps and of the columns of a target matrix; the order of classes is
    the order of each softmax output (section 2.3 of the paper).

    >>> tasks = Tasks({"height": ["H1", "H2"], "roof": ["FLT", "PIT_GAB", "PIT_MON"]})
    >>> tasks.sizes, tasks.total, tasks.largest
    ((2, 3), 5, 3)
    >>> tasks.columns[:3]
    ('height:H1', 'height:H2', 'roof:FLT')

    Raises ValueError for no task, a task with fewer than two classes, and repeated or empty names.
    """

    def __init__(self, classes: Mapping[str, Iterable[str]]):
        self._classes = {str(task): tuple(str(name) for name in names) for task, names in classes.items()}
        if not self._classes:
            raise ValueError("Tasks: found no task; expected at least one task with its classes.")
        for task, names in self._classes.items():
            if not task.strip() or ":" in task:
                raise ValueError(f"Tasks: task name {task!r} is empty or contains ':'; rename the task.")
            if len(names) < 2:
                raise ValueError(f"Tasks: task {task!r} has the classes {list(names)}; expected at least two.")
            repeated = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
            if repeated or not all(name.strip() for name in names):
                raise ValueError(
                    f"Tasks: task {task!r} has repeated or empty class names {repeated}; name each class once."
                )

    @classmethod
    def from_yaml(cls, path: str | Path) -> "Tasks":
        """Read tasks from a YAML mapping ``task: [class, class, ...]``."""
        try:
            loaded = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=yaml.BaseLoader)  # "no" and 2.0 are names
        except yaml.YAMLError as error:
            raise ValueError(f"{path}: not a YAML file: {' '.join(str(error).split())}") from error
        if not isinstance(loaded, dict) or not all(isinstance(names, list) for names in loaded.values()):
            raise ValueError(
                f"{path}: expected a YAML mapping 'task: [class, class, ...]', found {type(loaded).__name__}."
            )
        return cls(loaded)

    def to_dict(self) -> dict[str, list[str]]:
        """Plain lists, ready for YAML or JSON."""
        return {task: list(names) for task, names in self._classes.items()}

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
        """Equal only in the same order: order decides what a weight means."""
        return isinstance(other, Tasks) and list(self._classes.items()) == list(other._classes.items())

    def __hash__(self) -> int:
        return hash(tuple(self._classes.items()))

    def __repr__(self) -> str:
        return f"Tasks({self.to_dict()})"


SANTIAGO = Tasks(
    {
        "height": ["H1", "H2", "H3-4", "H5-7", "H8-12", "H13+"],
        "mat_llrs": ["MUR", "MCF", "MR", "CR", "W,UNK", "COM1,2,IND", "COM3"],
        "sbst": [
            "MUR_H1", "MUR_H2-3", "MCF_H1-2", "MR_H1-2", "CR_H1-2", "W,UNK_H1-2", "MCF_H3-4",
            "MR_H3-4", "CR_H3-4", "CR_H5-7", "CR_H8-12", "CR_H13+", "COM1,2,IND_H1+", "COM3_H8+",
        ],
        "roof_shape": ["FLT", "PIT_GAB", "PIT_MON"],
        "block_position": ["DET_SP", "DET_MP", "SDET", "ADJ_BD", "ADJ_TR"],
    }
)  # fmt: skip
"""The paper's five tasks and their classes, in its order (Fig. 2)."""


def ordinal(classes: Iterable[str]) -> bool:
    """Whether the classes are ranges in rising order, such as H1, H2, H3-4: the first number in each name rises."""
    numbers = [re.search(r"\d+", name) for name in classes]
    values = [int(found.group()) for found in numbers if found]
    return len(values) == len(numbers) > 2 and all(a < b for a, b in zip(values, values[1:], strict=False))
