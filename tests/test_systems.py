"""A further system is new files and one entry of a table: the entries resolve, and nothing else names a system."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Literal

import pytest
import torch
from safetensors.torch import save_file

import nextscale
from nextscale import systems
from nextscale.checkpoints.card import hub_card
from nextscale.checkpoints.convert import convert_files, export_official
from nextscale.checkpoints.convert.renaming import marked
from nextscale.checkpoints.load import BUNDLED, checkpoint_folder
from nextscale.checkpoints.published import PUBLISHED
from nextscale.checkpoints.shapes import without_values
from nextscale.checkpoints.store import FEATURES, module_of, type_name
from nextscale.cli.console import DEFAULT_MODEL
from nextscale.cli.plan import networks
from nextscale.conditions.base import Conditioner
from nextscale.errors import CheckpointError, InputError
from nextscale.models.var import VAR, VARConfig
from nextscale.systems import SYSTEMS, System
from nextscale.tokenizers.base import Tokenizer
from nextscale.training.generator_recipe import ClassTransformerRecipe
from nextscale.training.recipe import SHIPPED, kinds, load_recipe, shipped_recipes
from nextscale.verification import verify_files
from tests.checkpoints.official import SMALL_TOKENIZER, small_tokenizer
from tests.makers import CLASSES, randomise, tiny_tokenizer
from tests.test_imports import LEVELS, top

PACKAGE = Path(nextscale.__file__).parent

OFFERS = ("recognises", "config", "from_official", "to_official", "published", "sampling")

# Files beside those that a system's entry names, and strings of others, each with the reason why it may name a system.
EXEMPT = {
    "systems.py": "the table itself",
    "checkpoints/published.py": "the table of what the authors have published",
    "checkpoints/convert/bitwise.py": "names of its tokenizer in official files",
    "checkpoints/convert/residual.py": "VAR's tokenizer, which has a file beside VAR's converter",
    "verification/residual.py": "the same beside VAR's verification: outputs of its files",
}
EXEMPT_WORDS = {
    ("measures/distances.py", "var"): "torch's variance",
    ("data/emoji_words.py", "infinity"): "an emoji",
}


def modules_of(system: System) -> dict[str, str]:
    """Every module that an entry of the table names, and the folder that looks it up."""
    found = {module: "checkpoints" for module, _, _ in system.types.values()}
    found |= {name.rpartition(".")[0]: "checkpoints" for name in system.conditioners.values()}
    found |= {system.converter: "checkpoints", system.verification: "verification"}
    found |= {path.rpartition(".")[0]: "memory" for path in system.memories.values()}
    return found | {name.rpartition(".")[0]: "training" for name in system.recipes.values()}


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: system.name)
def test_every_name_of_the_table_is_there(system: System) -> None:
    for module, config, *names in ((module, config, name) for module, name, config in system.types.values()):
        assert all(isinstance(getattr(import_module(module), name), type) for name in (config, *names))
    converter = systems.converter(system)
    assert all(callable(getattr(converter, name)) for name in OFFERS)
    assert converter.MARKS.keys() <= {"model", "tokenizer"}
    assert all(callable(check) for check in import_module(system.verification).KINDS.values())
    assert re.fullmatch(r"\d{4}\.\d{5}", system.paper)
    assert system.name == system.name.lower().replace("_", "-")
    assert all(issubclass(systems.load(name), Conditioner) for name in system.conditioners.values())
    for kind in system.recipes:
        shipped = [name for name in shipped_recipes() if load_recipe(name).kind == kind]
        assert shipped
        assert all(type(load_recipe(name)) is kinds()[kind] for name in shipped)


def test_no_two_systems_share_a_name() -> None:
    for names in (
        [system.name for system in SYSTEMS],
        [*(kind for system in SYSTEMS for kind in system.types), *FEATURES],
        [*(kind for system in SYSTEMS for kind in system.recipes), "classifier"],
    ):
        assert len(names) == len(set(names))


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: system.name)
def test_what_the_table_names_may_be_imported_by_whoever_looks_it_up(system: System) -> None:
    for module, reader in modules_of(system).items():
        assert LEVELS[top(module)] <= LEVELS[reader]


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes_are_networks_of_their_system(name: str) -> None:
    row = PUBLISHED[name]
    system = systems.named(row.system)
    assert system is not None
    for component, config in row.configs().items():
        kind = type_name(without_values(partial(module_of, config)))
        assert component != "model" or kind in system.types
    others = [other for other in SYSTEMS if other is not system]
    assert [systems.converter(other).published(name) for other in others] == [None] * len(others)


def words_of(system: System) -> set[str]:
    """What a source would call a system: its names, and its classes of models, configurations and recipes."""
    models = [names for names in system.types.values() if names[0].startswith("nextscale.models.")]
    classes = {name for names in models for name in names[1:]}
    recipes = {name.rpartition(".")[2] for name in system.recipes.values()}
    names = {system.name, system.title}
    return (
        classes
        | recipes
        | names
        | {name.replace("-", "_") for name in names}
        | {name.replace("-", "") for name in names}
    )


def spoken(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every identifier, imported name and string of a module, docstrings apart, with its line."""
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        for field in ("id", "attr", "arg", "name", "asname", "module"):
            if isinstance(value := getattr(node, field, None), str):
                yield line, value
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield line, node.value


def mentions(text: str, path: str) -> list[str]:
    """Where a source names a system. Names of models, such as var-d16 or emoji-m-var, are none of a system."""
    models = {name for row in PUBLISHED.values() for name in (row.name, row.file)}
    models |= {folder.name for folder in BUNDLED.iterdir()}
    model = "|".join(re.escape(name) for name in sorted(models, key=len, reverse=True))
    words = "|".join(re.escape(word) for system in SYSTEMS for word in words_of(system))
    found = []
    for line, told in spoken(ast.parse(text)):
        bare = re.sub(rf"\b({model})\b", "", told)
        for word in re.findall(rf"(?<![A-Za-z0-9])({words})(?![A-Za-z0-9])", bare):
            if (path, word) not in EXEMPT_WORDS:
                found.append(f"{path}:{line}: {word}")
    return found


def own_files() -> set[str]:
    """The files that the table names, as paths in the package."""
    modules = {module for system in SYSTEMS for module in modules_of(system)}
    return {f"{module.removeprefix('nextscale.').replace('.', '/')}.py" for module in modules}


def test_nothing_names_a_system_outside_its_own_files() -> None:
    sources = {path.relative_to(PACKAGE).as_posix(): path for path in PACKAGE.rglob("*.py")}
    assert own_files() | EXEMPT.keys() <= sources.keys()
    found = [
        mention
        for name, path in sources.items()
        if name not in own_files() | EXEMPT.keys()
        for mention in mentions(path.read_text(encoding="utf-8"), name)
    ]
    assert found == []


@pytest.mark.parametrize(
    "line",
    [
        "from nextscale.models.var import Block",
        "from nextscale.models import m_var",
        "import nextscale.verification.m_var",
        "SYSTEMS = {'m-var': 1}",
        "sentence = f'a VAR transformer, not {kind}'",
        "assert isinstance(model, MVAR)",
        "def f(config: VARConfig) -> None: ...",
        "kind = 'm_var'",
        "def new_mvar(): ...",
        "if row.system == 'var': ...",
        "VAR_REPO = 1",
        "use(model=parts.m_var)",
    ],
)
def test_the_check_sees_every_kind_of_mention(line: str) -> None:
    assert mentions(line, "hub.py")


@pytest.mark.parametrize(
    "line",
    [
        '"""As VAR does it."""',
        "x = 1  # VAR",
        "T = TypeVar('T')",
        "help = 'such as var-d16 or emoji-m-var'",
        "various = variance",
    ],
)
def test_the_check_passes_over_papers_and_models(line: str) -> None:
    assert mentions(line, "hub.py") == []
    assert mentions(f"name = {DEFAULT_MODEL!r}", "hub.py") == []


@pytest.mark.parametrize("path", [*EXEMPT, *(path for path, _ in EXEMPT_WORDS)])
def test_every_exemption_is_needed(path: str) -> None:
    assert mentions((PACKAGE / path).read_text(encoding="utf-8"), "hub.py")


class Another(VAR):
    """The model of one more system."""


@dataclass(frozen=True, kw_only=True)
class AnotherConfig(VARConfig):
    """Its configuration."""


class AnotherRecipe(ClassTransformerRecipe):
    """Its recipe."""

    kind: Literal["another"]

    def new_model(self, tokenizer: Tokenizer, given: int) -> Another:
        return Another(AnotherConfig(**self.sizes(tokenizer, given)))


CONFIG = AnotherConfig(depth=1, width=64, heads=1, classes=5)


@pytest.fixture
def another(monkeypatch: pytest.MonkeyPatch) -> System:
    """One more system, known by its entry in the table alone. Its official names are ours behind "theirs."."""
    converter, verification = ModuleType("another_converter"), ModuleType("another_verification")
    converter.__dict__.update(
        MARKS={"model": ("theirs.word_embedding.weight",)},
        sampling=lambda config: {"top_k": 7},
        recognises=lambda names: marked(names, converter.MARKS),
        config=lambda component, state, sizes: CONFIG,
        from_official=lambda state, config: {name.removeprefix("theirs."): t for name, t in state.items()},
        to_official=lambda state, config: {f"theirs.{name}": t for name, t in state.items()},
        published=lambda name, like=None: (
            {"tokenizer": SMALL_TOKENIZER, "model": CONFIG} if name == "another-s" else None
        ),
    )
    verification.__dict__["KINDS"] = {"sum": lambda file, checks: checks.check("y", file.input("x").sum())}
    for module in (converter, verification):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    system = System(
        name="another",
        title="Second",
        paper="2600.00001",
        types={"another": (__name__, "Another", "AnotherConfig")},
        converter=converter.__name__,
        verification=verification.__name__,
        recipes={"another": f"{__name__}.AnotherRecipe"},
    )
    monkeypatch.setattr(systems, "SYSTEMS", (*SYSTEMS, system))
    return system


@pytest.mark.usefixtures("another")
def test_one_more_system_is_converted_both_ways_and_draws(tmp_path: Path) -> None:
    model = Another(CONFIG)
    randomise(model)
    given = {f"ema.theirs.{name}": t for name, t in model.state_dict().items()}
    torch.save(given, tmp_path / "another.pth")
    torch.save(small_tokenizer(), tmp_path / "vae.pth")
    report = convert_files([tmp_path / "another.pth", tmp_path / "vae.pth"], tmp_path / "out")
    assert "Second transformer from ema (averaged weights, EMA)" in str(report)
    assert "VAR tokenizer" in str(report)
    back = export_official(tmp_path / "out", "model")
    assert {f"ema.{name}" for name in back} == given.keys()
    assert all(torch.equal(t, given[f"ema.{name}"]) for name, t in back.items())
    pipe = nextscale.load(tmp_path / "out", device="cpu", dtype="float32")
    assert type(pipe.model) is Another
    assert pipe.defaults["top_k"] == 7
    assert pipe(class_labels=[0], seed=1, output_type="pt").images.shape[0] == 1
    assert "A class-conditional Second ([arXiv 2600.00001]" in hub_card(tmp_path / "out", "me/mine", {})


@pytest.mark.usefixtures("another")
def test_a_size_of_one_more_system_is_known_by_its_name() -> None:
    parts, sampling = networks("another-s")
    assert (type(parts["model"]), sampling) == (Another, {"top_k": 7})
    with pytest.raises(CheckpointError, match="no weights have been published for another-s"):
        checkpoint_folder("another-s")


@pytest.mark.usefixtures("another")
def test_files_of_one_more_system_are_verified(tmp_path: Path) -> None:
    facts = {"format": "1", "system": "another", "kind": "sum", "case": "one", "config": "{}", "tolerance_float": "0"}
    stored = {"in/x": torch.ones(3), "out/y": torch.tensor(3.0)}
    save_file(stored, tmp_path / "x.safetensors", metadata=facts)
    (report,) = verify_files([tmp_path / "x.safetensors"])
    assert report.ok, report
    save_file(stored, tmp_path / "x.safetensors", metadata=facts | {"system": "nobody"})
    (report,) = verify_files([tmp_path / "x.safetensors"])
    assert report.reason == "unknown system 'nobody'; this version knows var, hmar, m-var, infinity, flexvar, another"


@pytest.mark.usefixtures("another")
def test_one_more_system_has_a_recipe(tmp_path: Path) -> None:
    told = (SHIPPED / "var-emoji.yaml").read_text(encoding="utf-8").replace("kind: var", "kind: another")
    (tmp_path / "mine.yaml").write_text(told, encoding="utf-8")
    recipe = load_recipe(tmp_path / "mine.yaml", ["model.depth=1", "model.width=16", "model.heads=1"])
    assert isinstance(recipe, AnotherRecipe)
    assert type(recipe.new_model(tiny_tokenizer(), CLASSES)) is Another
    with pytest.raises(
        InputError,
        match="tokenizer or var or hmar or m-var or tokenizer-bitwise or infinity or tokenizer-direct or flexvar or "
        "another or classifier', not",
    ):
        load_recipe(tmp_path / "mine.yaml", ["kind=nothing"])


@pytest.mark.usefixtures("another")
def test_what_nobody_knows_is_told_with_one_more_system(tmp_path: Path) -> None:
    torch.save({"layer.weight": torch.ones(1)}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError) as refused:
        convert_files([tmp_path / "x.pth"], tmp_path / "out")
    assert str(refused.value) == (
        f"{tmp_path / 'x.pth'} is neither a VAR tokenizer (quantize.embedding.weight, encoder.down.*) nor a VAR "
        "transformer (pos_1LC, word_embed.weight) nor an Infinity transformer (text_proj_for_sos.ca.mat_q, "
        "word_embed.weight) nor an Infinity tokenizer (encoder.conv_in.conv.weight, encoder.down.*) nor a FlexVAR "
        "tokenizer (quantize.embedding.weight, encoder.conv_blocks.*) nor a Second transformer "
        "(theirs.word_embedding.weight); it holds 1 tensors, first layer.weight"
    )
