"""Size and habit: the cheap numbers that keep files readable, held on every file of the package."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from statistics import median, quantiles

import pytest

import nextscale

PACKAGE = Path(nextscale.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

LONGEST_FILE, MEDIAN_FILE = 400, 150
LONGEST_FUNCTION, P95_FUNCTION = 80, 50
MOST_ARGUMENTS = 12

# What users meet: the flags of a verb, declared nowhere else, and the arguments of a call, named one by one.
MANY_ARGUMENTS = {"cli/evaluate.py:evaluate", "cli/generate.py:generate", "cli/plan.py:plan", "pipeline.py:__call__"}
MANY_ARGUMENTS |= {"edit.py:edit", "cli/edit.py:edit", "cli/serve.py:serve", "cli/calibrate.py:calibrate"}
MANY_ARGUMENTS |= {"cli/bench.py:bench"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def lines_of(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def functions(tree: ast.AST) -> Iterator[Function]:
    for node in ast.walk(tree):
        if isinstance(node, Function):
            yield node


def length(function: Function) -> int:
    return (function.end_lineno or function.lineno) - function.lineno + 1


def arguments(function: Function) -> int:
    named = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    return len([argument for argument in named if argument.arg not in ("self", "cls")])


def habits(tree: ast.Module, inside_cli: bool) -> list[str]:
    """Everything in a module that this package does not do, each with its line."""
    found = []
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id == "print"
            and not inside_cli
        ):
            found.append(f"{node.lineno}: a print outside cli")
        if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names):
            found.append(f"{node.lineno}: a star import")
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            found.append(f"{node.lineno}: a bare except")
        if isinstance(node, ast.Global):
            found.append(f"{node.lineno}: a global statement")
    for statement in tree.body:
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call) and not inside_cli:
            found.append(f"{statement.lineno}: a call when the module is imported")
    return found


def undocumented(tree: ast.Module) -> list[str]:
    """The module and its public functions and classes that have no docstring."""
    public = [
        node
        for node in tree.body
        if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_") and not _is_overload(node)
    ]
    nodes: list[tuple[str, ast.Module | Function | ast.ClassDef]] = [("module", tree), *((n.name, n) for n in public)]
    return [name for name, node in nodes if not ast.get_docstring(node)]


def _is_overload(node: Function | ast.ClassDef) -> bool:
    return any(isinstance(d, ast.Name) and d.id == "overload" for d in node.decorator_list)


def test_files_are_short() -> None:
    long = {name_of(path): lines_of(path) for path in FILES if lines_of(path) > LONGEST_FILE}
    assert long == {}
    assert median(lines_of(path) for path in FILES if lines_of(path)) <= MEDIAN_FILE


def test_functions_fit_a_screen() -> None:
    lengths = {f"{name_of(path)}:{f.name}": length(f) for path in FILES for f in functions(tree_of(path))}
    assert {name: n for name, n in lengths.items() if n > LONGEST_FUNCTION} == {}
    assert quantiles(lengths.values(), n=20)[-1] <= P95_FUNCTION


def test_functions_take_few_arguments() -> None:
    many = {
        f"{name_of(path)}:{f.name}" for path in FILES for f in functions(tree_of(path)) if arguments(f) > MOST_ARGUMENTS
    }
    assert many == MANY_ARGUMENTS  # an exception that is none any more leaves the list


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_habits(path: Path) -> None:
    assert habits(tree_of(path), inside_cli=name_of(path).startswith("cli/")) == []


@pytest.mark.parametrize("path", [path for path in FILES if lines_of(path)], ids=name_of)
def test_the_public_face_is_documented(path: Path) -> None:
    assert undocumented(tree_of(path)) == []


def test_there_are_no_utils() -> None:
    assert [name_of(path) for path in FILES if path.stem in ("utils", "util", "misc", "helpers", "common")] == []


def test_the_checks_see_what_they_look_for() -> None:
    bad = """
from os import *
import logging
logging.info('x')
def f(a, b):
    global c
    try:
        print(a)
    except:
        pass
"""
    tree = ast.parse(bad)
    assert len(habits(tree, inside_cli=False)) == 5
    assert undocumented(tree) == ["module", "f"]
    (function,) = functions(tree)
    assert (length(function), arguments(function)) == (6, 2)
