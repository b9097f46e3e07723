"""The import graph is the designed one: levels, no circles, nothing heavy at the door, nothing forbidden anywhere."""

from __future__ import annotations

import ast
import json
import re
import resource
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import nextscale

PACKAGE = Path(nextscale.__file__).parent

# A file or folder of src/nextscale may import what stands on lower levels, and nothing else outside its own folder.
LEVELS = {
    "errors": 0,
    "values": 0,
    "bar": 0,
    "habits": 1,
    "drawn": 2,
    "files": 0,
    "decoding": 0,
    "documents": 0,
    "settings": 0,
    "scales": 0,
    "ratios": 0,
    "systems": 0,
    "sampling": 1,
    "guidance": 1,
    "device": 1,
    "pictures": 1,
    "layers": 1,
    "tokenizers": 2,
    "features": 2,
    "data": 2,
    "memory": 3,
    "conditions": 3,
    "models": 4,
    "row": 5,
    "sizes": 5,
    "plan": 5,
    "price": 5,
    "given": 5,
    "parts": 5,
    "state": 5,
    "generate": 5,
    "request": 6,
    "results": 6,
    "rehearse": 7,
    "tokenfile": 3,
    "region": 4,
    "recipe": 6,
    "methods": 6,
    "call": 7,
    "coder": 7,
    "edit": 7,
    "adapters": 6,
    "checkpoints": 7,
    "pipeline": 8,
    "calibrate": 9,
    "measures": 7,
    "evaluation": 8,
    "training": 9,
    "verification": 10,
    "serve": 10,
    "cli": 11,
    "__main__": 12,
}
SIBLINGS = {  # who may import whom on one level
    ("scales", "errors"),
    ("ratios", "errors"),
    ("ratios", "scales"),
    ("ratios", "values"),
    ("files", "errors"),
    ("documents", "errors"),
    ("documents", "files"),
    ("settings", "errors"),
    ("plan", "row"),
    ("plan", "sizes"),
    ("generate", "row"),
    ("given", "row"),
    ("parts", "row"),
    ("state", "row"),
    ("price", "row"),
    ("generate", "plan"),
    ("generate", "given"),
    ("generate", "parts"),
    ("generate", "state"),
    ("given", "plan"),
    ("parts", "plan"),
    ("parts", "given"),
    ("state", "plan"),
    ("state", "given"),
    ("price", "plan"),
    ("results", "recipe"),
    ("edit", "call"),
    ("edit", "coder"),
    ("price", "parts"),
}
# It names modules of every level, for those who read it; tests/test_systems.py holds each of these to its own level.
TABLE = "nextscale.systems"

FORBIDDEN_IMPORTS = {
    "torchvision",
    "timm",
    "open_clip",
    "torch_fidelity",
    "cleanfid",
    "pytorch_fid",
    "lpips",
    "flash_attn",
    "mamba_ssm",
    "hydra",
    "einops",
}
FORBIDDEN_PACKAGES = {
    "torchvision",
    "timm",
    "open-clip-torch",
    "torch-fidelity",
    "clean-fid",
    "pytorch-fid",
    "lpips",
    "flash-attn",
    "mamba-ssm",
    "hydra-core",
    "einops",
}

# Systems of the family; the loop must know none of them, nor any file of the folders below.
SYSTEMS = {"var", "mvar", "m_var", "flexvar", "hmar", "infinity", "varedit", "scalekv", "hack", "tts_var"}
SYSTEMS |= {"scaleweaver", "echogen", "csd_var", "arbooth", "fvq"}
NOT_A_NAME = {"__init__", "base", "make", "mask", "none"}  # contracts and shared parts, or plain words


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(tree: ast.AST, in_tables: bool = True) -> Iterator[str]:
    """Dotted names of everything a module imports, late and named-in-a-table imports included."""
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide their level; write the whole name"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif in_tables and isinstance(node, ast.Constant) and re.fullmatch(r"nextscale(\.\w+)+", str(node.value)):
            yield from [] if id(node) in docstrings else [str(node.value)]


def owner(name: str, known: Mapping[str, object]) -> str:
    """The module that a dotted name lies in: ``nextscale.plan.Plan`` is in ``nextscale.plan``."""
    while name not in known and "." in name:
        name = name.rpartition(".")[0]
    return name


def graph(sources: Mapping[str, str]) -> dict[str, set[str]]:
    """Module -> modules of the package it imports. The lazy face of the package itself stands outside the levels, but a
    name taken from it counts as an import of the module it comes from."""
    edges: dict[str, set[str]] = {}
    for module, text in sources.items():
        if module == "nextscale":
            continue
        found = set()
        for name in imported(ast.parse(text), in_tables=module != TABLE):
            if name.startswith("nextscale."):
                public = nextscale._PUBLIC.get(name.removeprefix("nextscale."))
                found.add(owner(public or name, sources))
        edges[module] = found - {"nextscale", module}
    return edges


def top(module: str) -> str:
    return module.split(".")[1]


def level_errors(edges: Mapping[str, set[str]]) -> list[str]:
    errors = []
    for module, targets in edges.items():
        if top(module) not in LEVELS:
            errors.append(f"{module} has no level")
            continue
        for target in targets:
            low, high = top(target), top(module)
            if low == high or (high, low) in SIBLINGS:
                continue
            if LEVELS.get(low, 99) >= LEVELS[high]:
                errors.append(f"{module} (level {LEVELS[high]}) imports {target} (level {LEVELS.get(low)})")
    return errors


def circles(edges: Mapping[str, set[str]]) -> list[str]:
    """Modules that reach themselves through their imports."""

    def reach(module: str) -> set[str]:
        seen: set[str] = set()
        waiting = list(edges.get(module, ()))
        while waiting:
            target = waiting.pop()
            if target not in seen:
                seen.add(target)
                waiting.extend(edges.get(target, ()))
        return seen

    return sorted(module for module in edges if module in reach(module))


@pytest.fixture(scope="module")
def sources() -> dict[str, str]:
    return {name: path.read_text(encoding="utf-8") for name, path in modules().items()}


def test_lower_levels_never_import_higher_ones(sources: dict[str, str]) -> None:
    assert level_errors(graph(sources)) == []


def test_no_circles(sources: dict[str, str]) -> None:
    assert circles(graph(sources)) == []


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("nextscale.scales", "from nextscale.plan import Plan"),
        ("nextscale.layers.norm", "import nextscale.memory.base"),
        ("nextscale.sampling", "from nextscale import Plan"),
        ("nextscale.plan", "from nextscale.generate import generate"),
        ("nextscale.guidance", "from nextscale.sampling import ORDER"),
        ("nextscale.checkpoints.store", "def late():\n    from nextscale.pipeline import load"),
        ("nextscale.checkpoints.store", "TABLE = {'x': 'nextscale.training.trainer'}"),
        ("nextscale.systems", "from nextscale.models.var import VAR"),
        ("nextscale.helpers", "import os"),
    ],
)
def test_the_level_check_sees_every_kind_of_wrong_import(sources: dict[str, str], module: str, line: str) -> None:
    targets = ("nextscale.layers.norm", "nextscale.pipeline", "nextscale.training.trainer")
    edges = graph({**sources, **dict.fromkeys(targets, ""), module: line})
    assert [error for error in level_errors(edges) if error.startswith(module)]


def test_the_circle_check_sees_a_circle() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == ["a", "b", "c"]


def test_nothing_forbidden_is_imported(sources: dict[str, str]) -> None:
    found = {name.split(".")[0] for text in sources.values() for name in imported(ast.parse(text))}
    assert "torch" in found
    assert found & FORBIDDEN_IMPORTS == set()


def resolved(package: str, extras: frozenset[str]) -> set[str]:
    """Names of all packages that an installation of ``package[extras]`` asks for, directly or not."""
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = [(package, extras)]
    while waiting:
        name, wanted = waiting.pop()
        if (name, wanted) in seen:
            continue
        seen.add((name, wanted))
        try:
            lines = metadata.requires(name) or []
        except metadata.PackageNotFoundError:  # an optional one that is not installed: its name counts all the same
            continue
        for requirement in map(Requirement, lines):
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in wanted | {""}):
                waiting.append((canonicalize_name(requirement.name), frozenset(requirement.extras)))
    return {name for name, _ in seen}


def test_nothing_forbidden_is_required() -> None:
    extras = frozenset(metadata.metadata("nextscale").get_all("Provides-Extra") or [])
    found = resolved("nextscale", extras)
    assert {"torch", "sympy", "accelerate"} <= found  # direct, indirect, and through an extra
    assert found & FORBIDDEN_PACKAGES == set()


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_loads_nothing_heavy() -> None:
    loaded = json.loads(run("import nextscale, sys, json; print(json.dumps(list(sys.modules)))"))
    assert {"torch", "transformers", "numpy", "PIL", "pydantic", "typer"}.isdisjoint(loaded)


def test_a_class_model_needs_no_transformers() -> None:
    """Nor does the conditioner of text, until it encodes, and the bundled text encoder not even then."""
    code = """
import nextscale, sys
from nextscale.conditions.encoder import EncoderReference
from nextscale.conditions.text import TextConditioner
nextscale.load("emoji", device="cpu")(0, seed=1)
print({"transformers", "tokenizers"} & set(sys.modules))
TextConditioner(EncoderReference("word-pieces", width=128)).features([{"prompt": "a red fox"}])
print({"transformers", "tokenizers"} & set(sys.modules))
"""
    assert run(code) == "set()\n{'tokenizers'}\n"


def test_help_loads_no_torch() -> None:
    code = """
import contextlib, io, json, sys
from nextscale.cli.main import VERBS, main
for words in [["--help"], ["--version"], *([verb, "--help"] for verb in VERBS)]:
    sys.argv = ["nextscale", *words]
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
        main()
    assert len(shown.getvalue()) > 10, words
print(json.dumps(list(sys.modules)))
"""
    loaded = json.loads(run(code))
    assert {"torch", "transformers", "numpy", "PIL", "huggingface_hub"}.isdisjoint(loaded)


def test_help_answers_at_once() -> None:
    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "nextscale", "generate", "--help"], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    # Processor time, which a busy machine stretches least: 0.27 s alone; importing torch would add 1.6 s.
    assert min(seconds() for _ in range(3)) < 0.8


def names_in(text: str) -> set[str]:
    """System and module names that occur as words in a source, in any spelling of their case and dashes."""
    stems = {
        path.stem for folder in ("models", "methods", "adapters", "memory") for path in (PACKAGE / folder).glob("*.py")
    }
    words = set(re.findall(r"[a-z]\w*", text.lower().replace("-", "_")))
    return words & ((stems | SYSTEMS) - NOT_A_NAME)


def test_the_loop_knows_no_system_by_name() -> None:
    assert names_in((PACKAGE / "generate.py").read_text(encoding="utf-8")) == set()


@pytest.mark.parametrize("line", ["if row.model == 'M-VAR':", "from nextscale.memory.full import FullMemory", "# HMAR"])
def test_the_name_check_sees_a_name(line: str) -> None:
    assert names_in(line) != set()
