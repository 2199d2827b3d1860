"""The checks of dependencies and secrets find what they are for, and say when they could not look."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from tests.service import free_port
from tools import audit, secret_scan

PINNED = "left==1.0 \\\n    --hash=sha256:" + "0" * 64 + "\n"
VULNERABLE = {
    "id": "OSV-2026-1",
    "summary": "Pays twice",
    "details": "Pays twice.",
    "modified": "2026-01-01T00:00:00Z",
    "affected": [
        {
            "package": {"name": "left", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "1.1"}]}],
            "versions": ["1.0"],
        }
    ],
}


@contextmanager
def osv(answer: dict[str, Any]) -> Iterator[str]:
    """The vulnerability service, on loopback."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            body = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        serving = Thread(target=server.serve_forever)
        serving.start()
        yield f"http://127.0.0.1:{server.server_port}/v1/query"
        server.shutdown()
        serving.join()


def run_audit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, **environment: str) -> int:
    lock = tmp_path / "requirements.lock"
    lock.write_text(PINNED)
    monkeypatch.setenv("OSV_URL", url)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return audit.main(lock)


def test_a_known_vulnerability_fails_the_check_and_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with osv({"vulns": [VULNERABLE]}) as url:
        assert run_audit(tmp_path, monkeypatch, url) == 1
    assert "OSV-2026-1" in capsys.readouterr().err


def test_a_lock_without_one_is_said_to_be_audited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with osv({}) as url:
        assert run_audit(tmp_path, monkeypatch, url) == 0
    assert capsys.readouterr().out == "Audited requirements.lock: no known vulnerability.\n"


@pytest.mark.parametrize(("required", "code"), [("", 0), ("required", 2)])
def test_without_the_service_nobody_claims_to_have_audited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], required: str, code: int
) -> None:
    url = f"http://127.0.0.1:{free_port()}/v1/query"
    assert run_audit(tmp_path, monkeypatch, url, AUDIT=required) == code
    said = capsys.readouterr()
    assert said.err.startswith("NOT AUDITED: ")
    assert said.out == ""


def test_a_lock_that_cannot_be_read_fails_the_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OSV_URL", "http://127.0.0.1:1/")
    assert audit.main(tmp_path / "missing.lock") == 1


def test_secrets_of_the_usual_kinds_are_found(tmp_path: Path) -> None:
    # In pieces, so that this file has none.
    secrets = {
        "key.pem": "-----BEGIN RSA " + "PRIVATE KEY-----",
        "aws.py": "key = 'AKIA" + "IOSFODNN7ABCDEFG'",
        "url.txt": "postgresql://cashback:" + "0f8fad5bd9cb469f" + "@db.internal/cashback",
        "token.py": "token = 'ghp_" + "aZ09" * 9 + "'",
    }
    for name, text in secrets.items():
        (tmp_path / name).write_text(text + "\n")
    (tmp_path / "harmless.py").write_text("total = sum(amounts)\n")
    found = secret_scan.scan(tmp_path, [*secrets, "harmless.py"])
    assert set(found.files) == set(secrets)


def test_a_new_secret_fails_the_check_until_it_is_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tools").mkdir()
    (tmp_path / secret_scan.BASELINE).write_text("[]")
    (tmp_path / "key.pem").write_text("-----BEGIN " + "PRIVATE KEY-----\n")
    for command in (["init", "--quiet"], ["add", "--all"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    monkeypatch.setattr(secret_scan, "ROOT", tmp_path)
    assert secret_scan.main([]) == 1
    assert "key.pem:1: Private Key" in capsys.readouterr().err
    assert secret_scan.main(["--accept"]) == 0
    assert secret_scan.main([]) == 0
