"""JSON and YAML that others wrote, to plain data: one reader for each, so that no file can harm.

What is read is a regular file in UTF-8, bounded in size, depth and digits, and gives every name once. Whatever is wrong
is said in one sentence, by the exception that the caller chooses.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nextscale.errors import InputError, NextscaleError, quoted
from nextscale.files import kind_of

LARGEST = 1 << 26
"""Bytes of the largest document that is read."""
DEEPEST = 64
"""Levels of lists and tables inside each other."""
LONGEST = 10**40
"""Whole numbers are smaller; a seed of 128 bits has 39 digits."""
ENTRIES = 2_000_000
"""Most entries of a document, each counted as often as YAML's aliases refer to it."""


class _Wrong(ValueError):
    """What a document is or does, as a sentence without its subject."""


def read_json(path: Path, error: type[NextscaleError] = InputError, largest: int = LARGEST) -> Any:
    """The content of a JSON file. Raises ``error`` for one that is missing, not regular, damaged or out of bounds."""
    return parse_json(read_text(path, error, largest), str(path), error)


def read_yaml(path: Path, error: type[NextscaleError] = InputError, largest: int = 1 << 20) -> Any:
    """The content of a YAML file; errors as for :func:`read_json`."""
    return parse_yaml(read_text(path, error, largest), str(path), error)


def parse_json(text: str, what: str, error: type[NextscaleError] = InputError) -> Any:
    """The value of a JSON text. what: its name in a sentence. Raises ``error`` as :func:`read_json`."""
    try:
        value = json.loads(text, object_pairs_hook=_once)
        _check(value)
    except json.JSONDecodeError as wrong:
        raise error(f"{what} is not valid JSON ({wrong})") from None
    except RecursionError:
        raise error(f"{what} {_too_deep()}") from None
    except _Wrong as wrong:
        raise error(f"{what} {wrong}") from None
    except ValueError:  # Python's own bound on digits
        raise error(f"{what} {_too_long()}") from None
    return value


def parse_yaml(text: str, what: str, error: type[NextscaleError] = InputError) -> Any:
    """The plain data of a YAML text; arguments and errors as for :func:`parse_json`."""
    import yaml  # who reads JSON alone need not wait for it

    class Loader(yaml.SafeLoader):
        """Bounded in depth, and refuses a name that is given twice."""

        depth = 0

        def compose_node(self, parent: Any, index: Any) -> Any:
            self.depth += 1
            if self.depth > DEEPEST:
                raise _Wrong(_too_deep())
            node = super().compose_node(parent, index)
            self.depth -= 1
            return node

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            if isinstance(node, yaml.MappingNode):
                _once([(key.value, None) for key, _ in node.value if isinstance(key, yaml.ScalarNode)])
            return super().construct_mapping(node, deep)

    try:
        value = yaml.load(text, Loader)
        _check(value)
    except RecursionError:
        raise error(f"{what} {_too_deep()}") from None
    except _Wrong as wrong:
        raise error(f"{what} {wrong}") from None
    except yaml.MarkedYAMLError as wrong:
        line = f" in line {wrong.problem_mark.line + 1}" if wrong.problem_mark else ""
        raise error(f"{what} is not valid YAML ({wrong.problem}{line})") from None
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, LookupError) as wrong:  # PyYAML lets these through
        raise error(f"{what} is not valid YAML ({quoted(str(wrong).partition(chr(10))[0])})") from None
    return value


def read_text(path: Path, error: type[NextscaleError] = InputError, largest: int = LARGEST) -> str:
    """The text of a regular file in UTF-8. Raises ``error`` for one that is missing, something else, or too large."""
    if not path.is_file():
        raise error(f"{path} is {kind_of(path)}; expected a file")
    try:
        with path.open("rb") as file:
            content = file.read(largest + 1)
        if len(content) > largest:
            raise error(f"{path} has more than {largest:,} bytes, too many for a file of this kind")
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as wrong:
        raise error(f"{path} is not text in UTF-8 ({wrong.reason} at byte {wrong.start})") from None
    except OSError as wrong:
        raise error(f"{path} cannot be read ({wrong.strerror})") from None


def _too_deep() -> str:
    return f"is nested more than {DEEPEST} levels deep; expected a document of lists and tables as people write them"


def _too_long() -> str:
    return f"holds a whole number of more than {len(str(LONGEST)) - 1} digits"


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A table whose names differ: of two values for one name, the first would be lost without a word."""
    table = dict(pairs)
    if len(table) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        raise _Wrong(f"gives {quoted(twice)} twice; expected every name once")
    return table


def _check(value: Any) -> None:
    """Raises ``_Wrong`` for what is too deep, too much or too long."""
    waiting, seen = [(value, 1)], 0
    while waiting:
        value, level = waiting.pop()
        seen += 1
        if level > DEEPEST:
            raise _Wrong(_too_deep())
        if seen > ENTRIES:
            raise _Wrong(f"has more than {ENTRIES:,} entries")
        if isinstance(value, int) and abs(value) >= LONGEST:
            raise _Wrong(_too_long())
        if isinstance(value, dict):
            waiting += [(inner, level + 1) for pair in value.items() for inner in pair]
        elif isinstance(value, list):
            waiting += [(inner, level + 1) for inner in value]
