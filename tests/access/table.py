"""`python -m tests.access.table` prints the table of docs/security.md that says who may call what."""

import sys

from tests.access.matrix import OPERATIONS, Caller


def access_table() -> str:
    """The matrix as Markdown."""
    callers = list(Caller)
    rows = [
        [f"`{operation.name}`", *(operation.expected(caller).value for caller in callers), operation.scope or ""]
        for operation in OPERATIONS
    ]
    head = ["operation", *(caller.value for caller in callers), "scope"]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


if __name__ == "__main__":
    sys.stdout.write(access_table() + "\n")
