"""Configuration: the paper's numbers, overrides, and errors that list what is valid."""

import re
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import yaml

from mtclim import VARIANTS, load_config
from mtclim.config import Config, resolve, run_folder, to_dict

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


@pytest.mark.parametrize("preset", ["demo", "photos", "study", "paper"])
def test_presets_name_every_setting_that_results_depend_on(preset):
    """What a preset leaves out is another place to look for a number; only paths and switches may be left out."""
    written = set(yaml.safe_load((CONFIGS / f"{preset}.yaml").read_text()))
    may = {"name", "seed", "tasks", "out", "tag", "weights", "max_unreadable", "missing", "noise"}
    may |= {"image_root", "na_values", "use_split", "order_seed"}
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
    assert load_config("demo", seed=0, pretrained=False).seed == 0


def test_a_backbone_of_the_study_brings_its_tag_and_size_unless_given():
    assert load_config("paper", backbone="tf_efficientnetv2_b3", image_size=128).image_size == 128
    other = load_config("paper", backbone="resnet18")
    assert (other.timm_name, other.image_size) == ("resnet18", 224)


@pytest.mark.parametrize(
    "preset, overrides, parts",
    [
        ("dmo", {}, ["'dmo'", "demo, paper, photos, study", "path of a YAML"]),
        ("demo", {"variant": "lim_ms"}, ["'lim_ms'", *VARIANTS, "bl_fc"]),
        ("demo", {"batchsize": 3}, ["unknown setting batchsize", "batch_size", "learning_rate"]),
        ("demo", {"seed": "one"}, ["seed is 'one'", "int"]),
        ("demo", {"seed": 1.5}, ["seed is 1.5", "int"]),
        ("demo", {"pretrained": "maybe"}, ["pretrained is 'maybe'", "bool"]),
        ("demo", {"keep": 0}, ["keep: found 0.0", "(0, 1]"]),
        ("demo", {"keep": 85}, ["keep: found 85.0", "(0, 1]"]),
        ("demo", {"learning_rate": "nan"}, ["learning_rate: found nan", "(0, inf)"]),
        ("demo", {"batch_size": -1}, ["batch_size: found -1", "[2, inf)"]),
        ("demo", {"val_share": 0.3}, ["found (0.65, 0.3, 0.175)", "whose sum is 1"]),
    ],
)
def test_errors_say_what_was_found_and_what_is_valid(preset, overrides, parts):
    with pytest.raises(ValueError) as caught:
        load_config(preset, **overrides)
    assert all(part in str(caught.value) for part in parts), caught.value


OUTSIDE = {
    "variant": "lim_ms", "backbone": " ", "tasks": "none.yaml", "out": "runs/mine.partial", "image_root": "nowhere",
    "weights": "none.safetensors", "precision": "8-true", "class_weights": "{height: {H1: 0}}", "na_values": "NA",
    "max_unreadable": 2, "keep": 0, "interdependency": -0.1, "ambiguity": 1.5, "missing": 1, "noise": "nan",
    "study": 3, "use_split": "perhaps", "pretrained": "perhaps", "image_size": 31, "batch_size": 1, "seed": -1,
    "learning_rate": 0, "l2": -1, "city_size": 32, "train_share": 1, "lr_factor": 1, "city_labelled": 999999,
}  # fmt: skip
ANYTHING = {"name", "data", "tag"}


@pytest.mark.parametrize("setting", [field.name for field in fields(Config) if field.name not in ANYTHING])
def test_every_setting_is_refused_outside_its_range(setting):
    with pytest.raises(ValueError, match=setting):
        load_config("demo", {setting: OUTSIDE.get(setting, -1)})


def test_a_preset_may_leave_settings_empty_and_yaml_words_are_not_taken_for_texts(tmp_path):
    (tmp_path / "p.yaml").write_text("out:\ntasks:\nclass_weights:\nna_values: [-99, missing]\n")
    config = load_config(tmp_path / "p.yaml")
    assert (config.out, config.tasks, config.class_weights, config.na_values) == ("", "", "", ["-99", "missing"])
    for word in ("NULL", "no"):
        with pytest.raises(ValueError, match="na_values: found .*, which YAML makes of a word such as .*in quotes"):
            load_config("demo", f"{{na_values: [{word}]}}")
    weights = {2020: dict(zip(["flat", "hip"], np.array([1, 2.5], np.float32), strict=True))}
    settings = to_dict(load_config("demo", class_weights=weights))
    assert settings["class_weights"] == {"2020": {"flat": 1.0, "hip": 2.5}} and yaml.safe_dump(settings)


def test_settings_outside_their_range_are_named_together():
    with pytest.raises(ValueError, match=r"batch_size: found 1; .* learning_rate: found -1.0; .* variant: found 'x';"):
        load_config("demo", batch_size=1, learning_rate=-1, variant="x")


def test_the_preset_follows_from_the_data_unless_it_is_given(tmp_path):
    assert load_config().name == load_config("", data="city").name == "demo"
    assert load_config(data=tmp_path / "mine.csv").name == load_config("", {"data": "mine.csv"}).name == "photos"
    assert load_config("demo", data="mine.csv").name == "demo"


@pytest.mark.parametrize(
    "text, part",
    [("[1, 2]", "mapping"), ("just a word", "mapping"), ("", "mapping"), ("a: [1", "mapping"),
     ("study: 3", "study is 3"), ("1: 2", "unknown setting 1")],
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
    for wrong, part in (("max_epochs 3", "overrides: found max_epochs 3"),
                        ("{max_epoch: 3}", "unknown setting max_epoch;"),
                        ("{seed: 2}", r"seed \(0 and 2\) given twice")):  # fmt: skip
        with pytest.raises(ValueError, match=part):
            load_config("demo", wrong, seed=0)


def test_run_folder_follows_from_what_was_chosen(tmp_path, monkeypatch):
    root = CONFIGS.parents[1] / "runs"
    lite = "tf_efficientnet_lite0"
    assert run_folder(load_config("demo", variant="bl")) == root / "demo" / lite / "bl" / "seed-0"
    assert run_folder(load_config("demo", out=tmp_path / "mine")) == tmp_path / "mine"
    assert not {"out", "study"} & set(to_dict(load_config("demo")))
    folders = {}
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "my {new} houses.csv").write_text("image,roof\n")
        folders[place] = run_folder(load_config("demo", data=tmp_path / place / "my {new} houses.csv", seed=2))
    assert folders["one"] != folders["two"], "two tables of one name"
    assert re.fullmatch(r"demo-my_new_houses-[0-9a-f]{8}", folders["one"].parents[2].name)
    monkeypatch.chdir(tmp_path / "one")
    relative = load_config("demo", data="../one/my {new} houses.csv", seed=2)
    assert run_folder(relative) == folders["one"], "the same table in another spelling"
    (tmp_path / "one" / "my {new} houses.csv").write_text("image,roof\na.jpg,flat\n")
    assert run_folder(relative) != folders["one"], "the table has changed"
    layers = [run_folder(load_config("demo", data=tmp_path / f"a.gpkg|layername={name}")) for name in "xy"]
    (tmp_path / "a.gpkg").touch()
    monkeypatch.chdir(tmp_path)
    assert resolve("a.gpkg|layername=x") == Path("a.gpkg|layername=x"), "a named layer of a file that is here"
    (tmp_path / "a.gpkg").write_bytes(b"more")
    assert len({*layers, run_folder(load_config("demo", data=tmp_path / "a.gpkg|layername=x"))}) == 3


def test_a_presets_own_tag_holds_for_a_backbone_that_its_study_does_not_list(tmp_path):
    (tmp_path / "mine.yaml").write_text("backbone: resnet18\ntag: a1_in1k\n")
    assert load_config(tmp_path / "mine.yaml").timm_name == "resnet18.a1_in1k"
    assert load_config(tmp_path / "mine.yaml", backbone="resnet50").timm_name == "resnet50"
