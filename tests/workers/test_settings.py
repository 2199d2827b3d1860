"""Each task that is rung for has a worker that knows it, and what a missed ring leaves is looked for."""

import ast
from collections.abc import Iterator
from pathlib import Path

import app
from app.config import Settings
from app.workers.settings import WORKER_NAMES, worker_kind

PACKAGE = Path(app.__path__[0])


def rung() -> Iterator[str]:
    """Every task's name that is given to `ring_after_commit` as a text."""
    for file in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "ring_after_commit":
                name = node.args[1]
                if isinstance(name, ast.Constant):
                    yield str(name.value)


def test_every_task_that_is_rung_for_has_a_job(settings: Settings) -> None:
    kinds = [worker_kind(name, settings) for name in WORKER_NAMES]
    jobs = {function.name for kind in kinds for function in kind.functions}
    names = set(rung())
    assert {"drain_webhooks", "release_payable", "settle_referrals"} <= names
    assert names - jobs == set()


def test_what_time_brings_is_scheduled_once(settings: Settings) -> None:
    scheduled = [task.name for name in WORKER_NAMES for task in worker_kind(name, settings).schedule]
    assert len(set(scheduled)) == len(scheduled)
    assert {"release_payable", "settle_referrals", "recover_debts", "write_off_due"} <= set(scheduled)
