"""What each network sends, as files: `tests/data/postbacks/<preset>/<case>.json`.

A case has a request (`method`, `query`, `headers`, and one of `json`, `form`, `body`), what it `covers` (a status of
the preset, or a sign), the cases it comes `after`, and what is `expected` of it. `cashback source try` takes the same
files.
"""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

import httpx

from tests.webhooks.sender import SECRET, signed_headers

FOLDER = Path(__file__).resolve().parent.parent / "data" / "postbacks"
CLICK_ID = UUID("0197b2a4-6f0e-7b2b-9a55-1e2a3b4c5d6e")
KEY = "a-secret-of-the-network"


@dataclass(frozen=True)
class Postback:
    """One request of a network."""

    preset: str
    name: str
    case: dict[str, Any]

    @property
    def expected(self) -> dict[str, Any]:
        found: dict[str, Any] = self.case["expected"]
        return found

    @property
    def before(self) -> list["Postback"]:
        """What the network sent before it."""
        return [load(self.preset, name) for name in self.case.get("after", [])]

    @property
    def query(self) -> str:
        return urlencode(self.case.get("query", {}))

    @property
    def body(self) -> bytes:
        if "json" in self.case:
            return json.dumps(self.case["json"], ensure_ascii=False).encode()
        if "form" in self.case:
            return urlencode(self.case["form"]).encode()
        return b""

    @property
    def content_type(self) -> str | None:
        return {"json": "application/json", "form": "application/x-www-form-urlencoded"}.get(
            next((kind for kind in ("json", "form") if kind in self.case), "")
        )

    async def send(self, client: httpx.AsyncClient, source_key: str) -> httpx.Response:
        """Post it as the network does, signed if it signs."""
        path = f"/v1/webhooks/{source_key}" + (f"?{self.query}" if self.query else "")
        headers = {"content-type": self.content_type} if self.content_type else {}
        sign = SIGNERS.get(self.preset)
        if sign is not None:
            headers |= sign(self.body, f"http://cashback.test{path}")
        return await client.request(self.case["method"], path, content=self.body, headers=headers)


@cache
def load(preset: str, name: str) -> Postback:
    return Postback(preset, name, json.loads((FOLDER / preset / f"{name}.json").read_text()))


def all_postbacks() -> list[Postback]:
    return [load(file.parent.name, file.stem) for file in sorted(FOLDER.glob("*/*.json"))]


def secret_of(preset: str) -> str | None:
    """The secret that the source of a preset gets, or None."""
    return {"direct": SECRET, "button": KEY, "fidel": KEY, "wildfire": KEY}.get(preset)


# How the networks sign, written down once more beside what verifies it.


def _button(body: bytes, _: str) -> dict[str, str]:
    return {"X-Button-Signature": hmac.new(KEY.encode(), body, hashlib.sha256).hexdigest()}


def fidel_headers(body: bytes, url: str, *, at: float | None = None, secret: str = KEY) -> dict[str, str]:
    """Sign as Fidel does: HMAC over body, address and time in milliseconds, and over its base64 once more."""
    timestamp = str(int((at or time.time()) * 1000))

    def digest(text: bytes) -> bytes:
        return base64.b64encode(hmac.new(secret.encode(), text, hashlib.sha256).digest())

    signature = digest(digest(body + url.encode() + timestamp.encode()))
    return {"x-fidel-signature": signature.decode(), "x-fidel-timestamp": timestamp}


SIGNERS: Mapping[str, Callable[[bytes, str], dict[str, str]]] = {
    "direct": lambda body, _: signed_headers(body),
    "wildfire": lambda _, __: {"X-Callback-Key": KEY},
    "button": _button,
    "fidel": fidel_headers,
}
