"""Folders, package list and imports fit together: what is not listed would be missing from an installation in silence."""

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FLOORS = ("potential", "md", "fitting")
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SOURCES = sorted(p for floor in FLOORS for p in (ROOT / floor).rglob("*.py"))
TREES = {p.relative_to(ROOT).as_posix(): ast.parse(p.read_text(encoding="utf-8")) for p in SOURCES}
each_source = pytest.mark.parametrize("path", TREES)


def imported(tree):
    """Absolute names of all modules that are imported anywhere in a file, and whether an import is relative."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, False) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or "", node.level > 0


def test_every_package_is_listed_and_every_listed_one_is_there():
    folders = {p.parent.relative_to(ROOT) for p in SOURCES}
    assert all((ROOT / f / "__init__.py").is_file() for f in folders), "a folder of sources has no __init__.py"
    listed = SETTINGS["tool"]["setuptools"]["packages"]
    assert len(set(listed)) == len(listed)
    assert set(listed) == {"adatom." + ".".join(f.parts) for f in folders}


def test_the_folders_are_mapped_below_one_name():
    assert SETTINGS["tool"]["setuptools"]["package-dir"] == {f"adatom.{f}": f for f in FLOORS}
    for floor in FLOORS:
        link = ROOT / ".typings" / "adatom" / floor
        assert link.resolve() == ROOT / floor, "mypy and bare clones look here"


def test_data_files_of_packages_are_listed():
    """Whatever lies beside the sources and is not one must match a pattern, or it stays behind."""
    patterns = SETTINGS["tool"]["setuptools"]["package-data"]
    for floor in FLOORS:
        for p in (ROOT / floor).rglob("*"):
            if p.is_file() and p.suffix not in (".py", ".pyc", ".md"):
                above = ["adatom." + ".".join(x.relative_to(ROOT).parts) for x in p.parents if x.is_relative_to(ROOT / floor)]
                listed = [x for package in above for x in patterns.get(package, [])]
                assert any(p.match(x) for x in listed), f"{p.relative_to(ROOT)} is not package data"


def test_scripts_and_plugins_name_what_exists():
    project = SETTINGS["project"]
    for target in (*project["scripts"].values(), *project["entry-points"]["ase.plugins"].values()):
        module, _, name = target.partition(":")
        path = ROOT.joinpath(*module.split(".")[1:]).with_suffix(".py")
        assert path.is_file(), target
        names = {n.name for n in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(n, ast.FunctionDef)}
        assert not name or name in names, target


@each_source
def test_imports_are_absolute_and_go_downward(path):
    """potential <- md <- fitting; `import potential` would give other class objects than `adatom.potential`."""
    allowed = FLOORS[: FLOORS.index(path.split("/")[0]) + 1]
    for name, relative in imported(TREES[path]):
        assert not relative, f"{path}: relative import of {name}"
        top, *rest = name.split(".")
        assert top not in FLOORS, f"{path}: import {name} is adatom.{name}"
        if top == "adatom":
            assert rest, f"{path}: adatom is a namespace, import adatom.{FLOORS[0]}"
            assert rest[0] in allowed, f"{path}: {name} is a floor above"


@each_source
def test_nothing_is_unpickled_or_executed(path):
    for name, _ in imported(TREES[path]):
        assert name.split(".")[0] not in {"pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}, path
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            assert isinstance(node.value, ast.Constant), path
            assert node.value.value is False, path
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in {"eval", "exec", "__import__"}, path


@each_source
def test_no_keyword_arguments_are_passed_on_unseen(path):
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            assert node.args.kwarg is None, f"{path}:{node.lineno} takes **{node.args.kwarg.arg}"


@each_source
def test_importing_does_nothing(path):
    """No statement at the top of a module may switch, seed, write or configure; `register_calculator_class` is the one."""
    for node in TREES[path].body:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            called = ast.unparse(node.value.func)
            assert called in {"register_calculator_class"} or called.endswith(".defvjp"), f"{path}:{node.lineno} {called}"
        assert not isinstance(node, ast.For | ast.While | ast.With), f"{path}:{node.lineno}"
