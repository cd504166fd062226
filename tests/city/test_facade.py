"""Façade drawing: equal arguments give equal bytes, and every class draws at every size."""

import io

import numpy as np
import pytest
from PIL import Image

from mtclim.city.facade import draw
from mtclim.tasks import SANTIAGO

LABELS = ("H2", "MCF", "PIT_GAB", "DET_SP")


def pixels(data):
    return np.asarray(Image.open(io.BytesIO(data)))


def test_equal_arguments_give_equal_bytes():
    assert draw(*LABELS, (3, 7), 96, 0.3, 5) == draw(*LABELS, (3, 7), 96, 0.3, 5)
    assert draw(*LABELS, (3, 7), 96, 0.3, 5) != draw(*LABELS, (3, 8), 96, 0.3, 5)
    assert draw(*LABELS, (3, 7), 96, 0.3, 5) != draw(*LABELS, (3, 7), 96, 0.3, 6)


@pytest.mark.parametrize("size", [64, 300])
def test_what_is_left_out_would_not_show(monkeypatch, size):
    """Buildings and rectangles that are skipped as out of the picture draw nothing where they are drawn after all."""
    labels = [[classes[k % len(classes)] for task, classes in SANTIAGO.items() if task != "sbst"] for k in range(60)]
    asked = [(*chosen, (4, k), size, (0, 0.5, 1)[k % 3], k) for k, chosen in enumerate(labels)]
    spared = [draw(*one) for one in asked]
    everything = (-np.inf, np.inf, -np.inf, np.inf)
    monkeypatch.setattr("mtclim.city.facade._Camera.frame_on_facade", lambda *_: everything)
    monkeypatch.setattr("mtclim.city.facade._in_view", lambda camera, buildings, pixels: [True] * len(buildings))
    assert [draw(*one) for one in asked] == spared


@pytest.mark.parametrize("task", [0, 1, 2, 3])
@pytest.mark.parametrize("ambiguity", [0.0, 1.0])
def test_every_class_draws(task, ambiguity):
    name = ("height", "mat_llrs", "roof_shape", "block_position")[task]
    for k, value in enumerate(SANTIAGO[name]):
        labels = [*LABELS]
        labels[task] = value
        picture = pixels(draw(*labels, (1, k), 64, ambiguity, k))
        assert picture.shape == (64, 64, 3) and picture.std() > 8


@pytest.mark.parametrize("task", [1, 2, 3])
def test_hidden_tasks_do_not_look_at_their_label(task):
    name = ("height", "mat_llrs", "roof_shape", "block_position")[task]
    drawn = set()
    for value in SANTIAGO[name]:
        labels = [*LABELS]
        labels[task] = value
        drawn.add(draw(*labels, (2, 11), 64, 1.0, 4))
    assert len(drawn) == 1


def test_the_four_coins_are_tossed_independently(monkeypatch):
    """Each task is hidden with probability `ambiguity`, whatever the others' coins say: all 16 patterns as they should."""
    from scipy.stats import chisquare

    tossed = []

    def note(d, main, hidden, *_):
        tossed.append(tuple(hidden.values()))
        raise StopIteration  # before anything is drawn

    monkeypatch.setattr("mtclim.city.facade._view", note)
    for i in range(6_000):
        with pytest.raises(StopIteration):
            draw(*LABELS, (0, i), 64, 0.3, 0)
    patterns = np.array(list(np.ndindex(2, 2, 2, 2)))
    counts = [(np.array(tossed) == pattern).all(axis=1).sum() for pattern in patterns]
    expected = 6_000 * np.where(patterns, 0.3, 0.7).prod(axis=1)
    assert chisquare(counts, expected).pvalue > 0.01


def test_whether_a_task_shows_is_up_to_its_own_coin():
    """Whether a label can be seen in a picture is the same whatever class another label has."""
    changed = ("H2", "CR", "FLT", "ADJ_TR")
    for task in (1, 2, 3):
        for i in range(12):
            shown = []
            for other in {1, 2, 3} - {task}:
                labels = [*LABELS]
                labels[other] = changed[other]
                twice = [*labels]
                twice[task] = changed[task]
                shown.append(draw(*labels, (5, i), 64, 0.5, 1) != draw(*twice, (5, i), 64, 0.5, 1))
            assert shown[0] == shown[1]


@pytest.mark.parametrize("size", [64, 99, 100, 159, 160, 224, 300])
def test_sizes(size):
    assert pixels(draw(*LABELS, (1, 2), size)).shape == (size, size, 3)


def test_the_same_picture_at_every_size():
    small = pixels(draw(*LABELS, (9, 1), 64, 0.0, 2)).astype(float)
    large = Image.open(io.BytesIO(draw(*LABELS, (9, 1), 300, 0.0, 2))).resize((64, 64), Image.Resampling.BOX)
    assert np.corrcoef(small.ravel(), np.asarray(large, dtype=float).ravel())[0, 1] > 0.9


@pytest.mark.parametrize("wrong", [{"size": 20}, {"ambiguity": 2}, {"height": "H9"}])
def test_errors(wrong):
    labels = dict(zip(("height", "mat_llrs", "roof_shape", "block_position"), LABELS, strict=True))
    with pytest.raises(ValueError, match="expected"):
        draw(**{**labels, "rng_seed": 0, **wrong})
