"""What the packaging files say agrees: pyproject.toml, environment.yml, constraints.txt, the imports of the package.

And what is installed from them works: from a wheel, in an empty folder, and where an operating system lacks a function.
"""

import ast
import json
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from tiny import environment, make_project

import mtclim

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = {name: wanted for name, wanted in PROJECT["optional-dependencies"].items() if name != "all"}
WORDS = re.compile(r"[-_.]+")


def canonical(name: str) -> str:
    return WORDS.sub("-", name).lower()


def by_name(lines: list[str]) -> dict[str, str]:
    wanted = [Requirement(line) for line in lines]
    return {canonical(one.name): str(one.specifier) for one in wanted}


CORE = by_name(PROJECT["dependencies"])
EVERYTHING = CORE | by_name([line for lines in EXTRAS.values() for line in lines])
PINS = by_name([line for line in (ROOT / "constraints.txt").read_text().splitlines() if line[:1] not in ("", "#")])


def test_environment_and_pyproject_agree():
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())
    plain = [line for line in conda["dependencies"] if isinstance(line, str)]
    pip = next(line["pip"] for line in conda["dependencies"] if isinstance(line, dict))
    assert "-c constraints.txt" in pip and "-e ." in pip
    assert by_name([line for line in pip if not line.startswith("-")]) == EVERYTHING
    python = next(line for line in plain if line.startswith("python=")).removeprefix("python=")
    assert python in Requirement(f"python{PROJECT['requires-python']}").specifier


def test_all_is_every_extra():
    (every,) = PROJECT["optional-dependencies"]["all"]
    assert Requirement(every).extras == set(EXTRAS)


def test_the_packages_of_the_field_are_there():
    wanted = "jupyter jupyter-book papermill torch torchvision timm pandas matplotlib seaborn geopandas contextily"
    assert set(wanted.split()) <= set(EVERYTHING)


def test_constraints_are_versions_that_satisfy_pyproject():
    assert set(EVERYTHING) <= set(PINS)
    for name, pin in PINS.items():
        assert re.fullmatch(r"==[^,*]+", pin), f"{name}{pin} is not one version"
    for name, bound in EVERYTHING.items():
        assert PINS[name].removeprefix("==") in Requirement(f"{name}{bound}").specifier, f"{name}{PINS[name]}: {bound}"
    assert PINS["torch"] != "==2.13.0", "its torchvision fails at import"


def test_what_is_installed_is_what_the_constraints_say():
    differing = {}
    for name in EVERYTHING:
        try:
            found = version(name)
        except PackageNotFoundError:
            continue
        if f"=={found}" != PINS[name]:
            differing[name] = (found, PINS[name])
    if differing:
        pytest.skip(f"another environment than the pinned one: {differing}")


def imports(path: Path) -> tuple[set[str], set[str]]:
    """Third-party modules that a file imports at its top, and those that it imports anywhere."""
    tree = ast.parse(path.read_text(encoding="utf-8"))

    def modules(nodes) -> set[str]:
        found = set()
        for node in nodes:
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                found.add(node.module.split(".")[0])
        return found - set(sys.stdlib_module_names) - {"mtclim"}

    return modules(tree.body), modules(ast.walk(tree))


KNOWN = packages_distributions()  # module -> distributions


def distributions(modules: set[str]) -> set[str]:
    return {canonical(KNOWN.get(module, [module])[0]) for module in modules}


FILES = sorted((ROOT / "mtclim").rglob("*.py"))
NEED_EXTRAS = {"areas.py", "buildings.py", "exposure.py", "maps.py", "page.py", "plan.py"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_the_package_imports_is_declared(path):
    top, anywhere = imports(path)
    allowed = set(EVERYTHING) if path.name in NEED_EXTRAS else set(CORE)
    assert distributions(top) <= allowed, "a core module may import only core dependencies at its top"
    assert distributions(anywhere) <= set(EVERYTHING) | {"click", "openquake-engine", "pillow-heif"}


def test_import_is_light():
    script = """
import sys, mtclim
heavy = {"torch", "pandas", "geopandas", "papermill", "snakemake", "matplotlib"} & set(sys.modules)
assert not heavy, heavy
import mtclim.training, mtclim.mapping.predict, mtclim.city
assert not {"geopandas", "papermill", "snakemake"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)


def listed_order() -> list[str]:
    """The modules in the order of CONTRIBUTING.md."""
    return re.search(r"```text\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.S)[1].split()


def module(path: Path) -> str:
    """A file of the package as the list names it: "data.table", and a folder for its __init__.py."""
    parts = path.relative_to(ROOT / "mtclim").with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def own_imports(path: Path) -> set[str]:
    """The package's modules that a file imports anywhere."""
    modules, found = {module(file) for file in FILES}, set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            ours = {name for name in names if name.removeprefix("mtclim.") in modules}
            public = {f"mtclim.{mtclim._HOME.get(alias.name, '')}" for alias in node.names}
            found |= ours or (public if node.module == "mtclim" else {node.module})
    return {name.removeprefix("mtclim.") for name in found if name.startswith("mtclim.")} - {""}


def test_contributing_lists_every_module_once():
    plain = {module(path) for path in FILES if len(ast.parse(path.read_text()).body) > 1} - {""}
    assert sorted(listed_order()) == sorted(plain)


@pytest.mark.parametrize("path", FILES, ids=module)
def test_a_module_imports_only_from_those_before_it(path):
    if (name := module(path)) in (order := listed_order()):
        later = set(order[order.index(name) :])
        assert not own_imports(path) & later, f"CONTRIBUTING.md lists these after {name}, or it imports itself"


@pytest.mark.parametrize("path", FILES, ids=module)
def test_functions_of_more_than_two_parameters_say_what_these_are(path):
    if module(path) != "city.scene":  # its primitives take the same corners, depths and colours throughout
        functions = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)]
        public = [node for node in functions if not node.name.startswith("_") and len(node.args.args) > 2]
        assert [n.name for n in public if "Parameters\n-----" not in (ast.get_docstring(n) or "")] == []


# What the design notes promise of a user's script, in small: no `if __name__ == "__main__":`, an empty folder, a wheel.
SCRIPT = """
import mtclim
tasks = mtclim.Tasks({"height": ["H1", "H2"], "roof": ["FLT", "PIT_GAB", "PIT_MON"]})
assert len(mtclim.SANTIAGO) == 5 and len(mtclim.VARIANTS) == 12
model = mtclim.create_model("lim_ms_all", tasks, backbone="test_byobnet", pretrained=False)
import torch
out = model(torch.zeros(2, 3, 64, 64))
assert out.probabilities["height"].shape == (2, 2) and out.interim["clim"]["height"].shape == (2, 2)
assert torch.isfinite(model.loss(out, torch.tensor([[0, 1], [-1, 2]])))
table = mtclim.city.make_city("city", facades=400, labelled=300, size=64, seed=0, interdependency=1.0, ambiguity=0.3)
import pandas as pd
photos = pd.read_parquet(table).drop(columns="geometry")
labels = photos[["height", "roof_shape"]].dropna()
kept = mtclim.lprus(labels, keep=0.85, seed=0)
split = mtclim.partition(labels[kept], blocks=None, shares=(0.65, 0.175, 0.175), seed=0)
assert set(split) == {"train", "val", "test"} and kept.mean() >= 0.85
assert mtclim.cooccurrence(labels).shape == (9, 9)
assert mtclim.delta_m({"height": 0.6, "roof": 0.5}, {"height": 0.5, "roof": 0.5}) > 0
photos["image"] = "city/" + photos["image"]
photos.drop(columns=["mat_llrs", "sbst", "block_position", "municipality"]).dropna().to_csv("photos.csv", index=False)
settings = {"data": "photos.csv", "variant": "lim_ms_all", "out": "runs/mine"}
quick = {"max_epochs": 1, "image_size": 32, "backbone": "test_byobnet", "pretrained": False, "threads": 1}
run = mtclim.fit(mtclim.load_config("photos", quick, **settings))
found = mtclim.predict(mtclim.load(run), [f"city/{name}" for name in pd.read_parquet(table)["image"][:2]])
assert len(found) == 2 and {"image", "height:pred", "height:p:H1", "roof_shape:pred"} <= set(found), list(found)
print("works with", mtclim.__file__)
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The wheel's files in a folder of their own."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "mtclim", source / "mtclim", ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source]
    subprocess.run(build, check=True, capture_output=True, timeout=120)
    (wheel,) = folder.glob("mtclim-*.whl")
    install = [*pip, "install", "--no-deps", "--target", folder / "site", wheel]
    subprocess.run(install, check=True, capture_output=True, timeout=120)
    return folder / "site"


def test_a_wheel_holds_the_data_of_the_package(installed):
    data = [path for path in (ROOT / "mtclim").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert [path for path in data if not (installed / path.relative_to(ROOT)).is_file()] == []
    assert (installed / "bin" / "mtclim").is_file() or (installed / "Scripts" / "mtclim.exe").is_file()


def test_a_plain_script_works_from_a_wheel_in_an_empty_folder(installed, tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")
    process = environment(PYTHONPATH=str(installed), HF_HUB_OFFLINE="1")
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, env=process, capture_output=True, text=True,
                          timeout=180)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"works with {installed / 'mtclim' / '__init__.py'}"
    made = {path.name for path in tmp_path.iterdir()}
    assert made <= {"script.py", "city", "photos.csv", "runs", ".cache"}, made


ELSEWHERE = """
import builtins, os, sys
missing = sys.argv[1]
if missing == "resource":
    sys.modules["resource"] = None
else:
    delattr(os, missing)
import mtclim
from mtclim.machine import cores, peak_memory_mb
assert cores() >= 1 and (peak_memory_mb() is None) == (missing == "resource")
mtclim.city.make_city("city-" + missing, facades=20, labelled=20, size=64, progress=False)
run = mtclim.fit(mtclim.load_config("tiny", {"max_epochs": 1}, out="runs/" + missing), progress=False)
from mtclim.mapping.predict import predict_file
predict_file(run, "table.csv", missing + ".parquet", require_position=False, progress=False)
"""


@pytest.mark.parametrize("missing", ["sched_getaffinity", "resource", "pwrite"])
def test_it_works_where_an_operating_system_lacks_a_function(missing, project):
    """macOS and Windows lack one or the other of these."""
    done = subprocess.run([sys.executable, "-c", ELSEWHERE, missing], cwd=project, env=environment(),
                          capture_output=True, text=True, timeout=180)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (project / f"{missing}.parquet").is_file()


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return make_project(tmp_path_factory.mktemp("elsewhere") / "project", images=60)


def test_entry_point_and_version():
    from importlib.metadata import entry_points

    (ours,) = {point.value for point in entry_points(group="papermill.engine") if point.name == "mtclim"}
    assert ours == PROJECT["entry-points"]["papermill.engine"]["mtclim"]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == mtclim.__version__


def test_make_and_readme_name_the_same_commands():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert {"study", "book", "test", "bench", "soak", "check-offline", "env", "clean"} <= targets
    readme = (ROOT / "README.md").read_text()
    assert {"study", "test"} <= set(re.findall(r"make ([a-z-]+)", readme)) <= targets
    for path in re.findall(r"\]\((?!https?://|#)([^)#]+)", readme):
        if not path.startswith("book/images/"):
            assert (ROOT / path).exists(), f"README.md links to {path}"


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.decode().split("\0") if name]


def test_git_holds_no_outputs_and_nothing_large():
    for path in tracked():
        if path.is_file():
            assert path.stat().st_size < 5_000_000, f"{path} is too large for git"
        if path.suffix == ".ipynb" and path.parent.name == "notebooks" and path.parent.parent == ROOT:
            cells = json.loads(path.read_text())["cells"]
            assert not [cell for cell in cells if cell.get("outputs")], f"{path} has outputs; run nbstripout"
