"""The checklists of docs/security.md name tests that exist, and no line claims to hold without one."""

import re

from app.cli import ROOT

DOCUMENT = (ROOT / "docs" / "security.md").read_text()
_NAMED = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def rows(title: str) -> list[list[str]]:
    """Cells of the table below a heading, without its head."""
    section = DOCUMENT.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines[2:]]


def test_every_test_that_is_named_exists() -> None:
    named = set(_NAMED.findall(DOCUMENT))
    assert len(named) > 80
    assert len(re.findall(r"::test_", DOCUMENT)) == len(_NAMED.findall(DOCUMENT))
    for file, test in sorted(named):
        assert re.search(rf"^(async )?def {test}\(", (ROOT / file).read_text(), re.MULTILINE), f"{file}::{test}"


def test_no_line_holds_without_a_test() -> None:
    for title, most in (("OWASP API Security Top 10 (2023)", 10), ("OWASP ASVS 5.0, level 2", 60)):
        lines = rows(title)
        assert 10 <= len(lines) <= most
        for line in lines:
            # An inventory is words.
            if line[1].startswith("yes") and line[0] != "V11.1 inventory":
                assert len(line) == 4, line
                assert _NAMED.search(line[3]), line
