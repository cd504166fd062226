"""The joint posterior against a loop over labelsets."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from mtclim import Tasks
from mtclim.analysis import joint
from mtclim.analysis.joint import Joint, fit_joint
from mtclim.analysis.labelsets import unseen

TASKS = Tasks({"a": ["x", "y", "z"], "b": ["u", "v"], "c": ["p", "q", "r", "s"]})
seeds = st.integers(0, 2**32 - 1)


def problem(seed: int, missing: bool, n: int = 5):
    """Random probabilities (n images), distinct labelsets and their counts."""
    rng = np.random.default_rng(seed)
    probabilities = {t: rng.dirichlet(np.ones(k), n) for t, k in zip(TASKS, TASKS.sizes, strict=True)}
    labelsets = np.unique(rng.integers(-1 if missing else 0, TASKS.sizes, (6, 3)), axis=0)
    return probabilities, labelsets, rng.integers(1, 9, len(labelsets)).astype(float)


def by_loop(p: list[np.ndarray], labelsets, log_ratio, weights):
    """(labelset of training, complete labelset) -> posterior, for one image: missing labels are filled in every way."""
    mass = {}
    for i, own in enumerate(labelsets):
        for full in product(*(range(k) if label < 0 else [label] for label, k in zip(own, TASKS.sizes, strict=True))):
            power = np.where(own < 0, 1.0, weights[:-1])  # a task whose label is missing answers as it is
            part = np.prod([p[n][k] ** power[n] for n, k in enumerate(full)])
            mass[i, full] = np.exp(weights[-1] * log_ratio[i]) * part
    total = sum(mass.values())
    return {key: value / total for key, value in mass.items()}


@settings(max_examples=60, deadline=None)
@given(seeds, st.booleans(), st.sampled_from([0.0, 0.3, 1.0]))
def test_decoding_by_a_loop(seed, missing, strength):
    probabilities, labelsets, counts = problem(seed, missing)
    rng = np.random.default_rng(seed)
    ratio, weights = rng.normal(0, 1, len(labelsets)), rng.uniform(0, 1, 4)
    found = Joint(TASKS, labelsets, ratio, strength, weights).decode(probabilities)
    for i in range(len(found.labels)):
        own = [p[i] for p in probabilities.values()]
        mass = by_loop(own, labelsets, ratio, np.array([1, 1, 1, strength]))
        best = max(value for (_, full), value in mass.items() if full == tuple(found.labels[i]))
        assert best == pytest.approx(max(mass.values()))
        mass = by_loop(own, labelsets, ratio, weights)
        for n, task in enumerate(TASKS):
            for k in range(TASKS.sizes[n]):
                expected = sum(m for (_, full), m in mass.items() if full[n] == k)
                assert found.marginals[task][i, k] == pytest.approx(expected, abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(seeds)
def test_answers_are_labelsets_of_training(seed):
    probabilities, labelsets, counts = problem(seed, missing=False)
    truth = labelsets[np.random.default_rng(seed).integers(0, len(labelsets), 5)]
    fitted = fit_joint(probabilities, truth, labelsets, counts, TASKS)
    found = fitted.decode(probabilities)
    assert not unseen(found.labels, labelsets).any()
    expected = np.log(counts / counts.sum())
    for n in range(3):
        expected -= np.log([counts[labelsets[:, n] == k].sum() / counts.sum() for k in labelsets[:, n]])
    np.testing.assert_allclose(fitted.log_ratio, expected, atol=1e-12)


def test_full_strength_is_bayes_rule():
    """Independent measurements of a labelset drawn from the prior: no decoder is right more often than Bayes'."""
    rng = np.random.default_rng(0)
    labelsets, prior = np.array([[0, 0, 0], [1, 1, 1], [2, 0, 3]]), np.array([0.9, 0.05, 0.05])
    n = 6000
    truth = labelsets[rng.choice(3, n, p=prior)]
    probabilities = {}
    for k, (task, size) in enumerate(zip(TASKS, TASKS.sizes, strict=True)):
        share = np.bincount(labelsets[:, k], weights=prior, minlength=size)
        likely = np.exp(0.6 * rng.normal(0, 1, (n, size)) + 0.9 * np.eye(size)[truth[:, k]])  # p(measurement | class)
        probabilities[task] = share * likely / (share * likely).sum(1, keepdims=True)
    fitted = fit_joint(probabilities, truth, labelsets, prior * 1000, TASKS)
    right = {s: (Joint(TASKS, labelsets, fitted.log_ratio, s).decode(probabilities).labels == truth).all(1).mean()
             for s in (0.0, 1.0)}  # fmt: skip
    assert fitted.strength >= 0.8 and right[1.0] > right[0.0]
    assert (fitted.weights >= 0.8).all(), "independent measurements count in full"
    truth[:, 2] = -1  # which the first task tells anyway
    assert fit_joint(probabilities, truth, labelsets, prior * 1000, TASKS).strength == fitted.strength


@settings(max_examples=30, deadline=None)
@given(seeds)
def test_the_strength_is_the_best_of_eleven(seed):
    probabilities, labelsets, counts = problem(seed, missing=False, n=60)
    truth = labelsets[np.random.default_rng(seed).integers(0, len(labelsets), 60)]
    fitted = fit_joint(probabilities, truth, labelsets, counts, TASKS)
    right = [(Joint(TASKS, labelsets, fitted.log_ratio, s).decode(probabilities).labels == truth).all(1).sum()
             for s in (fitted.strength, *np.linspace(0, 1, 11))]  # fmt: skip
    assert right[0] == max(right)


def test_a_task_that_repeats_another_does_not_count_twice():
    """Two copies of one measurement: the posterior is as sure as one of them is, and no surer."""
    rng, n = np.random.default_rng(1), 4000
    tasks = Tasks({"a": ["x", "y"], "b": ["u", "v"]})
    p = rng.beta(1.2, 1.2, n)
    truth = (rng.random(n) < p).astype(int)
    own = np.stack([1 - p, p], axis=1)
    fitted = fit_joint({"a": own, "b": own}, np.stack([truth] * 2, 1), np.array([[0, 0], [1, 1]]), np.ones(2), tasks)
    found = fitted.decode({"a": own, "b": own}).marginals
    assert np.abs(found["a"] - own).max() < 0.05 and np.array_equal(found["a"], found["b"])
    assert (
        np.abs(Joint(tasks, fitted.labelsets, fitted.log_ratio).decode({"a": own, "b": own}).marginals["a"] - own).max()
        > 0.1
    )


@settings(max_examples=15, deadline=None)
@given(seeds)
def test_the_weights_are_the_most_likely_ones(seed):
    """No weights from a search by another method, with another loss, are likelier on the same images."""
    probabilities, labelsets, counts = problem(seed, missing=True, n=40)
    truth = np.random.default_rng(seed).integers(-1, TASKS.sizes, (40, 3))
    fitted = fit_joint(probabilities, truth, labelsets, counts, TASKS)

    def loss(weights):
        one = Joint(TASKS, fitted.labelsets, fitted.log_ratio, 0.0, weights)
        parts = [one.decode(probabilities).marginals[task] for task in TASKS]
        return -sum(np.log(p[t >= 0, t[t >= 0]] + 1e-12).sum() for p, t in zip(parts, truth.T, strict=True))

    other = minimize(loss, np.full(4, 0.5), method="Powell", bounds=[(0, 1)] * 4, options={"maxiter": 300})
    assert loss(fitted.weights) <= other.fun + 1e-2 * abs(other.fun)


def test_incomplete_labelsets_stand_for_those_that_complete_them():
    labelsets, counts = np.array([[0, 0, 0], [0, 1, 1], [0, -1, -1], [2, -1, 3]]), np.array([1.0, 3.0, 4.0, 1.0])
    p = {task: np.full((1, k), 1 / k) for task, k in zip(TASKS, TASKS.sizes, strict=True)}
    fitted = fit_joint(p, np.full((1, 3), -1), labelsets, counts, TASKS)
    assert fitted.labelsets.tolist() == [[0, 0, 0], [0, 1, 1], [2, -1, 3]]
    share = np.exp(fitted.log_ratio[:2]) * (8 / 9) * np.array([[2 / 8, 2 / 9], [6 / 8, 6 / 9]]).prod(1)
    np.testing.assert_allclose(share, [2 / 9, 6 / 9])
    assert fitted.strength == 0, "no validation image says more"
    assert fitted.weights.tolist() == [1, 1, 1, 0]


def test_chunks_do_not_show(monkeypatch):
    probabilities, labelsets, counts = problem(3, True, n=50)
    fitted = fit_joint(probabilities, np.zeros((50, 3), int), labelsets, counts, TASKS)
    whole = fitted.decode(probabilities)
    monkeypatch.setattr(joint, "CHUNK", 7)
    parts = fitted.decode(probabilities)
    assert (whole.labels == parts.labels).all()
    np.testing.assert_allclose(whole.marginals["c"], parts.marginals["c"])
    assert fitted.decode({task: p[:0] for task, p in probabilities.items()}).labels.shape == (0, 3)
