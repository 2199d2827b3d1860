"""Payouts, their methods and their rules, as customers and staff send and see them. Accounts are only ever masked."""

from typing import Annotated, Literal, Self
from uuid import UUID

import phonenumbers
import schwifty
from pydantic import AfterValidator, ConfigDict, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError
from schwifty.exceptions import InvalidChecksumDigits, InvalidCountryCode, InvalidLength, SchwiftyException

from app.models import PayoutMethodKind, PayoutProvider, PayoutStatus
from app.money import MAX_MINOR, share
from app.schemas.common import Currency, MinorAmount, Money, Page, RequestModel, ResponseModel, SafeText, UtcTime
from app.schemas.customers import Code, CurrentPassword, Email

# Zero-width joiners belong to the spelling of Urdu and Persian names; other format characters only deceive readers.
_JOINERS = "\u200c\u200d"
_MOBILE_TYPES = (phonenumbers.PhoneNumberType.MOBILE, phonenumbers.PhoneNumberType.FIXED_LINE_OR_MOBILE)


# None of these quotes what was sent: an account number must not come back in an error.


def _one_line(value: str) -> str:
    line = " ".join(value.split())
    if not all(character.isprintable() or character in _JOINERS for character in line):
        raise PydanticCustomError("unprintable", "Must consist of printable characters")
    return line


def _check_iban(value: str) -> str:
    try:
        return schwifty.IBAN(value).compact
    except InvalidCountryCode:
        raise PydanticCustomError("iban_country", "Does not begin with a country that has IBANs") from None
    except InvalidLength:
        raise PydanticCustomError("iban_length", "Has not the length of this country's IBANs") from None
    except InvalidChecksumDigits:
        raise PydanticCustomError("iban_check_digits", "Is mistyped: its check digits do not fit") from None
    except SchwiftyException:
        raise PydanticCustomError("iban_structure", "Is not built like an IBAN of its country") from None


def _check_mobile(value: str) -> str:
    wrong = PydanticCustomError("mobile_number", "Must be a valid mobile number with its country code: +92 300 1234567")
    try:
        number = phonenumbers.parse(value)
    except phonenumbers.NumberParseException:
        raise wrong from None
    if (
        number.extension
        or not phonenumbers.is_valid_number(number)
        or phonenumbers.number_type(number) not in _MOBILE_TYPES
    ):
        raise wrong
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)


def _once_each(value: list[PayoutMethodKind]) -> list[PayoutMethodKind]:
    return list(dict.fromkeys(value))


# 70 characters are what SEPA takes of a name (EPC implementation guidelines for pain.001).
Holder = Annotated[
    SafeText,
    StringConstraints(min_length=1, max_length=70),
    AfterValidator(_one_line),
    Field(description="Whose account it is, as the bank or operator knows the name.", examples=["Ayesha Khan"]),
]
Iban = Annotated[
    SafeText,
    StringConstraints(max_length=64),
    AfterValidator(_check_iban),
    Field(description="Spaces and lower case are taken too.", examples=["PK36SCBL0000001123456702"]),
]
Country = Annotated[
    str, StringConstraints(pattern=r"^[A-Z]{2}$"), Field(description="ISO 3166-1, of the bank.", examples=["PK"])
]
BankCode = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9 -]{0,33}[A-Za-z0-9]$")]
AccountNumber = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9 /-]{2,31}[A-Za-z0-9]$")]
MobileNumber = Annotated[
    SafeText, StringConstraints(max_length=64), AfterValidator(_check_mobile), Field(examples=["+923001234567"])
]
WalletName = Annotated[SafeText, StringConstraints(min_length=1, max_length=50), AfterValidator(_one_line)]


class _NewMethod(RequestModel):
    holder: Holder
    password: CurrentPassword | None = Field(
        None, description="The customer's password once more; absent only where the account has none."
    )
    code: Code | None = Field(None, description="Of `POST /v1/me/step-up`, where the customer has a verified phone.")


class NewIban(_NewMethod):
    """A bank account with an IBAN. Country, structure and check digits are verified."""

    kind: Literal[PayoutMethodKind.IBAN]
    iban: Iban


class NewLocalAccount(_NewMethod):
    """A bank account by the numbers of its country."""

    kind: Literal[PayoutMethodKind.LOCAL_ACCOUNT]
    country: Country
    bank_code: BankCode = Field(description="The bank, as its country's banks name it.", examples=["HABB"])
    account_number: AccountNumber = Field(examples=["0012-3456 7890"])


class NewMobileWallet(_NewMethod):
    """A wallet with a mobile operator. Kept in E.164."""

    kind: Literal[PayoutMethodKind.MOBILE_WALLET]
    phone: MobileNumber
    provider: WalletName = Field(description="The operator.", examples=["JazzCash"])


class NewEmailWallet(_NewMethod):
    """A wallet that an e-mail address names."""

    kind: Literal[PayoutMethodKind.EMAIL]
    email: Email
    provider: WalletName = Field(description="Who runs the wallet.", examples=["PayPal"])


NewPayoutMethod = Annotated[
    NewIban | NewLocalAccount | NewMobileWallet | NewEmailWallet,
    Field(
        discriminator="kind",
        examples=[
            {
                "kind": "iban",
                "holder": "Ayesha Khan",
                "iban": "PK36SCBL0000001123456702",
                "password": "correct horse battery staple",
            }
        ],
    ),
]


class PayoutMethodBrief(ResponseModel):
    """Where a payout goes, as far as it is shown."""

    id: UUID = Field(examples=["0197b2a4-6f0e-7b2b-9a55-1e2a3b4c5d6e"])
    kind: PayoutMethodKind
    masked: str = Field(examples=["PK •••• 6702"])


class PayoutMethodRead(PayoutMethodBrief):
    """A payout method. New ones wait, so that whoever took over a sign-in cannot empty the wallet at once."""

    usable_from: UtcTime = Field(examples=["2026-02-01T12:00:00Z"])
    created_at: UtcTime = Field(examples=["2026-01-31T12:00:00Z"])


PayoutMethodPage = Page[PayoutMethodRead]


class PayoutRequest(RequestModel):
    """How much to pay out, and where to. The fee is taken out of the amount."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"amount_minor": 250_000, "currency": "PKR", "method_id": "0197b2a4-6f0e-7b2b-9a55-1e2a3b4c5d6e"}
            ]
        }
    )

    amount_minor: int = Field(strict=True, gt=0, le=MAX_MINOR, description="In minor units.", examples=[250_000])
    currency: Currency
    method_id: UUID


class PayoutRead(ResponseModel):
    """A payout. `amount` leaves the wallet, `fee` of it stays here, `receives` arrives."""

    id: UUID = Field(examples=["0197b2a4-70aa-7c11-8f21-9d1e5c7b6a40"])
    status: PayoutStatus
    amount: Money
    fee: Money
    receives: Money
    method: PayoutMethodBrief
    reason: str | None = Field(description="Why it was rejected or failed.", examples=[None])
    created_at: UtcTime = Field(examples=["2026-01-31T12:00:00Z"])
    updated_at: UtcTime = Field(examples=["2026-01-31T12:00:00Z"])


class PayoutStep(ResponseModel):
    """A state the payout came to."""

    status: PayoutStatus
    reason: str | None
    at: UtcTime


class PayoutDetail(PayoutRead):
    """A payout with each of its states, the first one first."""

    steps: list[PayoutStep]


class PayoutAdminRead(PayoutRead):
    """A payout, as staff see it."""

    customer_id: UUID
    provider: PayoutProvider
    provider_reference: str | None = Field(description="The provider's own name of it.")
    batch_id: UUID | None
    decided_by_id: UUID | None = Field(
        description="The staff key that approved or rejected it; null: a rule, or nobody."
    )
    next_attempt_at: UtcTime | None = Field(description="When it is sent or asked about next; only with `http`.")
    tries: int


class PayoutAdminStep(PayoutStep):
    """A state the payout came to, and the staff key that brought it there; null: a rule or the provider."""

    staff_key_id: UUID | None


class PayoutAdminDetail(PayoutAdminRead):
    """A payout with its states, and what helps to decide about it."""

    account_shared_with: int = Field(
        description="Other customers who have or had a method with the same account.", examples=[0]
    )
    steps: list[PayoutAdminStep]


class PayoutRejection(RequestModel):
    """Why a payout is rejected. The customer reads it."""

    reason: SafeText = Field(min_length=1, max_length=500, examples=["The name of the account is not yours."])


class PayoutTerms(ResponseModel):
    """What holds for payouts in a currency. Amounts in its minor unit."""

    currency: Currency
    minimum_minor: MinorAmount = Field(description="Least amount of one payout.", examples=[50_000])
    fee_minor: MinorAmount = Field(description="Fixed part of the fee, taken out of the amount.", examples=[1_000])
    fee_basis_points: int = Field(description="Share of the amount that is added to it, rounded down.", examples=[50])
    daily_limit_minor: MinorAmount = Field(
        description="Most of one customer on one day (UTC), payouts that failed not counted.", examples=[5_000_000]
    )
    daily_count: int = Field(description="Most payouts of one customer on one day (UTC).", examples=[3])
    method_hold_hours: int = Field(description="How long a new method waits at least.", examples=[24])
    method_kinds: list[PayoutMethodKind] = Field(description="Kinds of methods that it is paid to.")


PayoutTermsPage = Page[PayoutTerms]


class PayoutRuleWrite(RequestModel):
    """The whole rule of a currency. Amounts in its minor unit."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "minimum_minor": 50_000,
                    "fee_minor": 1_000,
                    "fee_basis_points": 50,
                    "daily_limit_minor": 5_000_000,
                    "daily_count": 3,
                    "auto_approve_minor": 500_000,
                    "method_hold_hours": 24,
                    "provider": "batch",
                }
            ]
        }
    )

    minimum_minor: int = Field(strict=True, gt=0, le=MAX_MINOR)
    fee_minor: MinorAmount = 0
    fee_basis_points: int = Field(0, strict=True, ge=0, lt=10_000)
    daily_limit_minor: MinorAmount
    daily_count: int = Field(strict=True, ge=1, le=1_000)
    auto_approve_minor: MinorAmount = Field(0, description="Up to this amount no member of staff looks; 0: always.")
    method_hold_hours: int = Field(strict=True, ge=0, le=2_160)
    provider: PayoutProvider
    method_kinds: Annotated[list[PayoutMethodKind], AfterValidator(_once_each)] = Field(
        default_factory=lambda: list(PayoutMethodKind),
        min_length=1,
        max_length=len(PayoutMethodKind),
        description="Kinds of methods that the provider can pay to; default: all.",
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.daily_limit_minor < self.minimum_minor:
            raise ValueError("daily_limit_minor must not be below minimum_minor")
        # What is left grows with the amount, so the smallest payout tells for all.
        if self.fee_minor + share(self.minimum_minor, self.fee_basis_points, "floor") >= self.minimum_minor:
            raise ValueError("the fee of the smallest payout must leave something of it")
        return self


class PayoutRuleRead(PayoutTerms):
    """The rule of a currency, as staff see it."""

    auto_approve_minor: MinorAmount
    provider: PayoutProvider
    updated_at: UtcTime


PayoutRulePage = Page[PayoutRuleRead]
