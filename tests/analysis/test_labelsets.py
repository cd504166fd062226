"""Unseen labelsets against a loop over pairs; contradictions by hand and against what the names of SBST say."""

import numpy as np
from fake_runs import write_study
from hypothesis import given, settings
from hypothesis import strategies as st

from mtclim import SANTIAGO, Tasks
from mtclim.analysis.labelsets import contradictions, excluded, unseen
from mtclim.analysis.study import load_study


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_unseen_by_a_loop(seed):
    rng = np.random.default_rng(seed)
    train, said = rng.integers(-1, (3, 2, 4), (4, 3)), rng.integers(-1, (3, 2, 4), (300, 3))
    agree = [any(all(t < 0 or s < 0 or s == t for s, t in zip(o, r, strict=True)) for r in train) for o in said]
    assert (unseen(said, train) == ~np.array(agree)).all()


def test_contradictions_by_hand():
    tasks = Tasks({"height": ["H1", "H2", "H3-4"], "roof": ["FLT", "PIT"]})
    relations = excluded(np.array([[0, 0], [1, 1], [2, 1]]), np.ones(3), tasks)
    assert contradictions(np.array([[0, 0], [1, 0], [2, 1], [2, 0]]), relations) == 2 / 4  # H2, H3-4 with FLT


def test_tasks_without_a_relation_cannot_contradict():
    labelsets = np.array([[0, 0], [0, 1], [1, 0], [1, 1], [0, -1]])
    assert excluded(labelsets, np.ones(5), Tasks({"a": "xy", "b": "uv"})) == []
    assert np.isnan(contradictions(labelsets, []))


def test_tasks_are_related_where_half_of_the_entropy_goes():
    """H(0.11) is half a bit: two tasks that differ in 10 of 100 images are related, and in 12 they are not."""
    labelsets, tasks = np.array([[0, 0], [0, 1], [1, 0], [1, 1]]), Tasks({"a": "xy", "b": "uv"})
    for apart, related in ((10, True), (12, False)):
        counts = np.array([100 - apart, apart, apart, 100 - apart])
        assert bool(excluded(labelsets, counts, tasks)) == related
    assert excluded(labelsets[:2], np.ones(2), tasks) == [], "a task of one class says nothing of another"


def test_one_contradicted_relation_is_enough():
    never = np.array([[False, True], [False, False]])
    relations = [(0, 1, never), (0, 2, never)]
    assert contradictions(np.array([[0, 1, 0], [0, 0, 0], [1, 1, 1], [0, 0, 1]]), relations) == 2 / 4


def test_contradictions_are_those_of_the_building_types(tmp_path):
    """SBST's names hold material and storeys: the relation found in the labels is the one that the names say."""
    study = load_study(write_study(tmp_path, ("bl",), 1, n=500))
    labelsets, counts = study.training
    pairs = {(a, b): never for a, b, never in excluded(labelsets, counts, SANTIAGO)}
    materials = [name.rsplit("_", 1)[0] for name in SANTIAGO["sbst"]]
    expected = np.array([[material != own for own in materials] for material in SANTIAGO["mat_llrs"]])
    assert {(0, 2), (1, 2)} <= set(pairs) and (0, 1) not in pairs and (pairs[1, 2] == expected).all()
    own = study.predicted[0].astype(int)
    apart = np.array([SANTIAGO["mat_llrs"][m] != materials[s] for m, s in own[:, 1:3]])
    assert contradictions(own, [(1, 2, pairs[1, 2])]) == apart.mean() > 0
    joint = study.decoded.set_index("decoding")
    assert joint.loc["joint", "contradictions"] == 0 < joint.loc["argmax", "contradictions"]
    assert joint.loc["joint", "exact_match"] > joint.loc["argmax", "exact_match"]
