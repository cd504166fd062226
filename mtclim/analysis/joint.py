"""Answers that fit together: the joint posterior over the labelsets of the training images.

``P(l | x) ~ exp(sum_n w_n log P(l_n | x) + w ratio(l))`` with ``ratio(l) = log prior(l) - sum_n log prior_n(l_n)``.
With all weights 1 it is Bayes' rule for tasks that are independent given the image. They are not, since one hidden cue
misleads several of them, and so the weights are fitted (a logarithmic opinion pool, Genest and Zidek 1986).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import softmax

from mtclim.analysis.labelsets import completed
from mtclim.tasks import Tasks

CHUNK = 4096  # images at a time, which bounds the memory: 5 tasks of 4,096 images and 400 labelsets are 66 MB


class Decoded(NamedTuple):
    """The joint answers for n images."""

    labels: np.ndarray  # (n, N) the most probable labelset, to be right in every task at once
    marginals: dict[str, np.ndarray]  # task -> (n, K) consistent probabilities, for one task alone


@dataclass(frozen=True)
class Joint:
    """The labelsets of training and how much they count; made by ``fit_joint``.

    For the most probable labelset, and for counts of labelsets, the tasks have the weight 1 and the prior that of
    ``strength``. The marginals have the ``weights`` (N + 1,) of the tasks and of the prior; None: 1 and 0.
    """

    tasks: Tasks
    labelsets: np.ndarray  # (L, N) class positions, -1 where training had no label and the task answers by itself
    log_ratio: np.ndarray  # (L,) log prior(l) - sum_n log prior_n(l_n)
    strength: float = 0.0
    weights: np.ndarray | None = None

    def decode(self, probabilities: Mapping[str, np.ndarray]) -> Decoded:
        """Decode calibrated probabilities, task -> (n, K), a chunk of images at a time."""
        starts = range(0, max(len(probabilities[next(iter(self.tasks))]), 1), CHUNK)
        parts = [self._decode({task: p[at : at + CHUNK] for task, p in probabilities.items()}) for at in starts]
        marginals = {task: np.concatenate([part.marginals[task] for part in parts]) for task in self.tasks}
        return Decoded(np.concatenate([part.labels for part in parts]), marginals)

    def posterior(self, probabilities: Mapping[str, np.ndarray]) -> np.ndarray:
        """The posterior (n, L) of each training labelset, for counts; keep n small."""
        return softmax(self.evidence(probabilities).sum(axis=0) + self.strength * self.log_ratio, axis=1)

    def evidence(self, probabilities: Mapping[str, np.ndarray], guess: bool = False) -> np.ndarray:
        """Log probability of each task's label in each labelset, (N, n, L); a missing one's is 0, or the highest."""
        found = []
        for task, own in zip(self.tasks, self.labelsets.T, strict=True):
            log = np.log(np.maximum(np.asarray(probabilities[task], float), 1e-30))
            missing = log.max(axis=1) if guess else np.zeros(len(log))
            found.append(np.column_stack([log, missing])[:, own])  # the last column has the position -1
        return np.stack(found)

    def _decode(self, p: Mapping[str, np.ndarray]) -> Decoded:
        score = self.evidence(p, guess=True).sum(axis=0) + self.strength * self.log_ratio
        labels = self.labelsets[score.argmax(axis=1)]
        labels = np.where(labels < 0, np.stack([p[task].argmax(axis=1) for task in self.tasks], axis=1), labels)
        weights = np.append(np.ones(len(self.tasks)), 0.0) if self.weights is None else self.weights
        posterior = softmax(np.tensordot(weights[:-1], self.evidence(p), 1) + weights[-1] * self.log_ratio, axis=1)
        marginals = {}
        for task, own in zip(self.tasks, self.labelsets.T, strict=True):
            mass = posterior @ np.eye(len(self.tasks[task]) + 1)[own]  # (n, K + 1), in the last column without a label
            marginals[task] = mass[:, :-1] + mass[:, -1:] * p[task]
        return Decoded(labels, marginals)


def fit_joint(
    probabilities: Mapping[str, np.ndarray], true: np.ndarray, labelsets: np.ndarray, counts: np.ndarray, tasks: Tasks
) -> Joint:
    """Fit the strength of the prior for the best exact match, and the weights (0 to 1) for the most likely marginals.

    Parameters
    ----------
    probabilities, true : Task -> (n, K), calibrated, and reference positions (n, N), of validation images.
    labelsets, counts : Distinct labelsets of training (L, N), -1 = not annotated as in ``true``, and their images (L,).
    """
    labelsets, counts = completed(np.asarray(labelsets, np.int64), np.array(counts, float))
    ratio = np.log(counts / counts.sum())
    for own in labelsets.T:
        has = own >= 0
        share = np.bincount(own[has], weights=counts[has]) / counts[has].sum()
        ratio[has] -= np.log(share[own[has]])
    joints = [Joint(tasks, labelsets, ratio, float(strength)) for strength in np.linspace(0, 1, 11)]
    right = [((one.decode(probabilities).labels == true) | (true < 0)).all(axis=1).sum() for one in joints]
    joint = joints[np.argmax(right)]
    use = np.random.default_rng(0).permutation(len(true))[:CHUNK]
    chosen = {task: np.asarray(probabilities[task], float)[use] for task in tasks}
    return replace(joint, weights=_weights(joint, chosen, true[use]))


def _weights(joint: Joint, p: Mapping[str, np.ndarray], true: np.ndarray) -> np.ndarray:
    """The weights (N + 1,) that maximise the mean log of the marginals' probabilities of the true classes (n, N)."""
    evidence, fits = joint.evidence(p), []
    evidence = np.concatenate([evidence, np.broadcast_to(joint.log_ratio, (1, *evidence.shape[1:]))])
    for task, truth, label in zip(joint.tasks, true.T, joint.labelsets.T, strict=True):
        rows = np.flatnonzero(truth >= 0)  # how far each labelset agrees with them: a missing label, as p does
        fits.append((rows, np.where(label < 0, p[task][rows, truth[rows]][:, None], label == truth[rows][:, None])))

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        posterior = softmax(np.tensordot(weights, evidence, 1), axis=1)
        expected = (evidence * posterior).sum(axis=2)
        total, slope = 0.0, np.zeros(len(weights))
        for rows, fit in fits:
            agree = posterior[rows] * fit + 1e-12
            total -= np.log(agree.sum(axis=1)).sum()
            agree /= agree.sum(axis=1, keepdims=True)
            slope -= ((evidence[:, rows] * agree).sum(axis=2) - expected[:, rows]).sum(axis=1)
        return total / len(true), slope / len(true)

    start = np.append(np.ones(len(joint.tasks)), 0.0)
    return minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(0, 1)] * len(start)).x if len(true) else start
