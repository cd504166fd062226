"""Configuration: the paper's numbers, overrides, and errors that list what is valid."""

from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from mtclim import VARIANTS, load_config
from mtclim.config import Config, run_folder, to_dict

CONFIGS = Path(__file__).parent.parent / "mtclim" / "presets"

# Section 2.2, section 3, Table 1 and Table 2 of the paper, typed from its text.
PAPER = {
    "keep": 0.85, "train_share": 0.65, "val_share": 0.175, "test_share": 0.175, "clim_units": 32, "tlim_units": 12,
    "batch_size": 24, "learning_rate": 0.0001, "l2": 0.0001, "lr_factor": 0.5, "pretrained": True,
    "city_facades": 204030, "city_labelled": 29567,
}  # fmt: skip


def test_the_papers_preset_is_what_the_paper_states():
    written = yaml.safe_load((CONFIGS / "paper.yaml").read_text())
    config = load_config("paper")
    for name, value in PAPER.items():
        assert getattr(config, name) == value and name in written, name
    study = config.study
    assert study["realisations"] == 11
    assert study["variants"] == list(VARIANTS) and len(VARIANTS) == 12
    for backbone, tag, size in (("densenet121", "tv_in1k", 224), ("tf_efficientnetv2_b3", "in1k", 300)):
        config = load_config("paper", backbone=backbone)
        assert (config.timm_name, config.image_size) == (f"{backbone}.{tag}", size)


@pytest.mark.parametrize("preset", ["demo", "paper"])
def test_presets_name_every_setting_that_results_depend_on(preset):
    """What a preset leaves out is another place to look for a number; only paths and switches may be left to defaults."""
    written = set(yaml.safe_load((CONFIGS / f"{preset}.yaml").read_text()))
    may = {"name", "seed", "tasks", "out", "tag", "weights", "max_unreadable", "detach", "missing", "noise"}
    assert {field.name for field in fields(Config)} - written <= may


def test_what_is_ours_says_so_in_the_papers_preset():
    lines = (CONFIGS / "paper.yaml").read_text().splitlines()
    ours = {
        line.split(":")[0].strip() for line in lines if "ours" in line.partition("#")[2] and ":" in line.split("#")[0]
    }
    assert {"split_seed", "block_cell", "lr_patience", "stop_patience", "max_epochs", "controls"} <= ours
    assert not ours & set(PAPER)


def test_overrides_replace_and_empty_ones_do_not():
    config = load_config(
        "demo", variant="bl", seed="3", backbone="", data=None, pretrained="true", learning_rate="1e-3"
    )
    assert (config.variant, config.seed, config.backbone) == ("bl", 3, load_config("demo").backbone)
    assert config.pretrained is True and config.learning_rate == 1e-3
    assert load_config("demo", seed=0, detach=False).seed == 0


def test_a_backbone_of_the_study_brings_its_tag_and_size_unless_given():
    assert load_config("paper", backbone="tf_efficientnetv2_b3", image_size=128).image_size == 128
    other = load_config("paper", backbone="resnet18")
    assert (other.timm_name, other.image_size) == ("resnet18", 224)


@pytest.mark.parametrize(
    "preset, overrides, parts",
    [
        ("dmo", {}, ["'dmo'", "demo, paper", "path of a YAML"]),
        ("demo", {"variant": "lim_ms"}, ["'lim_ms'", *VARIANTS, "bl_fc"]),
        ("demo", {"batchsize": 3}, ["unknown setting batchsize", "batch_size", "learning_rate"]),
        ("demo", {"seed": "one"}, ["seed is 'one'", "int"]),
        ("demo", {"seed": 1.5}, ["seed is 1.5", "int"]),
        ("demo", {"detach": "maybe"}, ["detach is 'maybe'", "bool"]),
        ("demo", {"keep": 0}, ["keep = 0.0", "[0, 1]"]),
        ("demo", {"keep": 85}, ["keep = 85", "[0, 1]"]),
        ("demo", {"learning_rate": "nan"}, ["learning_rate = nan", "positive"]),
        ("demo", {"batch_size": -1}, ["batch_size = -1", "positive"]),
        ("demo", {"val_share": 0.3}, ["add up to 1.125", "expected 1"]),
    ],
)
def test_errors_say_what_was_found_and_what_is_valid(preset, overrides, parts):
    with pytest.raises(ValueError) as caught:
        load_config(preset, **overrides)
    assert all(part in str(caught.value) for part in parts), caught.value


@pytest.mark.parametrize(
    "text, part",
    [("[1, 2]", "mapping"), ("just a word", "mapping"), ("", "mapping"), ("a: [1", "not YAML"), ("study: 3", "study is 3"),
     ("1: 2", "unknown setting 1")],
)  # fmt: skip
def test_a_file_that_is_no_preset_says_so(tmp_path, text, part):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ValueError, match=part):
        load_config(tmp_path / "mine.yaml")


def test_overrides_of_a_notebook_come_as_yaml_or_as_a_mapping():
    assert load_config("demo", "{max_epochs: 3, tag: ''}", seed=1).max_epochs == 3
    assert (
        load_config("demo", {"max_epochs": 3})
        == load_config("demo", "max_epochs: 3")
        == load_config("demo", max_epochs=3)
    )
    assert load_config("demo", "") == load_config("demo", {}) == load_config("demo")
    for wrong, part in (("max_epochs 3", "overrides: found 'max_epochs 3'"), ("{max_epoch: 3}", "unknown setting max_epoch;"),
                        ("{seed: 2}", r"seed \(0 and 2\) given twice")):  # fmt: skip
        with pytest.raises(ValueError, match=part):
            load_config("demo", wrong, seed=0)


def test_run_folder_follows_from_what_was_chosen(tmp_path, monkeypatch):
    monkeypatch.chdir(CONFIGS.parents[1])
    root = CONFIGS.parents[1] / "runs"
    assert run_folder(load_config("demo", variant="bl")) == root / "demo" / "test_byobnet" / "bl" / "seed-0"
    more = {"variant": "lim", "detach": True, "seed": 2, "data": "somewhere/houses.csv"}
    assert run_folder(load_config("demo", **more)) == root / "demo-houses" / "test_byobnet" / "lim-detach" / "seed-2"
    assert run_folder(load_config("demo", out=tmp_path / "mine")) == tmp_path / "mine"
    assert not {"out", "study"} & set(to_dict(load_config("demo")))
