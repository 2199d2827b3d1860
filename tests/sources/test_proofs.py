"""Whoever cannot prove to be the source is refused, and nothing of it is stored; over real HTTP, for each proof."""

import base64
import hashlib
import hmac
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select

from app.config import Settings
from app.db import transaction
from app.models import SourceStatus, WebhookEvent
from app.schemas.source_definitions import SourceDefinition
from app.services.secrets import seal
from app.services.sources import get_preset
from tests.factories import make_source
from tests.sources.postbacks import KEY, fidel_headers
from tests.webhooks.sender import SECRET, signed_headers

BODY = b'{"id": "hook-1", "event_type": "tx-pending", "data": {"button_order_id": "b-1"}}'
Headers = dict[str, str]


@dataclass(frozen=True)
class Proof:
    """A way of proving a request: how it is made, at another time, and with another secret."""

    definition: SourceDefinition
    secret: str
    make: Callable[[bytes, str, float, str], Headers]
    proves_body: bool = True
    proves_time: bool = True


def _signed(body: bytes, _: str, offset: float, secret: str) -> Headers:
    return signed_headers(body, at=datetime.now(UTC) + timedelta(seconds=offset), secret=secret)


def _stripe_like(body: bytes, _: str, offset: float, secret: str) -> Headers:
    at = str(int(time.time() + offset))
    digest = hmac.new(secret.encode(), at.encode() + b"." + body, hashlib.sha512).hexdigest()
    return {"x-sign": f"t={at},v1={digest}"}


def _basic(_: bytes, __: str, ___: float, secret: str) -> Headers:
    return {"authorization": f"Basic {base64.b64encode(f'network:{secret}'.encode()).decode()}"}


def changed(preset: str, authentication: Any) -> SourceDefinition:
    return get_preset(preset).definition.model_copy(
        update={
            "authentication": SourceDefinition.model_validate(
                {
                    "authentication": authentication,
                    "transport": {"accepts": ["json"]},
                    "reading": {"mapping": {"order_reference": "id"}},
                    "subid_parameter": "s",
                }
            ).authentication
        }
    )


PROOFS = {
    "standard webhooks": Proof(get_preset("direct").definition, SECRET, _signed),
    "hmac of the body": Proof(
        get_preset("button").definition,
        KEY,
        lambda body, _, __, secret: {"x-button-signature": hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()},
        proves_time=False,
    ),
    "hmac of body, address and time, twice": Proof(
        get_preset("fidel").definition,
        KEY,
        lambda body, url, offset, secret: fidel_headers(body, url, at=time.time() + offset, secret=secret),
    ),
    "hmac with its time in one header": Proof(
        changed(
            "button",
            {
                "kind": "hmac",
                "parts": ["timestamp", {"kind": "literal", "text": "."}, "body"],
                "timestamp": {"header": "x-sign", "prefix": "t="},
                "header": "x-sign",
                "prefix": "v1=",
                "algorithm": "sha512",
            },
        ),
        KEY,
        _stripe_like,
    ),
    "token": Proof(
        get_preset("wildfire").definition,
        KEY,
        lambda _, __, ___, secret: {"x-callback-key": secret},
        proves_body=False,
        proves_time=False,
    ),
    "basic": Proof(
        changed("button", {"kind": "basic", "username": "network"}),
        KEY,
        _basic,
        proves_body=False,
        proves_time=False,
    ),
}


async def count_events() -> int:
    async with transaction() as session:
        return (await session.scalars(select(func.count()).select_from(WebhookEvent))).one()


@pytest.mark.parametrize("proof", PROOFS.values(), ids=PROOFS.keys())
async def test_what_is_not_proven_is_refused_and_not_stored(
    committed_db: Settings, committed_client: httpx.AsyncClient, proof: Proof
) -> None:
    async with transaction() as session:
        source = await make_source(
            session, definition=proof.definition, secrets_encrypted=seal(committed_db, [proof.secret])
        )
    path = f"/v1/webhooks/{source.source_key}?event=transaction.auth"
    url = f"http://cashback.test{path}"
    other = "whsec_" + "A" * 44 if proof.secret == SECRET else "another secret"
    good = proof.make(BODY, url, 0, proof.secret)
    name = next(
        key for key in good if key not in {"content-type", "webhook-id", "webhook-timestamp", "x-fidel-timestamp"}
    )
    spoiled: dict[str, tuple[bytes, Headers]] = {
        "another secret": (BODY, proof.make(BODY, url, 0, other)),
        "nothing": (BODY, {}),
        "empty": (BODY, good | {name: ""}),
        "half": (BODY, good | {name: good[name][: len(good[name]) // 2]}),
        "no ASCII": (BODY, good | {name: "\xff"}),
        "garbage": (BODY, good | {name: "v1,%%% t=x"}),
    }
    if proof.proves_body:
        spoiled |= {"a byte": (BODY.replace(b"b-1", b"b-2"), good), "truncated": (BODY[:-1], good)}
    if proof.proves_time:
        spoiled |= {
            "late": (BODY, proof.make(BODY, url, -301, proof.secret)),
            "early": (BODY, proof.make(BODY, url, 302, proof.secret)),
        }
    for what, (body, headers) in spoiled.items():
        raw = [(key.encode(), value.encode("latin-1")) for key, value in headers.items()]
        answer = await committed_client.post(path, content=body, headers=raw)
        assert (answer.status_code, answer.json()["code"]) == (401, "invalid_signature"), what
    unknown = await committed_client.post("/v1/webhooks/nobody", content=BODY, headers=good)
    assert (unknown.status_code, unknown.json()["code"]) == (404, "unknown_source")
    assert await count_events() == 0
    assert (await committed_client.post(path, content=BODY, headers=good)).status_code == 202
    async with transaction() as session:
        kept = (await session.scalars(select(WebhookEvent))).one()
        assert not [value for value in kept.headers.values() if value in (good[name], proof.secret)]
        stored = await session.merge(source)
        stored.status = SourceStatus.DISABLED
    assert (await committed_client.post(path, content=BODY, headers=good)).status_code == 404


async def test_a_request_from_elsewhere_is_refused(committed_client: httpx.AsyncClient) -> None:
    impact = get_preset("impact").definition.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    async with transaction() as session:
        here, there = [
            await make_source(
                session, definition=SourceDefinition.model_validate({**impact, "allowed_networks": [one]})
            )
            for one in ("127.0.0.0/8", "192.0.2.0/24")
        ]
    refused = await committed_client.get(f"/v1/webhooks/{there.source_key}?ActionId=1")
    assert (refused.status_code, refused.json()["code"]) == (403, "sender_not_allowed")
    assert await count_events() == 0
    assert (await committed_client.get(f"/v1/webhooks/{here.source_key}?ActionId=1")).status_code == 202


async def test_a_token_in_the_address_is_not_kept(committed_db: Settings, committed_client: httpx.AsyncClient) -> None:
    token = {"kind": "token", "in": "query", "name": "key"}
    affise = get_preset("affise").definition.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    async with transaction() as session:
        source = await make_source(
            session,
            definition=SourceDefinition.model_validate({**affise, "authentication": token}),
            secrets_encrypted=seal(committed_db, [KEY]),
        )
    url = f"/v1/webhooks/{source.source_key}?transactionid=1&status=2"
    assert (await committed_client.get(url)).status_code == 401
    assert (await committed_client.get(f"{url}&key=wrong")).status_code == 401
    first = await committed_client.get(f"{url}&key={KEY}")
    assert first.status_code == 202
    # So it is the same event, also with the next token.
    async with transaction() as session:
        (await session.merge(source)).secrets_encrypted = seal(committed_db, ["the next token", KEY])
    again = await committed_client.get(f"{url}&key=the+next+token")
    assert again.json() == {"event_id": first.json()["event_id"], "status": "duplicate"}
    async with transaction() as session:
        assert (await session.scalars(select(WebhookEvent))).one().query == b"transactionid=1&status=2"
