"""Façade drawing: equal arguments give equal bytes, and every class draws at every size."""

import io

import numpy as np
import pytest
from PIL import Image

from mtclim.city import draw, street
from mtclim.city.street import TASKS
from mtclim.tasks import SANTIAGO

LABELS = ("H2", "MCF", "PIT_GAB", "DET_SP")


def pixels(data):
    return np.asarray(Image.open(io.BytesIO(data)))


def test_equal_arguments_give_equal_bytes():
    assert draw(*LABELS, (3, 7), 96, 0.3, 5) == draw(*LABELS, (3, 7), 96, 0.3, 5)
    assert draw(*LABELS, (3, 7), 96, 0.3, 5) != draw(*LABELS, (3, 8), 96, 0.3, 5)
    assert draw(*LABELS, (3, 7), 96, 0.3, 5) != draw(*LABELS, (3, 7), 96, 0.3, 6)


def test_every_row_of_buildings_fills_the_picture(monkeypatch):
    """Neighbours end beyond the picture: one more at both ends would show in none."""
    spans, frames, view = [], [], street._view
    row = street._row
    monkeypatch.setattr(street, "_row", lambda *args: spans.append(row(*args)) or spans[-1])
    monkeypatch.setattr(street, "_view", lambda *args: frames.append(view(*args)) or frames[-1])
    for k in range(120):
        chosen = [classes[k % len(classes)] for task, classes in SANTIAGO.items() if task != "sbst"]
        draw(*chosen, (4, k), 64, 0, k)
    for buildings, (camera, *_) in zip(spans, frames, strict=True):
        ends = [(min(b.x0 for b in buildings), 0, 0), (max(b.x1 for b in buildings), 0, 0)]
        (left, right), depth = camera.project(ends)[0][:, 0], camera.plane(ends)[1]
        behind = depth <= 0.15 * camera.distance
        assert (left < 0 or behind[0]) and (right > 64 * 4 or behind[1])


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
    """Each task is hidden with probability `ambiguity`, whatever the others' coins: all 16 patterns as they should."""
    from scipy.stats import chisquare

    tossed = []

    def note(d, main, hidden, *_):
        tossed.append(tuple(task in hidden for task in TASKS))
        raise StopIteration  # before anything is drawn

    monkeypatch.setattr("mtclim.city.street._view", note)
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


def test_another_view_is_of_the_same_building():
    """Without ambiguity nothing but the camera and what stands in the street differs."""
    buildings = []
    make = street._buildings
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(street, "_buildings", lambda *args: buildings.append(make(*args)) or buildings[-1])
        pictures = {draw(*LABELS, (3, 7), 64, 0, 5, view) for view in range(4)}
    assert len(pictures) == 4 and all(one == buildings[0] for one in buildings)
    assert draw(*LABELS, (3, 7), 64, 0.3, 5, 0, "facade") == draw(*LABELS, (3, 7), 64, 0.3, 5)


@pytest.mark.parametrize("kind", street.OTHER)
def test_a_view_that_is_no_facade_looks_different(kind):
    for k in range(5):
        facade, other = (pixels(draw(*LABELS, (3, k), 64, 0, 5, 0, shown)).astype(float) for shown in ("facade", kind))
        assert np.abs(facade - other).mean() > 8
    with pytest.raises(ValueError, match="kind 'boat'; expected one of .'facade'"):
        draw(*LABELS, 0, kind="boat")
