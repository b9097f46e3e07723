"""JSON and YAML of others: whatever a file holds, it is read, or refused at once in one sentence."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from nextscale.documents import parse_json, parse_yaml, read_json, read_yaml
from nextscale.errors import CheckpointError, InputError, quoted

BAD_JSON = {
    "deep lists": "[" * 200_000,
    "deep lists that end": "[" * 200_000 + "]" * 200_000,
    "deep tables": '{"a":' * 100_000 + "1" + "}" * 100_000,
    "a little too deep": "[" * 65 + "]" * 65,
    "5,000 digits": '{"n": ' + "1" * 5000 + "}",
    "-50 digits": '{"n": -' + "1" * 50 + "}",
    "a name twice": '{"a": 1, "b": {"c": 1, "c": 2}}',
    "empty": "",
    "cut": '{"a": [1, 2',
    "NULs": "\0" * 999,
    "a long name twice": '{"' + "x" * 3_000_000 + '": 1, "' + "x" * 3_000_000 + '": 1}',
}
BAD_YAML = {
    "deep lists": "[" * 200_000,
    "deep lists that end": "[" * 200_000 + "]" * 200_000,
    "deep tables": "{a: " * 200_000,
    "deep by indent": "\n".join(" " * i + "a:" for i in range(300)),
    "5,000 digits": "n: " + "1" * 5000,
    "5,000 hexadecimal digits": "n: 0x" + "f" * 5000,
    "many laughs": "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 20)),
    "a list in itself": "&a [*a]",
    "a name twice": "optim:\n  lr: 1\n  lr: 2\n",
    "a date that is none": "n: 2020-13-45",
    "a tag that is none": "n: !!int ''",
    "a tag of Python's": "n: !!python/object/apply:os.system [ls]",
    "an open quote": "n: 'abc",
    "NULs": "\0" * 999,
}


@pytest.mark.parametrize("name", BAD_JSON)
def test_bad_json_is_refused_at_once_in_one_short_sentence(name: str) -> None:
    start = time.perf_counter()
    with pytest.raises(CheckpointError) as refused:
        parse_json(BAD_JSON[name], "x.json", CheckpointError)
    said = str(refused.value)
    assert said.startswith("x.json ")
    assert "\n" not in said
    assert len(said) < 300
    assert time.perf_counter() - start < 10


@pytest.mark.parametrize("name", BAD_YAML)
def test_bad_yaml_is_refused_at_once_in_one_short_sentence(name: str) -> None:
    start = time.perf_counter()
    with pytest.raises(InputError) as refused:
        parse_yaml(BAD_YAML[name], "x.yaml")
    said = str(refused.value)
    assert said.startswith("x.yaml ")
    assert "\n" not in said
    assert len(said) < 300
    assert time.perf_counter() - start < 20


def test_good_documents_are_read_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"a": [1, 2.5, null, "caf\xc3\xa9"], "n": ' + b"9" * 39 + b"}")
    assert read_json(tmp_path / "a.json") == {"a": [1, 2.5, None, "café"], "n": int("9" * 39)}
    (tmp_path / "a.yaml").write_text("base: &b {lr: 1, c: x}\nmine:\n  <<: *b\n  lr: 2\n", "utf-8")
    assert read_yaml(tmp_path / "a.yaml")["mine"] == {"lr": 2, "c": "x"}


def test_what_is_no_regular_file_is_named_and_never_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    kinds = {"pipe": "a pipe", "folder": "a folder", "loop": "a link to nowhere", "none": "missing"}
    for name, kind in kinds.items():
        for read in (read_json, read_yaml):
            with pytest.raises(InputError, match=f"{name} is {kind}; expected a file"):
                read(tmp_path / name)
    with pytest.raises(InputError, match="is a device; expected a file"):
        read_json(Path("/dev/zero"))


def test_what_is_not_text_or_too_much_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b'{"format":"\xff"}')
    with pytest.raises(InputError, match=r"is not text in UTF-8 .* at byte 11"):
        read_json(tmp_path / "a")
    (tmp_path / "a").write_bytes(b" " * 2000)
    with pytest.raises(InputError, match="has more than 1,000 bytes"):
        read_json(tmp_path / "a", largest=1000)


def test_what_is_quoted_is_short() -> None:
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    for value in ("x" * 3_000_000, 10**5000, deep, list(range(10**6))):
        assert len(quoted(value)) <= 110
    assert quoted([1, "a"]) == "[1, 'a']"
