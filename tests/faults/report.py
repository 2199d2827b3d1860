"""The table at the end of `make test-faults`: what was done to the service, and what came of it."""

from collections.abc import Callable
from typing import Any

import pytest

_PROPERTY = "fault"
_COLUMNS = ("row", "fault", "load", "lost", "doubled", "errors", "recovered")

Note = Callable[..., None]


@pytest.fixture
def note(request: pytest.FixtureRequest) -> Note:
    """Note one line of the table; `recovered`: seconds from the fault's end to the last error, or to all work done."""

    def add(row: int | str, fault: str, load: str, **found: Any) -> None:
        recovered = found.get("recovered")
        request.node.user_properties.append(
            (
                _PROPERTY,
                [
                    str(row),
                    fault,
                    load,
                    *(str(found.get(name, 0)) for name in ("lost", "doubled", "errors")),
                    "-" if recovered is None else f"{max(0.0, recovered):.1f} s",
                ],
            )
        )

    return add


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table, when there is something in it."""
    lines = [
        [str(part) for part in value] + ["" if outcome == "passed" else outcome.upper()]
        for outcome in ("passed", "failed")
        for report in terminalreporter.stats.get(outcome, [])
        for name, value in getattr(report, "user_properties", ())
        if name == _PROPERTY and report.when == "call"
    ]
    if not lines:
        return
    lines.sort(key=lambda line: (int(line[0]) if line[0].isdigit() else 1000, line[1]))
    table = [[*_COLUMNS, ""], *lines]
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    terminalreporter.section("faults")
    for line in table:
        terminalreporter.write_line(
            "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        )
