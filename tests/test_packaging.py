"""What is installed, what it is called, what imports what, and whether the written pages hold."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import re
import shutil
import subprocess
import sys
import zipfile
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import ab_schedulers
from ab_schedulers.schedulers import sources

tomllib = pytest.importorskip("tomllib", reason="reads pyproject.toml, which takes Python 3.11")

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
MODEL_CARD = ROOT / "ab_schedulers" / "models" / "README.md"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), MODEL_CARD])
EXEMPLARY = [
    ".".join(file.relative_to(ROOT).with_suffix("").parts)
    for file in sorted((ROOT / "ab_schedulers").rglob("*.py"))
    if "    >>> " in file.read_text(encoding="utf-8")
]
CACHING = [
    "ABCacheConfig",
    "EBCacheConfig",
    "EBTable",
    "apply_ab_cache",
    "apply_eb_cache",
    "build_eb_table",
    "remove_cache",
]
SCHEDULERS = [
    "ABCacheDDIMScheduler",
    "ABCacheDPMSolverMultistepScheduler",
    "ABCacheFlowMatchEulerScheduler",
    "ABCacheScheduler",
]


def run_python(*arguments: str, cwd: Path, **environment: str) -> str:
    """Run a fresh interpreter and return what it prints; its errors are shown when it fails."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={"PATH": "", "HOME": str(cwd), "HF_HUB_OFFLINE": "1", **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def pins(name: str) -> dict[str, str]:
    """Package name to exact version of a constraints file."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    exact = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {re.sub(r"[-_.]+", "-", package).lower(): version for package, version in exact}


def requirements() -> list[Requirement]:
    """Every requirement of the package and of its extras, other than the package itself."""
    project = PROJECT["project"]
    listed = chain(project["dependencies"], *project["optional-dependencies"].values())
    return [requirement for requirement in map(Requirement, listed) if requirement.name != project["name"]]


def python_blocks(page: Path) -> list[tuple[bool, str]]:
    """The Python examples of a page; True where a comment `<!-- runs -->` stands above the block."""
    found = re.finditer(r"(<!-- runs -->\s*)?```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    return [(match[1] is not None, match[2]) for match in found]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of the sources, without network."""
    source = tmp_path_factory.mktemp("source")
    for folder in ("ab_schedulers", "theory"):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source / file)
    target = tmp_path_factory.mktemp("wheel")
    run_python(
        "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(target), ".", cwd=source
    )
    (built,) = target.glob("*.whl")
    return built


@pytest.mark.slow
def test_the_wheel_holds_every_module_the_weights_and_the_type_marker_and_no_top_level_theory(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "ab_schedulers").rglob("*.py")}
    derivations = {f"ab_schedulers/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "theory").rglob("*.py")}
    folder = ROOT / "ab_schedulers" / "models" / "weights"
    measured = {f"ab_schedulers/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "theory").glob("*.json")}
    weights = {
        path.relative_to(ROOT).as_posix() for path in folder.rglob("*") if path.suffix in {".json", ".safetensors"}
    }
    assert any(name.endswith(".safetensors") for name in weights)
    assert "ab_schedulers/theory/__init__.py" in derivations
    others = {"ab_schedulers/py.typed", MODEL_CARD.relative_to(ROOT).as_posix()}
    assert modules | derivations | measured | weights | others <= names
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"ab_schedulers"}


@pytest.mark.slow
def test_the_wheel_works_where_it_is_installed_alone(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path)
    printed = run_python(
        "-c",
        "import importlib.util, ab_schedulers, ab_schedulers.theory\n"
        "print(ab_schedulers.__file__, ab_schedulers.theory.__file__, importlib.util.find_spec('theory'), sep='\\n')",
        cwd=tmp_path,
        PYTHONPATH=str(tmp_path),
    )
    package = tmp_path / "ab_schedulers"
    assert printed.splitlines() == [str(package / "__init__.py"), str(package / "theory" / "__init__.py"), "None"]


@pytest.mark.slow
def test_the_wheel_carries_the_version_of_the_package(wheel: Path) -> None:
    metadata = zipfile.ZipFile(wheel).read(f"ab_schedulers-{ab_schedulers.__version__}.dist-info/METADATA").decode()
    assert f"\nVersion: {ab_schedulers.__version__}\n" in metadata


def test_every_package_folder_is_named_in_pyproject() -> None:
    folders = {file.parent.relative_to(ROOT) for file in (ROOT / "ab_schedulers").rglob("__init__.py")}
    derivations = {
        Path("ab_schedulers", file.parent.relative_to(ROOT)) for file in (ROOT / "theory").rglob("__init__.py")
    }
    assert {".".join(folder.parts) for folder in folders | derivations} == set(
        PROJECT["tool"]["setuptools"]["packages"]
    )


def test_theory_is_a_part_of_the_package_in_an_editable_installation() -> None:
    import ab_schedulers.theory

    assert Path(str(ab_schedulers.theory.__file__)).is_relative_to(Path(ab_schedulers.__file__).parent.parent)


def test_the_public_names_are_these() -> None:
    assert sorted(ab_schedulers.__all__) == sorted(
        [*SCHEDULERS, *CACHING, "CachePlan", "Calibration", "calibrate", "__version__"]
    )
    assert all(hasattr(ab_schedulers, name) for name in ab_schedulers.__all__)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_scheduler_names_the_package_as_its_module(name: str) -> None:
    assert getattr(ab_schedulers, name).__module__ == "ab_schedulers"


def test_the_changelog_and_the_citation_name_the_version() -> None:
    version = ab_schedulers.__version__
    assert re.fullmatch(r"\d+\.\d+\.\d+", version)
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def test_the_lowest_constraints_are_the_lower_ends_of_the_stated_ranges() -> None:
    lowest = pins("constraints-lowest.txt")
    for requirement in map(Requirement, PROJECT["project"]["dependencies"]):
        lower_ends = [Version(clause.version) for clause in requirement.specifier if clause.operator == ">="]
        assert [Version(lowest[requirement.name])] == lower_ends, requirement


@pytest.mark.parametrize("requirement", requirements(), ids=str)
def test_the_pinned_versions_lie_within_the_stated_ranges(requirement: Requirement) -> None:
    assert requirement.specifier.contains(pins("constraints.txt")[requirement.name])


def test_numerics_needs_nothing_but_the_standard_library(tmp_path: Path) -> None:
    # -I -S: no environment, no site-packages. A bare parent stands in for the package, whose own __init__ loads torch.
    code = (
        "import sys, types\n"
        "parent = types.ModuleType('ab_schedulers')\n"
        f"parent.__path__ = [{str(ROOT / 'ab_schedulers')!r}]\n"
        "sys.modules['ab_schedulers'] = parent\n"
        "import ab_schedulers.numerics\n"
        "loaded = {name.partition('.')[0] for name in sys.modules}\n"
        "print(sorted(loaded - set(sys.stdlib_module_names) - {'ab_schedulers', '__main__'}))\n"
    )
    assert run_python("-I", "-S", "-B", "-c", code, cwd=tmp_path).strip() == "[]"


def test_no_module_of_the_package_imports_theory() -> None:
    # import-linter sees `theory` as a root of its own and would not notice its installed name.
    for file in (ROOT / "ab_schedulers").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            imported = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            origin = node.module or "" if isinstance(node, ast.ImportFrom) else ""
            assert "theory" not in {part for name in [origin, *imported] for part in name.split(".")}, file


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_python_examples_of_a_page_compile(page: Path) -> None:
    for number, (_, block) in enumerate(python_blocks(page)):
        compile(block, f"{page.name}, example {number}", "exec")


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if any(runs for runs, _ in python_blocks(page))],
    ids=lambda page: page.relative_to(ROOT).as_posix(),
)
def test_the_examples_of_a_page_that_say_so_run_in_order(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": page.stem}
    for runs, block in python_blocks(page):
        if runs:
            exec(compile(block, page.name, "exec"), namespace)


@pytest.mark.parametrize("name", EXEMPLARY)
def test_the_docstring_examples_of_a_module_hold(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    # Read from the source: doctest's own finder passes over classes that name another module as theirs.
    module = importlib.import_module(name)
    source = Path(str(module.__file__)).read_text(encoding="utf-8")
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef
    texts = [ast.get_docstring(node) or "" for node in ast.walk(ast.parse(source)) if isinstance(node, kinds)]
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    for text in texts:
        runner.run(doctest.DocTestParser().get_doctest(text, dict(vars(module)), name, name, None))
    assert runner.tries > 0
    assert runner.failures == 0, capsys.readouterr().out


def source_tables() -> list[str]:
    """Served classes, refused classes and refused settings, as the guide shows them."""
    bases = {"ddim": "DDIM", "dpmsolver": "DPMSolverMultistep", "flow_match": "FlowMatchEuler"}
    served = [
        [f"`{name}`", f"`ABCache{bases[entry.target]}Scheduler`", entry.remark]
        for name, entry in sources.SERVED.items()
        if name not in sources.OWN
    ]
    reasons = dict.fromkeys(sources.REFUSED.values())
    refused = [
        [", ".join(f"`{n}`" for n, why in sources.REFUSED.items() if why == reason), reason] for reason in reasons
    ]
    settings = [[setting, reason] for setting, _, reason in sources.REFUSED_SETTINGS]
    tables = [
        [["your scheduler", "becomes", "what differs"], ["---"] * 3, *served],
        [["class", "why, and what to do"], ["---"] * 2, *refused],
        [["setting", "why, and what to do"], ["---"] * 2, *settings],
    ]
    return ["\n".join(f"| {' | '.join(cells)} |".replace("|  |", "| |") for cells in table) for table in tables]


def test_the_guide_lists_every_served_and_refused_class_as_the_code_does() -> None:
    guide = (ROOT / "docs" / "guide.md").read_text(encoding="utf-8")
    missing = [table for table in source_tables() if table not in guide]
    assert not missing, "paste into docs/guide.md:\n\n" + "\n\n".join(missing)


@pytest.mark.parametrize("option", sources.OWN_OPTIONS)
def test_the_readme_states_the_defaults_of_the_code(option: str) -> None:
    classes = [getattr(ab_schedulers, name) for name in SCHEDULERS if name != "ABCacheScheduler"]
    defaults = [inspect.signature(scheduler.__init__).parameters[option].default for scheduler in classes]
    cells = [f"`{option}`", *(f"`{default!r}`".replace("'", '"') for default in defaults)]
    assert f"\n| {' | '.join(cells)} | " in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_files_a_page_points_to_exist(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if not re.match(r"[a-z]+:", target):
            assert (page.parent / target).exists(), target
