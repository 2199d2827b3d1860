"""The documents say what the code does: settings, commands, paths and links in them exist.

`python -m tests.test_readme` prints the README's table of settings.
"""

import re
import shlex
import subprocess
import sys
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from app.cli import ROOT
from app.config import Settings
from app.main import create_app
from tests.test_deploy import assert_command

README = ROOT / "README.md"
DOCUMENTS = sorted([README, ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])
_BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)


def settings_table() -> str:
    """The README's table, from the fields of Settings."""
    rows = [
        f"| `{name.upper()}` | {_default(field)} | {str(field.description).replace('|', chr(92) + '|')} |"
        for name, field in Settings.model_fields.items()
    ]
    return "\n".join(["| variable | default | meaning |", "| --- | --- | --- |", *rows])


def _default(field: FieldInfo) -> str:
    default = field.get_default()
    if default is PydanticUndefined:
        return "**required**"
    if default is None or default == []:
        return ""
    if "Secret" in str(field.annotation) or isinstance(default, SecretStr):
        return "**required** outside development"
    return f"`{_text(default)}`"


def _text(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case Enum():
            return str(value.value)
        case list():
            return ",".join(_text(one) for one in value)
        case float():
            return f"{value:g}"
        case _:
            return str(value)


def shell_blocks(document: Path) -> list[str]:
    return _BLOCK.findall(document.read_text())


def test_table_of_settings_is_that_of_the_code() -> None:
    found = re.search(r"<!-- settings -->\n(.*?)<!-- /settings -->", README.read_text(), re.DOTALL)
    assert found is not None
    expected = settings_table()
    assert found[1].strip() == expected, f"put this between the markers in README.md:\n\n{expected}\n"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: str(document.relative_to(ROOT)))
def test_relative_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if "://" not in target and not target.startswith("#"):
            assert (document.parent / target.partition("#")[0]).exists(), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: str(document.relative_to(ROOT)))
def test_files_named_in_documents_exist(document: Path) -> None:
    for name in re.findall(r"`((?:app|migrations|tests|benchmarks|deploy|docs)/[\w./-]+\w)`", document.read_text()):
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: str(document.relative_to(ROOT)))
def test_commands_named_in_documents_exist(document: Path) -> None:
    text = document.read_text()
    # In running text a command may stand without its arguments, as in `cashback staff create-key`.
    for command in re.findall(r"`(cashback [a-z][^`]*)`", text):
        if command not in {"cashback worker", "cashback staff create-key", "cashback dev", "cashback demo"}:
            assert_command(shlex.split(command))
    for block in shell_blocks(document):
        for line in block.splitlines():
            if (found := re.search(r"\b(cashback [a-z][^#|]*)", line)) and "cashback-" not in line:
                assert_command(shlex.split(found[1]))


def test_make_targets_named_in_documents_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"run", "test", "check"} <= targets
    for document in DOCUMENTS:
        named = set(re.findall(r"(?:`|^)(?:[A-Z_]+=\S+ )*make ([a-z-]+)", document.read_text(), re.MULTILINE))
        assert named <= targets, document


def test_shell_blocks_can_be_read_by_a_shell() -> None:
    blocks = [block for document in DOCUMENTS for block in shell_blocks(document)]
    assert len(blocks) >= 4
    for block in blocks:
        checked = subprocess.run(["sh", "-n"], input=block, text=True, capture_output=True, check=False, timeout=10)
        assert checked.returncode == 0, checked.stderr


def test_paths_that_are_called_exist(settings: Settings) -> None:
    known = [re.sub(r"\{[^}]+\}", "[^/]+", path) for path in create_app(settings).openapi()["paths"]]
    called = {
        re.sub(r"\$(\w+|\([^)]*\))", "x", path)
        for document in DOCUMENTS
        for block in shell_blocks(document)
        for path in re.findall(r'"\$API(/[^"?]*)', block)
    }
    assert len(called) >= 10
    for path in called:
        assert any(re.fullmatch(pattern, path) for pattern in known), path


if __name__ == "__main__":
    sys.stdout.write(settings_table() + "\n")
