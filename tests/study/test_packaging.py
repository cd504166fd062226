"""What the packaging files say agrees: pyproject.toml, environment.yml, constraints.txt, the imports of the package."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

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


def distributions(modules: set[str]) -> set[str]:
    known = packages_distributions()
    return {canonical(known.get(module, [module])[0]) for module in modules}


FILES = sorted((ROOT / "mtclim").rglob("*.py"))
NEED_EXTRAS = {"maps.py", "exposure.py"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_the_package_imports_is_declared(path):
    top, anywhere = imports(path)
    allowed = set(EVERYTHING) if path.name in NEED_EXTRAS else set(CORE)
    assert distributions(top) <= allowed, "a core module may import only core dependencies at its top"
    assert distributions(anywhere) <= set(EVERYTHING) | {"click", "openquake-engine"}


def test_import_is_light():
    script = """
import sys, mtclim
heavy = {"torch", "pandas", "geopandas", "papermill", "snakemake", "matplotlib"} & set(sys.modules)
assert not heavy, heavy
import mtclim.model
assert not {"geopandas", "papermill", "snakemake"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)


def test_entry_point_and_version():
    from importlib.metadata import entry_points

    import mtclim

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
