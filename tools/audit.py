"""Asks OSV (osv.dev) about known vulnerabilities of everything that the lock pins: `python -m tools.audit`.

Exit code 1 means that there are some. Where the service cannot be reached nothing was audited, and that is said: with
code 0, for a check without internet must still check the rest; with `AUDIT=required` with code 2, for the scheduled
run that is there to audit. `OSV_URL` names a mirror.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

LOCK = Path(__file__).resolve().parent.parent / "requirements.lock"
_OSV_URL = "https://api.osv.dev/v1/query"
_SECONDS = "5"
# How pip-audit and what is below it name a service that does not answer, in the last line of their traceback.
_UNREACHABLE = re.compile(r"(ConnectionError|ConnectTimeout|ReadTimeout|ProxyError|SSLError|ServiceError)\b")


def main(lock: Path = LOCK) -> int:
    """Audit, say what came of it, and return the exit code."""
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(lock), "--require-hashes", "--disable-pip"]
    command += ["--vulnerability-service", "osv", "--osv-url", os.environ.get("OSV_URL", _OSV_URL)]
    command += ["--timeout", _SECONDS, "--progress-spinner", "off"]
    audit = subprocess.run(command, capture_output=True, text=True, check=False)
    if audit.returncode == 0:
        sys.stdout.write(f"Audited {lock.name}: no known vulnerability.\n")
        return 0
    last = (audit.stderr.strip().splitlines() or [""])[-1]
    if not audit.stdout.strip() and _UNREACHABLE.search(last):
        sys.stderr.write("NOT AUDITED: the vulnerability service does not answer; run again where it can be reached.\n")
        return 2 if os.environ.get("AUDIT") == "required" else 0
    sys.stderr.write(audit.stdout + audit.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
