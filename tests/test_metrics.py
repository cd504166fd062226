"""Metrics against scikit-learn, with missing labels and absent classes."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, cohen_kappa_score, f1_score

from mtclim import Tasks, metrics


@given(st.integers(2, 14), st.integers(1, 80), st.integers(0, 2**31))
def test_scores_agree_with_scikit_learn(n_classes, n, seed):
    rng = np.random.default_rng(seed)
    true = rng.integers(-1, n_classes, n)
    predicted = np.where(rng.random(n) < 0.6, np.maximum(true, 0), rng.integers(0, n_classes, n))
    oa, kappa, f1 = metrics.scores(true, predicted, n_classes)
    use = true >= 0
    if not use.any():
        assert np.isnan(oa) and np.isnan(kappa)
        return
    labels = list(range(n_classes))
    assert oa == pytest.approx(accuracy_score(true[use], predicted[use]), abs=1e-12)
    expected = f1_score(true[use], predicted[use], labels=labels, average=None, zero_division=0)
    expected[~np.isin(labels, true[use])] = np.nan  # a class without a reference row has no F1
    np.testing.assert_allclose(f1, expected, rtol=0, atol=1e-12)
    if len(set(true[use]) | set(predicted[use])) == 1:
        assert kappa == 0.0
    else:
        assert kappa == pytest.approx(cohen_kappa_score(true[use], predicted[use], labels=labels), abs=1e-12)


def test_rows_without_a_reference_or_a_prediction_do_not_count():
    assert metrics.confusion([0, 1, 1, -1], [0, -1, 1, 1], 2).tolist() == [[1, 0], [0, 1]]


def test_metrics_shape_and_missing_labels():
    tasks = Tasks({"a": ["x", "y"], "b": ["u", "v", "w"], "c": ["p", "q"]})
    frame = pd.DataFrame(
        {
            "a:true": ["x", None, "y", "y"], "a:pred": ["x", "y", "y", "x"],
            "b:true": ["u", "v", np.nan, "v"], "b:pred": ["u", "v", "w", "v"],
            "c:true": [None] * 4, "c:pred": ["p"] * 4,
        }
    )  # fmt: skip
    result = metrics.metrics(frame, tasks)
    assert list(result) == ["a", "b", "c", "mean"] and list(result["b"]["f1"]) == ["u", "v", "w"]
    assert result["a"]["oa"] == pytest.approx(2 / 3) and result["b"]["oa"] == 1.0
    assert result["b"]["f1"] == {"u": 1.0, "v": 1.0, "w": None}, "w is in no annotated row"
    assert result["c"] == {"oa": None, "kappa": None, "f1": {"p": None, "q": None}}
    assert result["mean"]["oa"] == pytest.approx((2 / 3 + 1) / 2)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert metrics.codes(pd.Series(["y", None, "x"], dtype="string"), ("x", "y")).tolist() == [1, -1, 0]
    with pytest.raises(ValueError, match=r"a:pred.*found \['z'\].*expected one of \['x', 'y'\]"):
        metrics.metrics(frame.assign(**{"a:pred": "z"}), tasks)


def test_fit_temperature_recovers_the_true_one():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20_000, 5)) * 2
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    y = (p.cumsum(1) > rng.random((len(p), 1))).argmax(1)
    y[:500] = -1
    assert metrics.fit_temperature(logits * 3, y) == pytest.approx(3, rel=0.05)
    sharp = metrics.rescale(p, 1 / 3)
    assert metrics.fit_temperature(np.log(sharp), y) == pytest.approx(3, rel=0.05)
    np.testing.assert_allclose(metrics.rescale(sharp, 3.0), p, atol=1e-9)
    assert metrics.fit_temperature(logits, np.full(len(y), -1)) == 1.0
    assert metrics.fit_temperature(np.empty((0, 3)), np.empty(0)) == 1.0
    with pytest.raises(ValueError, match="found NaN in 1 of 2 rows"):
        metrics.fit_temperature(np.array([[0.0, np.nan], [0, 1]]), np.array([0, 1]))
    with np.errstate(divide="ignore"):
        assert 0.04 < metrics.fit_temperature(np.log(np.eye(3)), np.arange(3)) < 20


def test_a_temperature_stays_within_its_limits():
    """The surer the better, and the less sure the better."""
    assert metrics.fit_temperature(np.eye(3), np.arange(3)) == pytest.approx(0.05, rel=0.01)
    assert metrics.fit_temperature(np.eye(3), np.array([1, 2, 0])) == pytest.approx(20, rel=0.01)


def test_one_answer_that_is_wrong_although_quite_sure_does_not_decide_the_temperature():
    """Calibrated answers, three quarters of them right, and one with the probability 0 of its true class."""
    logits, true = np.tile([0.0, np.log(3)], (400_000, 1)), (np.arange(400_000) % 4 > 0).astype(int)
    logits[-1] = 0, -np.inf
    assert metrics.fit_temperature(logits, true) == pytest.approx(1, abs=0.2)
