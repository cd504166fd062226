"""Tasks, their readable names and their YAML; the table of variants."""

import pytest
import yaml

from mtclim.tasks import SANTIAGO, Tasks, ordinal
from mtclim.variants import CONTROLS, RIVALS, VARIANT_TABLE, VARIANTS, ordered, title


def test_titles_are_readable_names_and_default_to_the_name():
    tasks = Tasks({"roof": ["FLT", "PIT"], "use": ["a", "b:c"]}, {"roof": "roof shape", "use:b:c": "both"})
    assert (tasks.title("roof"), tasks.title("use")) == ("roof shape", "use")
    assert (tasks.title("use", "b:c"), tasks.title("roof", "FLT")) == ("both", "FLT")
    assert Tasks(tasks.to_dict(), tasks.titles).titles == tasks.titles
    assert tasks == Tasks(tasks.to_dict()), "titles don't decide what a weight means"
    with pytest.raises(ValueError, match=r"titles of \['roof:flt'\]"):
        Tasks({"roof": ["FLT", "PIT"]}, {"roof:flt": "flat"})


def test_santiago_has_a_title_for_every_task_and_class():
    assert set(SANTIAGO.titles) == {*SANTIAGO, *SANTIAGO.columns} - {"height"}, "height is readable as it is"
    assert SANTIAGO.sizes == (6, 7, 14, 3, 5)
    assert SANTIAGO.title("sbst") == "seismic building structural type"
    assert SANTIAGO.title("sbst", "W,UNK_H1-2") == "wooden or non-engineered, 1 to 2 storeys"
    assert SANTIAGO.title("mat_llrs", "MUR") == "unreinforced masonry"


def test_yaml_lists_classes_or_gives_them_titles(tmp_path):
    content = {
        "plain": ["no", "2.0"],
        "named": {"title": "a name", "classes": ["x", "y"]},
        "full": {"classes": {"p": "the p", "q": "the q"}},
    }
    (tmp_path / "tasks.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    tasks = Tasks.from_yaml(tmp_path / "tasks.yaml")
    assert tasks.to_dict() == {"plain": ["no", "2.0"], "named": ["x", "y"], "full": ["p", "q"]}
    assert tasks.titles == {"named": "a name", "full:p": "the p", "full:q": "the q"}
    for wrong in ("- a", "roof: flat", "roof: {title: t}", "roof: {classes: [a, b], colour: red}", "roof: {"):
        (tmp_path / "wrong.yaml").write_text(wrong)
        with pytest.raises(ValueError, match=r"wrong\.yaml: "):
            Tasks.from_yaml(tmp_path / "wrong.yaml")


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        ({}, "no task"),
        ({" ": ["a", "b"]}, "empty or contains ':'"),
        ({"a:b": ["a", "b"]}, "empty or contains ':'"),
        ({"Mean": ["a", "b"]}, "the mean over tasks"),
        ({"roof": ["a"]}, "at least two"),
        ({"roof": ["a", "b", "a"]}, r"repeated or empty class names \['a'\]"),
        ({"roof": ["a", " "]}, "repeated or empty"),
    ],
)
def test_impossible_tasks_are_refused_with_the_reason(classes, words):
    with pytest.raises(ValueError, match=words):
        Tasks(classes)


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (SANTIAGO["height"], True),
        (("1", "2", "10", "10+"), True),
        (("<1950", "1950-1979", ">1979"), True),
        (("0.5", "1", "1.5"), True),
        (("1", "10", "2"), False),
        (("H1a", "H1b", "H1c"), False),
        (("1", "2"), False),
        (SANTIAGO["mat_llrs"], False),
        (SANTIAGO["sbst"], False),
        (SANTIAGO["roof_shape"], False),
    ],
)
def test_ordinal_classes_are_ranges_in_rising_order(classes, expected):
    assert ordinal(classes) == expected


def test_variants_are_table_2_then_controls_then_rivals():
    assert len(VARIANTS) == 12 and tuple(VARIANT_TABLE) == VARIANTS + CONTROLS + RIVALS
    assert ordered(reversed([*VARIANT_TABLE, "zz", "bl"])) == [*VARIANT_TABLE, "zz"]
    assert len({title(name) for name in VARIANT_TABLE}) == len(VARIANT_TABLE)
    assert title("lim_ms_all-detach") == "LIM-MS_ALL, detached" and title("bl_fc") == "BL-FC"
    assert VARIANT_TABLE["lim_ms_all"].losses == ("L1", "L2", "L3", "L4")
    assert VARIANT_TABLE["stc"].losses == ("L_STC",) and VARIANT_TABLE["stc"].modules == ()
