"""Make tables of images from two public sets of photographs: ``python book/real_tables.py NAME CHECKOUT``.

NAME is ``grocery`` (github.com/marcusklasson/GroceryStoreDataset, Klasson et al. 2019) or ``coffee_leaves``
(github.com/esgario/lara2018, Esgario et al. 2020), CHECKOUT the folder of a clone of it. ``table.csv`` and
``tasks.yaml`` are written there; the photographs stay where they are, under the licence of their authors.
"""

import sys
from pathlib import Path

import pandas as pd
import yaml

YES_NO = ["no", "yes"]
STRESSES = ["healthy", "leaf miner", "rust", "phoma", "cercospora"]
LEAF_TASKS = {
    "predominant_stress": STRESSES,
    **dict.fromkeys(["miner", "rust", "phoma", "cercospora"], YES_NO),
    "severity": ["healthy", "very low", "low", "high", "very high"],
}


def words(name: str) -> str:
    """A class name of the set as words."""
    return name.strip().replace("-", " ").lower()


def grocery(checkout: Path) -> tuple[pd.DataFrame, dict]:
    """Three nested tasks (item, kind, group) and the authors' own split."""
    folder = checkout / "dataset"
    classes = pd.read_csv(folder / "classes.csv").iloc[:, :4].set_axis(["item", "i", "kind", "k"], axis=1)
    items = classes.set_index("i")["item"].map(words).sort_index()
    kinds = classes.drop_duplicates("k").set_index("k")["kind"].map(words).sort_index()
    parts = []
    for split in ("train", "val", "test"):
        listed = pd.read_csv(folder / f"{split}.txt", names=["image", "i", "k"], skipinitialspace=True)
        parts.append(listed.assign(split=split))
    rows = pd.concat(parts, ignore_index=True)
    group = rows["image"].str.split("/").str[1].str.lower()
    table = pd.DataFrame({"image": "dataset/" + rows["image"], "split": rows["split"]})
    table = table.assign(item=rows["i"].map(items), kind=rows["k"].map(kinds), group=group)
    return table, {"item": list(items), "kind": list(kinds), "group": ["fruit", "vegetables", "packages"]}


def coffee_leaves(checkout: Path) -> tuple[pd.DataFrame, dict]:
    """Six tasks: the worst stress on a leaf, each stress by itself, and how severe it is."""
    folder = "classification/dataset"
    rows = pd.read_csv(checkout / folder / "dataset.csv")
    table = pd.DataFrame({"image": [f"{folder}/leaf/{number}.jpg" for number in rows["id"]]})
    for task, classes in LEAF_TASKS.items():
        table[task] = rows[task].map(dict(enumerate(classes)))
    return table, LEAF_TASKS


def main() -> None:
    """Write the table and the tasks into the checkout and print what was made."""
    sets = {"grocery": grocery, "coffee_leaves": coffee_leaves}
    if len(sys.argv) != 3 or sys.argv[1] not in sets:
        sys.exit(f"{__doc__}\nFound the arguments {sys.argv[1:]}; expected one of {', '.join(sets)} and a folder.")
    checkout = Path(sys.argv[2])
    table, tasks = sets[sys.argv[1]](checkout)
    table.to_csv(checkout / "table.csv", index=False)
    plain = {task: list(classes) for task, classes in tasks.items()}
    (checkout / "tasks.yaml").write_text(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True), encoding="utf-8")
    print(f"{checkout / 'table.csv'}: {len(table):,} photographs, tasks {', '.join(tasks)}")


if __name__ == "__main__":
    main()
