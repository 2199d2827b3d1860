"""How much memory this process takes at its highest while a block runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

MIB = 1024**2


@dataclass
class Growth:
    """Bytes of resident memory above those at the block's begin; None where the system does not say (not Linux)."""

    bytes: int | None = None

    def at_most(self, limit: int) -> bool:
        return self.bytes is None or self.bytes <= limit


@contextmanager
def peak_growth() -> Iterator[Growth]:
    """Measure the block's peak of resident memory, that of C libraries included."""
    growth = Growth()
    try:
        # Linux forgets the peak so far.
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        yield growth
        return
    before = _status("VmRSS")
    yield growth
    growth.bytes = _status("VmHWM") - before


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) * 1024
