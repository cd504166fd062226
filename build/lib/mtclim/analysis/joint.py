"""Answers that fit together: the joint posterior over the labelsets of the training images.

``P(l | x) ~ (prior(l) / prod_n prior_n(l_n)) ** strength * prod_n P(l_n | x)``. Strength 1 is Bayes' rule for tasks
independent given the image; strength 0 only rules out combinations that training never showed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import softmax

from mtclim.metrics import scores
from mtclim.tasks import Tasks

STRENGTHS = np.linspace(0, 1, 11)
CHUNK = 4096  # images at a time, which bounds the memory: 4,096 x 400 labelsets in double precision are 13 MB


class Decoded(NamedTuple):
    """The joint answers for n images."""

    labels: np.ndarray  # (n, N) the most probable labelset, to be right in every task at once
    marginals: dict[str, np.ndarray]  # task -> (n, K) consistent probabilities, for one task alone and for counts


@dataclass(frozen=True)
class Joint:
    """The labelsets of training with the two strengths of their prior; made by ``fit_joint``."""

    tasks: Tasks
    labelsets: np.ndarray  # (L, N) class positions, -1 where training had no label and the task answers by itself
    log_ratio: np.ndarray  # (L,) log prior(l) - sum_n log prior_n(l_n)
    exact_strength: float = 0.0
    marginal_strength: float = 0.0

    def decode(self, probabilities: Mapping[str, np.ndarray]) -> Decoded:
        """Decode calibrated probabilities, task -> (n, K), a chunk of images at a time."""
        starts = range(0, max(len(probabilities[next(iter(self.tasks))]), 1), CHUNK)
        parts = [self._decode({task: p[at : at + CHUNK] for task, p in probabilities.items()}) for at in starts]
        marginals = {task: np.concatenate([part.marginals[task] for part in parts]) for task in self.tasks}
        return Decoded(np.concatenate([part.labels for part in parts]), marginals)

    def posterior(self, probabilities: Mapping[str, np.ndarray]) -> np.ndarray:
        """The posterior (n, L) of each training labelset, for counts; keep n small."""
        return self._weigh(probabilities)[2]

    def _weigh(self, probabilities: Mapping[str, np.ndarray]) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
        """Log probabilities of each task (n, K) and of each labelset (n, L), and the posterior of labelsets (n, L).

        A task whose label is missing in a labelset adds nothing.
        """
        logs = [np.log(np.maximum(np.asarray(probabilities[task], float), 1e-30)) for task in self.tasks]
        known = sum(np.c_[log, np.zeros(len(log))][:, k] for log, k in zip(logs, self.labelsets.T, strict=True))
        return logs, known, softmax(known + self.marginal_strength * self.log_ratio, axis=1)

    def _decode(self, probabilities: Mapping[str, np.ndarray]) -> Decoded:
        logs, known, posterior = self._weigh(probabilities)
        absent = (self.labelsets < 0).astype(float)  # (L, N)
        # The most probable labelset: where training had no label, the task's own most probable class joins in.
        guess = np.stack([log.max(axis=1) for log in logs], axis=1) @ absent.T
        labels = self.labelsets[(known + guess + self.exact_strength * self.log_ratio).argmax(axis=1)]
        labels = np.where(labels < 0, np.stack([log.argmax(axis=1) for log in logs], axis=1), labels)
        marginals = {}
        for n, (task, log) in enumerate(zip(self.tasks, logs, strict=True)):
            member = np.eye(log.shape[1] + 1)[self.labelsets[:, n], :-1]  # (L, K); no class where the label is missing
            free = posterior @ absent[:, n]
            marginals[task] = posterior @ member + free[:, None] * softmax(log, axis=1)
        return Decoded(labels, marginals)


def fit_joint(
    probabilities: Mapping[str, np.ndarray], true: np.ndarray, labelsets: np.ndarray, counts: np.ndarray, tasks: Tasks
) -> Joint:
    """Choose the strength of the prior on validation images, for the best exact match and for the best mean kappa.

    ``probabilities``: task -> (n, K), calibrated; ``true``: (n, N) reference positions; ``labelsets`` and ``counts``:
    (L, N) distinct labelsets of training and (L,) how many images have each; -1 = not annotated.
    """
    labelsets, counts = _completed(np.asarray(labelsets, np.int64), np.array(counts, float))
    ratio = np.log(counts / counts.sum())
    for own in labelsets.T:
        has = own >= 0
        share = np.bincount(own[has], weights=counts[has]) / counts[has].sum()
        ratio[has] -= np.log(share[own[has]])
    right, agree = [], []
    for strength in STRENGTHS:
        found = Joint(tasks, labelsets, ratio, strength, strength).decode(probabilities)
        right.append(((found.labels == true) | (true < 0)).all(axis=1).sum())
        said = [p.argmax(axis=1) for p in found.marginals.values()]
        agree.append(np.nansum([scores(t, s, k)[1] for t, s, k in zip(true.T, said, tasks.sizes, strict=True)]))
    return Joint(tasks, labelsets, ratio, *(float(STRENGTHS[np.argmax(best)]) for best in (right, agree)))


def _completed(labelsets: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
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
