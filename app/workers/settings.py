"""The two kinds of job worker. They share no queue: a storm of feed syncs never delays a customer's cashback."""

from app.config import Settings
from app.doorbell import DEFAULT_QUEUE, SYNC_QUEUE
from app.workers.runner import WorkerKind

WORKER_NAMES = ("default", "sync")


def worker_kind(name: str, settings: Settings) -> WorkerKind:
    """Return what a worker of this name does: `default` or `sync`."""
    match name:
        case "default":
            return WorkerKind(name="default", queue=DEFAULT_QUEUE, functions=(), schedule=(), max_jobs=10)
        case "sync":
            return WorkerKind(name="sync", queue=SYNC_QUEUE, functions=(), schedule=(), max_jobs=5)
        case _:
            raise ValueError(f"there is no worker {name!r}; choose one of {', '.join(WORKER_NAMES)}")
