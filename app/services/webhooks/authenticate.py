"""Proving that a source sent a request, by what its definition says; every comparison takes the same time.

Two secrets are valid during a rotation. A token or password is taken out of what is kept; a signature is not shown.
"""

import base64
import binascii
import hmac
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from ipaddress import IPv6Address, ip_address
from typing import assert_never
from urllib.parse import unquote_to_bytes, urlsplit

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from app.schemas.source_authentication import (
    BasicAuthentication,
    ClosedAuthentication,
    HeaderPart,
    HmacAuthentication,
    LiteralPart,
    NoAuthentication,
    ParameterPart,
    RequestPart,
    SignedPart,
    SignedTime,
    StandardWebhooksAuthentication,
    TokenAuthentication,
)
from app.schemas.source_definitions import SourceDefinition
from app.services.webhooks.delivery import Delivery, read_form
from app.services.webhooks.payload import PayloadError

MESSAGE_ID = re.compile(r"[\x21-\x7e]{1,255}")
_MOST_HEADERS = 50
_MOST_HEADER_CHARACTERS = 500
# Headers that hold credentials wherever they come from.
_NEVER_KEPT = re.compile(r"authorization|cookie|signature|token|secret|password|api-?key|callback-key")


def may_send(definition: SourceDefinition, sender: str | None) -> bool:
    """Whether a request may come from this address."""
    if not definition.allowed_networks:
        return True
    try:
        address = ip_address(sender or "")
    except ValueError:
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return any(address in network for network in definition.allowed_networks)


def holds(definition: SourceDefinition, secrets: Sequence[str], delivery: Delivery) -> bool:
    """Whether one of the live secrets proves the request, now."""
    match definition.authentication:
        case NoAuthentication() | ClosedAuthentication() as rule:
            return rule.kind == "none"
        case StandardWebhooksAuthentication():
            is_named = MESSAGE_ID.fullmatch(delivery.headers.get("webhook-id", "")) is not None
            return is_named and standard_webhook_holds(secrets, delivery.body, delivery.headers)
        case HmacAuthentication() as rule:
            return _hmac_holds(rule, secrets, delivery)
        case TokenAuthentication() as rule:
            shown = _token(rule, delivery)
            if shown is None or not shown.startswith(rule.prefix):
                return False
            return _is_one_of(shown.removeprefix(rule.prefix), secrets)
        case BasicAuthentication(username=username):
            shown = _basic_credentials(delivery.headers.get("authorization", ""))
            return shown is not None and _is_one_of(shown, [f"{username}:{secret}" for secret in secrets])
        case _:
            assert_never(definition.authentication)


def standard_webhook_holds(secrets: Sequence[str], body: bytes, headers: Mapping[str, str]) -> bool:
    """Whether one of the live secrets signed these raw bytes within the last (or next) five minutes."""
    for secret in secrets:
        try:
            Webhook(secret).verify(body, dict(headers), json_parse=False)
        except (WebhookVerificationError, ValueError):
            # ValueError: a body that is no UTF-8, or a signature header that is no base64.
            continue
        return True
    return False


def without_credentials(definition: SourceDefinition, delivery: Delivery) -> Delivery:
    """Return the request as it may be kept and shown to staff."""
    rule = definition.authentication
    hidden = {rule.header} if isinstance(rule, HmacAuthentication) else set()
    query, body = delivery.query, delivery.body
    if isinstance(rule, TokenAuthentication):
        match rule.place:
            case "header":
                hidden = {rule.name.lower()}
            case "query":
                query = _without_field(query, rule.name)
            case "form":
                body = _without_field(body, rule.name)
            case _:
                assert_never(rule.place)
    headers = {
        name: value.replace("\x00", "\ufffd")[:_MOST_HEADER_CHARACTERS]
        for name, value in list(delivery.headers.items())[:_MOST_HEADERS]
        if name not in hidden and not _NEVER_KEPT.search(name)
    }
    return replace(delivery, url="", query=query, body=body, headers=headers)


def _hmac_holds(rule: HmacAuthentication, secrets: Sequence[str], delivery: Delivery) -> bool:
    timestamp = ""
    if rule.timestamp is not None:
        found = _timestamp(rule.timestamp, delivery)
        if found is None:
            return False
        timestamp = found
    content = b"".join(_part(part, delivery, timestamp) for part in rule.parts)
    shown = [one.rstrip("=") for one in _candidates(delivery.headers.get(rule.header, ""), rule.prefix)]
    if rule.encoding == "hex":
        shown = [one.lower() for one in shown]
    held = False
    for secret in secrets:
        try:
            key = _key(rule, secret)
        except (binascii.Error, ValueError):
            continue
        expected = _sign(rule, key, content).rstrip("=")
        for one in shown:
            held |= hmac.compare_digest(one.encode("utf-8", "surrogateescape"), expected.encode())
    return held


def _sign(rule: HmacAuthentication, key: bytes, content: bytes) -> str:
    encoded = ""
    for _ in range(rule.rounds):
        digest = hmac.digest(key, content, rule.algorithm)
        match rule.encoding:
            case "hex":
                encoded = digest.hex()
            case "base64":
                encoded = base64.b64encode(digest).decode()
            case "base64url":
                encoded = base64.urlsafe_b64encode(digest).decode()
            case _:
                assert_never(rule.encoding)
        content = encoded.encode()
    return encoded


def _key(rule: HmacAuthentication, secret: str) -> bytes:
    match rule.key_encoding:
        case "text":
            return secret.encode()
        case "hex":
            return bytes.fromhex(secret)
        case "base64":
            return base64.b64decode(secret, validate=True)
        case _:
            assert_never(rule.key_encoding)


def _part(part: SignedPart, delivery: Delivery, timestamp: str) -> bytes:
    match part:
        case LiteralPart():
            return part.text.encode()
        case HeaderPart():
            return delivery.headers.get(part.name, "").encode("latin-1", "replace")
        case ParameterPart():
            return _parameter(part.name, delivery).encode("utf-8", "surrogateescape")
        case RequestPart():
            values = {
                "body": delivery.body,
                "query": delivery.query,
                "url": delivery.url.encode(),
                "path": urlsplit(delivery.url).path.encode(),
                "method": delivery.method.encode(),
                "timestamp": timestamp.encode(),
            }
            return values[part.kind]
        case _:
            assert_never(part)


def _parameter(name: str, delivery: Delivery) -> str:
    for content in (delivery.query, delivery.body if delivery.is_form else b""):
        try:
            form = read_form(content)
        except PayloadError:
            continue
        if name in form:
            return form[name]
    return ""


def _timestamp(rule: SignedTime, delivery: Delivery) -> str | None:
    """Return the signed time as it is written, if it is near enough to now."""
    for text in _candidates(delivery.headers.get(rule.header, ""), rule.prefix):
        if re.fullmatch(r"[0-9]{1,16}", text):
            seconds = int(text) / 1000 if rule.unit == "milliseconds" else int(text)
            return text if abs(time.time() - seconds) <= rule.tolerance_seconds else None
    return None


def _candidates(value: str, prefix: str) -> list[str]:
    """Return what may be meant in a header with one or several values, without their prefix."""
    found = dict.fromkeys([value.strip(), *re.split(r"[,\s]+", value)])
    return [one.removeprefix(prefix) for one in found if one.startswith(prefix) and one != prefix]


def _token(rule: TokenAuthentication, delivery: Delivery) -> str | None:
    match rule.place:
        case "header":
            return delivery.headers.get(rule.name.lower())
        case "query" | "form":
            try:
                return read_form(delivery.query if rule.place == "query" else delivery.body).get(rule.name)
            except PayloadError:
                return None
        case _:
            assert_never(rule.place)


def _basic_credentials(header: str) -> str | None:
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        return base64.b64decode(encoded.strip(), validate=True).decode()
    except ValueError:  # binascii's, and that of bytes that are no UTF-8
        return None


def _is_one_of(shown: str, secrets: Sequence[str]) -> bool:
    held = False
    for secret in secrets:
        held |= hmac.compare_digest(shown.encode("utf-8", "surrogateescape"), secret.encode())
    return held


def _without_field(content: bytes, name: str) -> bytes:
    """Take a field out of a query or form and leave every other byte."""
    wanted = name.encode()
    return b"&".join(
        pair for pair in content.split(b"&") if unquote_to_bytes(pair.partition(b"=")[0].replace(b"+", b" ")) != wanted
    )
