"""Layers: what may import what, and where the few forbidden words may stand."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import app

PACKAGE = Path(app.__path__[0])


def calls(folder: str) -> Iterator[tuple[str, ast.Call]]:
    """Every call in a folder of the package, with its place."""
    for file in sorted((PACKAGE / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call):
                yield f"{file.relative_to(PACKAGE)}:{node.lineno}", node


def functions(folder: str) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for file in sorted((PACKAGE / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{file.relative_to(PACKAGE)}:{node.lineno}", node


def statements(body: list[ast.stmt]) -> int:
    """Statements, those of inner blocks included, without the docstring."""
    own = [node for node in body if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))]
    return sum(isinstance(node, ast.stmt) for top in own for node in ast.walk(top))


def test_import_contracts_hold() -> None:
    # In a process of its own: it configures logging, and would switch our loggers off for the tests after this one.
    command = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    linted = subprocess.run(
        [sys.executable, "-c", command, "--no-cache"], cwd=PACKAGE.parent, capture_output=True, text=True, check=False
    )
    assert linted.returncode == 0, linted.stdout
    assert "0 broken" in linted.stdout


def test_services_routers_and_tasks_never_commit() -> None:
    # A call of sessions and connections; the one place that commits is app/db.py.
    found = [
        place
        for folder in ("services", "routers", "workers", "schemas", "models")
        for place, call in calls(folder)
        if isinstance(call.func, ast.Attribute) and call.func.attr in {"commit", "rollback"}
    ]
    assert found == []


def test_settings_are_built_by_applications_and_commands_only() -> None:
    found = [
        place
        for folder in ("services", "routers", "workers", "schemas", "models")
        for place, call in calls(folder)
        if isinstance(call.func, ast.Name) and call.func.id == "Settings"
    ]
    assert found == []


def test_routes_are_short() -> None:
    decorators = {"get", "post", "put", "patch", "delete", "api_route"}
    routes = [
        (place, node)
        for place, node in functions("routers")
        if any(
            isinstance(one, ast.Call) and isinstance(one.func, ast.Attribute) and one.func.attr in decorators
            for one in node.decorator_list
        )
    ]
    assert len(routes) >= 10
    assert [(place, node.name) for place, node in routes if statements(node.body) > 10] == []
    assert [(place, node.name) for place, node in routes if ast.get_docstring(node) is None] == []


def test_every_module_says_what_it_is_for() -> None:
    silent = [str(file) for file in sorted(PACKAGE.rglob("*.py")) if not ast.get_docstring(ast.parse(file.read_text()))]
    assert silent == []


def test_no_drawer_for_odds_and_ends() -> None:
    assert [file for file in PACKAGE.rglob("*.py") if file.stem in {"utils", "helpers", "crud", "common_utils"}] == []
