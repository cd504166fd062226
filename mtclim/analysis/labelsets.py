"""The labelsets of the training images: which others were never seen, and which contradict a relation of theirs."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import entropy

from mtclim.metrics import codes
from mtclim.tasks import Tasks


def labelsets_of(run: str | Path, tasks: Tasks) -> tuple[np.ndarray, np.ndarray]:
    """A run's training labelsets (L, N) as class positions, -1 = not annotated, and how many images have each (L,)."""
    table = pd.read_csv(Path(run) / "labelsets.csv", dtype="str", keep_default_na=False, na_values=[""])
    labels = [codes(table[task], classes) for task, classes in tasks.items()]
    return np.stack(labels, axis=1), table[":count"].to_numpy(np.int64)


def completed(labelsets: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Deal the images of a labelset with missing labels out to those that complete it, where training has any."""
    size = (labelsets >= 0).sum(axis=1)
    for i in np.argsort(size, kind="stable"):
        own = labelsets[i] >= 0
        complete = (size > size[i]) & (labelsets[:, own] == labelsets[i, own]).all(axis=1)
        if complete.any():
            counts[complete] *= 1 + counts[i] / counts[complete].sum()
            counts[i] = 0
    return labelsets[counts > 0], counts[counts > 0]


def unseen(labels: np.ndarray, labelsets: np.ndarray) -> np.ndarray:
    """Whether each labelset (M, N) of positions, -1 = missing, agrees with none of the training labelsets (L, N).

    Two labelsets agree when they have the same class in every task that both have.
    """
    unique, inverse = np.unique(labels, axis=0, return_inverse=True)
    known = [((labelsets == own) | (own < 0) | (labelsets < 0)).all(axis=1).any() for own in unique]
    return ~np.array(known, bool)[inverse.ravel()]


def excluded(labelsets: np.ndarray, counts: np.ndarray, tasks: Tasks) -> list[tuple[int, int, np.ndarray]]:
    """Pairs of labels that contradict a relation of the training labels: (task, task, matrix of the contradictions).

    Two tasks are related where the label of one removes at least half of the other's entropy, as SBST does with
    material and height. Of these tasks a pair of labels that training never shows is a contradiction.

    Parameters
    ----------
    labelsets, counts : (L, N) with -1 = missing, and numbers of images (L,); only images with both labels count.
    """
    found = []
    for a, b in combinations(range(len(tasks)), 2):
        both = (labelsets[:, [a, b]] >= 0).all(axis=1)
        joint = np.zeros((tasks.sizes[a], tasks.sizes[b]))
        np.add.at(joint, (labelsets[both, a], labelsets[both, b]), counts[both])
        first, second, total = (entropy(part) for part in (joint.sum(axis=1), joint.sum(axis=0), joint.ravel()))
        least = min((part for part in (first, second) if part > 0), default=np.inf)
        if first + second - total >= 0.5 * least:
            found.append((a, b, joint == 0))
    return found


def contradictions(labels: np.ndarray, relations: list[tuple[int, int, np.ndarray]]) -> float:
    """Share of labelsets (n, N) with a contradiction (``excluded``); NaN without a relation, or without labelsets."""
    if not relations or not len(labels):
        return np.nan
    return float(np.any([never[labels[:, a], labels[:, b]] for a, b, never in relations], axis=0).mean())
