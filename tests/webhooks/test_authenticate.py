"""Who may send, and what of a request is kept: each way of proving it, and each way of failing to."""

import base64
import hashlib
import hmac
import time
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from app.schemas.source_definitions import SourceDefinition
from app.services.webhooks.authenticate import holds, may_send, without_credentials
from app.services.webhooks.delivery import Delivery

KEY = "a-secret-of-the-network"
URL = "https://api.example/v1/webhooks/key?event=sale"
BODY = b'{"id": 1}'


def definition(authentication: Any, **more: Any) -> SourceDefinition:
    return SourceDefinition.model_validate(
        {
            "authentication": authentication,
            "transport": {"accepts": ["json"]},
            "reading": {"mapping": {"order_reference": "id"}},
            "subid_parameter": "s",
            **more,
        }
    )


def delivery(headers: dict[str, str] | None = None, *, body: bytes = BODY, url: str = URL) -> Delivery:
    return Delivery("POST", url, url.partition("?")[2].encode(), headers or {}, body)


def hmac_rule(**changes: Any) -> dict[str, Any]:
    return {"kind": "hmac", "parts": ["body"], "header": "X-Sign", **changes}


ENCODINGS: dict[str, Callable[[bytes], str]] = {
    "hex": bytes.hex,
    "base64": lambda digest: base64.b64encode(digest).decode(),
    "base64url": lambda digest: base64.urlsafe_b64encode(digest).decode().rstrip("="),
}


@pytest.mark.parametrize("algorithm", ["sha256", "sha512", "sha1"])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_an_hmac_in_each_algorithm_and_encoding(algorithm: str, encoding: str) -> None:
    rule = definition(hmac_rule(algorithm=algorithm, encoding=encoding, prefix="v1="))
    digest = hmac.new(KEY.encode(), BODY, getattr(hashlib, algorithm)).digest()
    signature = "v1=" + ENCODINGS[encoding](digest)
    assert holds(rule, [KEY], delivery({"x-sign": signature}))
    assert holds(rule, ["another", KEY], delivery({"x-sign": f"v0=x, {signature}"}))
    for wrong in ("", signature[3:], signature[:-3], signature.replace("v1", "v2"), "v1=", "v1=ü"):
        assert not holds(rule, [KEY], delivery({"x-sign": wrong}))
    assert not holds(rule, [KEY], delivery())
    assert not holds(rule, [KEY], delivery({"x-sign": signature}, body=BODY + b" "))
    assert not holds(rule, ["another"], delivery({"x-sign": signature}))
    assert not holds(rule, [], delivery({"x-sign": signature}))


@pytest.mark.parametrize(
    ("key_encoding", "secret", "key"),
    [
        ("text", "abcd1234", b"abcd1234"),
        ("hex", "abcd1234", b"\xab\xcd\x12\x34"),
        ("base64", "q80SNA==", b"\xab\xcd\x124"),
    ],
)
def test_a_secret_writes_its_key(key_encoding: str, secret: str, key: bytes) -> None:
    rule = definition(hmac_rule(key_encoding=key_encoding))
    signature = hmac.new(key, BODY, hashlib.sha256).hexdigest()
    assert holds(rule, [secret], delivery({"x-sign": signature}))
    assert not holds(rule, ["not written so"], delivery({"x-sign": signature})) or key_encoding == "text"


def test_an_hmac_over_chosen_parts() -> None:
    parts = [
        "method",
        {"kind": "literal", "text": "|"},
        "path",
        "query",
        {"kind": "header", "name": "X-Id"},
        {"kind": "parameter", "name": "event"},
        {"kind": "parameter", "name": "missing"},
        "url",
        "body",
    ]
    rule = definition(hmac_rule(parts=parts))
    content = b"POST|/v1/webhooks/keyevent=sale" + b"id-7" + b"sale" + URL.encode() + BODY
    signature = hmac.new(KEY.encode(), content, hashlib.sha256).hexdigest()
    assert holds(rule, [KEY], delivery({"x-sign": signature, "x-id": "id-7"}))
    assert not holds(rule, [KEY], delivery({"x-sign": signature, "x-id": "id-8"}))
    assert not holds(rule, [KEY], delivery({"x-sign": signature, "x-id": "id-7"}, url=URL.replace("sale", "void")))


@pytest.mark.parametrize(("seconds", "held"), [(0, True), (-299, True), (299, True), (-301, False), (302, False)])
@pytest.mark.parametrize("unit", ["seconds", "milliseconds"])
def test_a_signed_time_is_near(seconds: int, unit: str, *, held: bool) -> None:
    rule = definition(
        hmac_rule(
            parts=["timestamp", {"kind": "literal", "text": "."}, "body"],
            prefix="v1=",
            timestamp={"header": "x-sign", "prefix": "t=", "unit": unit},
        )
    )
    at = str(int((time.time() + seconds) * (1000 if unit == "milliseconds" else 1)))
    signature = hmac.new(KEY.encode(), f"{at}.".encode() + BODY, hashlib.sha256).hexdigest()
    assert holds(rule, [KEY], delivery({"x-sign": f"t={at},v1={signature}"})) is held
    assert not holds(rule, [KEY], delivery({"x-sign": f"t={int(at) + 1},v1={signature}"}))
    assert not holds(rule, [KEY], delivery({"x-sign": f"v1={signature}"}))
    assert not holds(rule, [KEY], delivery({"x-sign": f"t=soon,v1={signature}"}))


@pytest.mark.parametrize("place", ["header", "query", "form"])
def test_a_token_wherever_it_comes(place: str) -> None:
    rule = definition(
        {"kind": "token", "in": place, "name": "X-Token", "prefix": "key "}, transport={"accepts": ["form", "query"]}
    )

    def shown(token: str) -> Delivery:
        field = f"a=1&X-Token={token}".encode()
        match place:
            case "header":
                return Delivery("POST", "", b"", {"x-token": token.replace("+", " ")}, b"a=1")
            case "query":
                return Delivery("GET", "", field, {}, b"")
            case _:
                return Delivery("POST", "", b"", {"content-type": "application/x-www-form-urlencoded"}, field)

    assert holds(rule, ["old", KEY], shown(f"key+{KEY}"))
    for wrong in (KEY, "key+", "key+other", f"key+{KEY}x", ""):
        assert not holds(rule, [KEY], shown(wrong))
    kept = without_credentials(rule, shown(f"key+{KEY}"))
    assert KEY not in repr(kept)
    assert b"a=1" in kept.query + kept.body


def test_basic_authentication() -> None:
    rule = definition({"kind": "basic", "username": "network"})

    def shown(credentials: bytes, scheme: str = "Basic") -> Delivery:
        return delivery({"authorization": f"{scheme} {base64.b64encode(credentials).decode()}"})

    assert holds(rule, [KEY], shown(f"network:{KEY}".encode()))
    for wrong in (b"network:", f"other:{KEY}".encode(), b"network", b"\xff:\xff"):
        assert not holds(rule, [KEY], shown(wrong))
    assert not holds(rule, [KEY], shown(f"network:{KEY}".encode(), "Bearer"))
    assert not holds(rule, [KEY], delivery({"authorization": "Basic %%%"}))
    assert not holds(rule, [KEY], delivery())


def test_senders_outside_the_allowed_networks_may_not_send() -> None:
    rule = definition("none", allowed_networks=["192.0.2.0/24", "2001:db8::/32", "198.51.100.7"])
    for allowed in ("192.0.2.9", "198.51.100.7", "2001:db8::1", "::ffff:192.0.2.9"):
        assert may_send(rule, allowed)
    for refused in ("192.0.3.1", "198.51.100.8", "2001:db9::1", "::ffff:10.0.0.1", "localhost", "", None):
        assert not may_send(rule, refused)
    assert may_send(definition("none"), None)


def test_what_is_kept_shows_no_credentials() -> None:
    headers = {
        "content-type": "application/json",
        "user-agent": "Network/1.0",
        "x-id": "a\x00b",
        "x-sign": "signature",
        "authorization": "Basic x",
        "cookie": "x",
        "x-other-signature": "x",
        "x-api-key": "x",
        "x-long": "x" * 1000,
        **{f"x-{number}": "x" for number in range(60)},
    }
    kept = without_credentials(definition(hmac_rule()), delivery(headers))
    assert not {"x-sign", "authorization", "cookie", "x-other-signature", "x-api-key"} & kept.headers.keys()
    assert (kept.headers["user-agent"], kept.headers["x-id"], len(kept.headers["x-long"])) == (
        "Network/1.0",
        "a\ufffdb",
        500,
    )
    assert len(kept.headers) <= 50
    assert kept.body == BODY


@pytest.mark.parametrize(
    ("authentication", "accepts", "reason"),
    [
        (hmac_rule(parts=["timestamp", "body"]), ["json"], "need each other"),
        (hmac_rule(timestamp={"header": "x-time"}), ["json"], "need each other"),
        (hmac_rule(), ["json", "query"], "does not cover a query"),
        (hmac_rule(parts=["query"]), ["json", "query"], "does not cover a body"),
        ("standard_webhooks", ["query"], "sign a body"),
        ({"kind": "token", "in": "header", "name": "a b"}, ["json"], "no header"),
        ({"kind": "magic"}, ["json"], "magic"),
    ],
)
def test_a_proof_that_proves_too_little_is_refused(authentication: Any, accepts: list[str], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        definition(authentication, transport={"accepts": accepts})


def test_only_a_proof_of_the_payload_makes_a_source_signed() -> None:
    signed = ["standard_webhooks", hmac_rule(), hmac_rule(parts=["url", "body"])]
    unsigned = [
        "none",
        {"kind": "token", "in": "header", "name": "x"},
        {"kind": "basic", "username": "u"},
        hmac_rule(parts=[{"kind": "parameter", "name": "id"}]),
    ]
    assert [definition(one).is_signed for one in signed + unsigned] == [True] * 3 + [False] * 4
