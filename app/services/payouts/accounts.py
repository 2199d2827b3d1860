"""The account behind a payout method: sealed, masked, and recognised without being readable."""

from dataclasses import asdict, dataclass, field
from typing import assert_never

import orjson
import phonenumbers

from app.config import Settings
from app.models import PayoutMethod, PayoutMethodKind
from app.services.secrets import keyed_hash, seal_bytes, unseal_bytes

_HIDDEN = "••••"
_MOST_SHOWN = 4


@dataclass(frozen=True, slots=True)
class PayoutAccount:
    """Where a customer's money goes, in clear: only for whoever sends it. Printing one shows its kind alone.

    What a kind does not have is None. `iban`: holder, country, iban, and bic where the bank is known.
    `local_account`: holder, country, bank_code, account_number. `mobile_wallet`: holder, phone (E.164), provider.
    `email`: holder, email, provider.
    """

    kind: PayoutMethodKind
    holder: str = field(repr=False)
    # ISO 3166-1, two letters: of the bank.
    country: str | None = field(default=None, repr=False)
    iban: str | None = field(default=None, repr=False)
    bic: str | None = field(default=None, repr=False)
    bank_code: str | None = field(default=None, repr=False)
    account_number: str | None = field(default=None, repr=False)
    phone: str | None = field(default=None, repr=False)
    provider: str | None = field(default=None, repr=False)
    email: str | None = field(default=None, repr=False)


def seal_account(settings: Settings, account: PayoutAccount) -> bytes:
    """Encrypt an account, to be kept with its method."""
    return seal_bytes(settings, orjson.dumps(asdict(account)))


def open_method(settings: Settings, method: PayoutMethod) -> PayoutAccount:
    """Decrypt the account of a method: one that a payout is open with, for a deleted one has none any more.

    Raises cryptography.fernet.InvalidToken when none of ENCRYPTION_KEYS fits.
    """
    members = orjson.loads(unseal_bytes(settings, method.details_encrypted))
    return PayoutAccount(**{**members, "kind": PayoutMethodKind(members["kind"])})


def mask(account: PayoutAccount) -> str:
    """Return what may be shown of an account: `PK •••• 6702`, `JazzCash +92 •••• 4567`, `PayPal a••••@example.com`."""
    match account.kind:
        case PayoutMethodKind.IBAN:
            return f"{account.country} {_HIDDEN} {_tail(account.iban)}"
        case PayoutMethodKind.LOCAL_ACCOUNT:
            return f"{account.bank_code} {_HIDDEN} {_tail(account.account_number)}"
        case PayoutMethodKind.MOBILE_WALLET:
            code = phonenumbers.parse(account.phone or "").country_code
            return f"{account.provider} +{code} {_HIDDEN} {_tail(account.phone)}"
        case PayoutMethodKind.EMAIL:
            name, _, domain = (account.email or "").rpartition("@")
            return f"{account.provider} {name[:1]}{_HIDDEN}@{domain}"
        case _:
            assert_never(account.kind)


def fingerprint(settings: Settings, account: PayoutAccount) -> bytes:
    """Return a keyed hash that is equal for equal accounts, whoever holds them and however they were typed."""
    parts = (
        account.country,
        account.iban,
        _plain(account.bank_code),
        _plain(account.account_number),
        account.phone,
        _plain(account.provider),
        account.email,
    )
    return keyed_hash(settings, "payout method", account.kind.value, *(part or "" for part in parts))


def _tail(number: str | None) -> str:
    # Of a short number less, so that most of it stays hidden.
    number = number or ""
    return number[-min(_MOST_SHOWN, len(number) // 3) :] if len(number) >= 3 else ""


def _plain(text: str | None) -> str | None:
    return text and "".join(filter(str.isalnum, text.casefold()))
