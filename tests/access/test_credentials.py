"""Whatever is sent in a credential's place: no key but the one that was made opens anything, and nothing fails.

Access tokens of customers are in tests/test_tokens.py.
"""

import string

import httpx
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.models import StaffKey
from app.schemas.merchant_keys import MerchantKeyCreate
from app.services import merchant_keys, staff
from app.services.rate_limits import RequestClasses
from tests.factories import customer_headers, make_customer, make_merchant, staff_headers

# What may stand in a field on the wire.
values = st.binary(max_size=80).map(lambda raw: bytes(byte for byte in raw if byte >= 32 and byte != 127))
schemes = st.sampled_from([b"Bearer ", b"bearer ", b"Bearer  ", b"Basic ", b"ApiKey ", b"DPoP ", b"Bearer", b""])
HUGE = [b"x" * 20_000, b"cbk_" * 4_000, b"cbm_aaaaaaaa_" + b"_" * 15_000]


@st.composite
def altered(draw: st.DrawFn, key: str) -> bytes:
    """The key with some characters replaced, added or gone, in another case, or as another kind's."""
    at = draw(st.integers(0, len(key) - 1))
    put = draw(st.text(string.printable.strip() + "é", max_size=3))
    other = draw(
        st.sampled_from([key[:at] + put + key[at + 1 :], key[:at], key + put, key.upper(), key[::-1], "cbx" + key[3:]])
    )
    return other.encode("latin-1")


@pytest.fixture
async def keys(session: AsyncSession, client: httpx.AsyncClient, settings: Settings) -> dict[str, str]:
    """A valid credential of each kind, by a path that it opens."""
    client._transport.app.state.request_classes = RequestClasses(factor=0)  # type: ignore[attr-defined]
    of_staff = (await staff_headers(session))["X-API-Key"]
    member = await staff.authenticate(session, of_staff)
    assert isinstance(member, StaffKey)
    made = await merchant_keys.create_key(
        session,
        merchant_id=(await make_merchant(session)).id,
        wanted=MerchantKeyCreate(name="shop"),
        member_id=member.id,
    )
    customer = customer_headers(settings, await make_customer(session))["Authorization"].removeprefix("Bearer ")
    return {"/v1/admin/orders": of_staff, "/v1/merchant/orders": made.key, "/v1/me": customer}


async def test_no_credential_but_the_right_one_opens_anything(client: httpx.AsyncClient, keys: dict[str, str]) -> None:
    for path, key in keys.items():
        assert (await client.get(path, headers={"Authorization": f"Bearer {key}"})).status_code == 200

    @hypothesis_settings(
        max_examples=120, deadline=None, database=None, derandomize=True, suppress_health_check=[*HealthCheck]
    )
    @given(
        path=st.sampled_from(list(keys)),
        field=st.sampled_from([b"authorization", b"x-api-key"]),
        scheme=schemes,
        value=values | st.one_of([altered(key) for key in keys.values()]) | st.sampled_from(HUGE),
    )
    def draw(path: str, field: bytes, scheme: bytes, value: bytes) -> None:
        drawn.append((path, field, (scheme if field == b"authorization" else b"") + value))

    drawn: list[tuple[str, bytes, bytes]] = []
    draw()
    right = {key.encode() for key in keys.values()}
    for path, field, value in drawn:
        if value.split(b" ")[-1] not in right:
            answer = await client.get(path, headers=[(field, value)])
            assert answer.status_code == 401, (path, field, value)


async def test_each_credential_opens_its_own_routes_only(client: httpx.AsyncClient, keys: dict[str, str]) -> None:
    for path, own in keys.items():
        for other, key in keys.items():
            for headers in ({"Authorization": f"Bearer {key}"}, {"X-API-Key": key}):
                expected = 200 if path == other and (path != "/v1/me" or "Authorization" in headers) else 401
                assert (await client.get(path, headers=headers)).status_code == expected, (path, other)
        # Of two, the first one counts.
        both = [("Authorization", "Bearer x"), ("Authorization", f"Bearer {own}")]
        assert (await client.get(path, headers=both)).status_code == 401
        assert (await client.get(path, auth=httpx.BasicAuth("cashback", own))).status_code == 401
