"""The city's writer: deterministic whatever the workers, resumable, and refusing to mix cities."""

import hashlib

import pandas as pd
import pytest

from mtclim.city import make_city

SMALL = {"facades": 260, "labelled": 150, "size": 64, "progress": False}


def digest(folder):
    content = b"".join(path.read_bytes() for path in sorted(folder.rglob("*.jpg")))
    return hashlib.sha256(content).hexdigest()


@pytest.fixture(scope="module")
def city(tmp_path_factory):
    folder = tmp_path_factory.mktemp("city") / "one"
    make_city(folder, workers=1, **SMALL)
    return folder


def test_tables(city):
    images, truth = pd.read_parquet(city / "images.parquet"), pd.read_parquet(city / "truth.parquet")
    assert len(images) == len(truth) == 260 and images["height"].notna().sum() == 150
    assert all((city / name).exists() for name in images["image"])
    known = images["height"].notna()
    assert (images.loc[known, "sbst"].astype(str) == truth.loc[known, "sbst"].astype(str)).all()


def test_workers_and_resuming_change_nothing(city, tmp_path):
    other = tmp_path / "two"
    make_city(other, workers=2, **SMALL)
    assert digest(other) == digest(city)
    (other / "city.json").rename(other / "city.partial.json")
    for path in sorted(other.rglob("*.jpg"))[:40]:
        path.unlink()
    make_city(other, workers=1, **SMALL)
    assert digest(other) == digest(city) and not (other / "city.partial.json").exists()


def test_another_city_is_refused(city):
    with pytest.raises(ValueError, match="another city"):
        make_city(city, **{**SMALL, "labelled": 151})
