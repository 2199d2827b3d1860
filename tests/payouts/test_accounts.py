"""Accounts of payout methods: sealed with keys that rotate, shown masked, and recognised when they come again."""

import dataclasses

import pytest
from cryptography.fernet import Fernet, InvalidToken
from pydantic import SecretStr

from app.config import Settings
from app.models import PayoutMethod, PayoutMethodKind
from app.services.payouts.accounts import PayoutAccount, fingerprint, mask, open_method, seal_account

IBAN = PayoutAccount(PayoutMethodKind.IBAN, "Ayesha Khan", country="PK", iban="PK36SCBL0000001123456702")
LOCAL = PayoutAccount(
    PayoutMethodKind.LOCAL_ACCOUNT, "Ayesha Khan", country="PK", bank_code="HABB", account_number="001234567890"
)
WALLET = PayoutAccount(PayoutMethodKind.MOBILE_WALLET, "Ayesha Khan", phone="+923001234567", provider="JazzCash")
EMAIL = PayoutAccount(PayoutMethodKind.EMAIL, "Ayesha Khan", email="ayesha@example.com", provider="PayPal")
ACCOUNTS = [IBAN, LOCAL, WALLET, EMAIL]


def keyed(settings: Settings, *keys: bytes) -> Settings:
    return settings.model_copy(update={"encryption_keys": [SecretStr(key.decode()) for key in keys]})


@pytest.mark.parametrize("account", ACCOUNTS)
def test_an_account_is_the_same_after_it_was_sealed(settings: Settings, account: PayoutAccount) -> None:
    method = PayoutMethod(details_encrypted=seal_account(settings, account))
    assert open_method(settings, method) == account
    assert open_method(settings, method).kind is account.kind


def test_an_account_sealed_by_an_old_key_opens_until_the_key_is_gone(settings: Settings) -> None:
    old, new = Fernet.generate_key(), Fernet.generate_key()
    before, during, after = keyed(settings, old), keyed(settings, new, old), keyed(settings, new)
    kept = PayoutMethod(details_encrypted=seal_account(before, IBAN))
    assert open_method(during, kept) == IBAN
    added = PayoutMethod(details_encrypted=seal_account(during, LOCAL))
    assert open_method(after, added) == LOCAL
    with pytest.raises(InvalidToken):
        open_method(after, kept)


@pytest.mark.parametrize(
    ("account", "shown"),
    [
        (IBAN, "PK •••• 6702"),
        (LOCAL, "HABB •••• 7890"),
        (dataclasses.replace(LOCAL, account_number="12345"), "HABB •••• 5"),
        (WALLET, "JazzCash +92 •••• 4567"),
        (EMAIL, "PayPal a••••@example.com"),
    ],
)
def test_a_mask_shows_no_more_than_its_owner_needs(account: PayoutAccount, shown: str) -> None:
    assert mask(account) == shown


@pytest.mark.parametrize("account", ACCOUNTS)
def test_printing_an_account_shows_nothing_of_it(account: PayoutAccount) -> None:
    assert repr(account) == f"PayoutAccount(kind={account.kind!r})"


def test_equal_accounts_have_equal_fingerprints_however_they_were_typed(settings: Settings) -> None:
    for account, again in (
        (IBAN, dataclasses.replace(IBAN, holder="A. Khan")),
        (LOCAL, dataclasses.replace(LOCAL, bank_code="habb", account_number="0012-3456 7890")),
        (WALLET, dataclasses.replace(WALLET, provider="Jazz Cash")),
        (EMAIL, dataclasses.replace(EMAIL, provider="PAYPAL")),
    ):
        assert fingerprint(settings, account) == fingerprint(settings, again)


def test_unequal_accounts_have_unequal_fingerprints_that_need_the_key(settings: Settings) -> None:
    others = [
        dataclasses.replace(LOCAL, country="IN"),
        dataclasses.replace(LOCAL, bank_code="HABB0", account_number="01234567890"),
        dataclasses.replace(WALLET, provider="Easypaisa"),
        dataclasses.replace(EMAIL, email="bilal@example.com"),
    ]
    seen = [fingerprint(settings, account) for account in [*ACCOUNTS, *others]]
    assert len(set(seen)) == len(seen)
    assert {len(one) for one in seen} == {32}
    foreign = settings.model_copy(update={"secret_key": SecretStr("another key of thirty-two characters or more")})
    assert fingerprint(foreign, IBAN) != fingerprint(settings, IBAN)
