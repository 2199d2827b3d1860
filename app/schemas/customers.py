"""Customers and their tokens, as the contract shows them."""

from enum import StrEnum
from typing import Annotated, Any, Literal, Self, assert_never
from uuid import UUID

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    EmailStr,
    Field,
    SecretStr,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from app.common_passwords import SHORTEST, is_common
from app.models import CustomerStatus
from app.schemas.common import RequestModel, ResponseModel, SafeText, UtcTime


def _without_reason(value: Any, handler: ValidatorFunctionWrapHandler) -> str:  # noqa: ANN401 - the type is not known yet
    try:
        address: str = handler(value)
    except ValidationError:
        # The library's reasons quote what was sent, and people do type passwords into the wrong field.
        raise PydanticCustomError("email", "Input should be an e-mail address") from None
    return address


def _encodable(value: Any) -> Any:  # noqa: ANN401 - the type is not known yet
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            # JSON can spell half a surrogate pair; nothing can be computed from it.
            raise PydanticCustomError("string_unicode", "Input should be valid Unicode") from None
    return value


def _uncommon(value: SecretStr) -> SecretStr:
    if is_common(value.get_secret_value()):
        raise PydanticCustomError("common_password", "Input is one of the passwords that are tried first; use another")
    return value


# At most 254 characters fit the path of SMTP (RFC 5321, 4.5.3.1.3).
Email = Annotated[
    EmailStr,
    WrapValidator(_without_reason),
    AfterValidator(str.lower),
    Field(max_length=254, examples=["ayesha@example.com"]),
]
# 128 characters are at most 512 bytes of UTF-8: long enough for any passphrase, short enough to hash.
NewPassword = Annotated[
    SecretStr,
    BeforeValidator(_encodable),
    AfterValidator(_uncommon),
    Field(min_length=SHORTEST, max_length=128, examples=["correct horse battery staple"]),
]
# Of any length that was ever allowed: what confirms is only compared.
CurrentPassword = Annotated[
    SecretStr,
    BeforeValidator(_encodable),
    Field(
        min_length=1,
        max_length=128,
        description="The customer's password once more: a stolen token alone shall not be enough.",
        examples=["correct horse battery staple"],
    ),
]
Code = Annotated[
    SecretStr,
    BeforeValidator(_encodable),
    Field(min_length=6, max_length=6, description="The six digits of the message.", examples=["042917"]),
]
MailedToken = Annotated[
    SecretStr,
    BeforeValidator(_encodable),
    Field(min_length=1, max_length=128, description="As the mail has it.", examples=["cbo_1P0a..."]),
]
DisplayName = Annotated[SafeText, Field(min_length=1, max_length=100, examples=["Ayesha"])]
DeviceLabel = Annotated[SafeText, Field(min_length=1, max_length=100, examples=["Ayesha's phone"])]
ReferralCode = Annotated[SafeText, Field(min_length=1, max_length=32, examples=["7KD2MQ9X"])]


class CustomerRegistration(RequestModel):
    """Who wants an account."""

    email: Email
    password: NewPassword
    display_name: DisplayName | None = None
    referral_code: ReferralCode | None = Field(None, description="The code of the customer who sent this one.")


class ProfileChange(RequestModel):
    """What to change; a member that is absent stays, `null` removes."""

    display_name: DisplayName | None = None


class CustomerProfile(ResponseModel):
    """A customer, as shown to that customer."""

    id: UUID = Field(examples=["0197b2a4-6f0e-7b2b-9a55-1e2a3b4c5d6e"])
    email: str = Field(examples=["ayesha@example.com"])
    email_verified: bool = Field(examples=[True], description="Without it nothing is paid out.")
    phone: str | None = Field(examples=["+923001234567"], description="Verified: the second factor.")
    display_name: str | None = Field(examples=["Ayesha"])
    referral_code: str = Field(examples=["7KD2MQ9X"], description="For friends to register with.")
    status: CustomerStatus = Field(examples=[CustomerStatus.ACTIVE])
    created_at: UtcTime = Field(examples=["2026-01-31T12:00:00Z"])


class GrantType(StrEnum):
    """The OAuth 2 grants (RFC 6749; RFC 8693) that the token endpoint knows."""

    PASSWORD = "password"  # noqa: S105 - the grant's name
    REFRESH_TOKEN = "refresh_token"  # noqa: S105 - the grant's name
    TOKEN_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"  # noqa: S105 - the grant's name


class TokenRequest(BaseModel):
    """The form of RFC 6749, sections 4.3.2 and 6. Other members, such as `scope` and `client_id`, are ignored (3.2)."""

    grant_type: GrantType = Field(examples=[GrantType.PASSWORD])
    username: SafeText | None = Field(
        None, max_length=254, description="The e-mail address.", examples=["ayesha@example.com"]
    )
    password: SecretStr | None = Field(None, max_length=128, examples=["correct horse battery staple"])
    refresh_token: SecretStr | None = Field(None, max_length=256, examples=["cbr_1P0a..."])
    subject_token: SecretStr | None = Field(
        None, max_length=8192, description="An external provider's ID token.", examples=["eyJhbGciOiJSUzI1NiIs..."]
    )
    subject_token_type: Literal["urn:ietf:params:oauth:token-type:id_token"] | None = None
    device_label: DeviceLabel | None = Field(
        None, description="What the customer shall see this device as, in the list of sessions."
    )

    @model_validator(mode="after")
    def _require_what_the_grant_needs(self) -> Self:
        match self.grant_type:
            case GrantType.PASSWORD:
                needed: tuple[str, ...] = ("username", "password")
            case GrantType.REFRESH_TOKEN:
                needed = ("refresh_token",)
            case GrantType.TOKEN_EXCHANGE:
                needed = ("subject_token", "subject_token_type")
            case _:
                assert_never(self.grant_type)
        for name in needed:
            if getattr(self, name) is None:
                raise PydanticCustomError("missing", "{name} is required with this grant_type", {"name": name})
        return self


class TokenResponse(ResponseModel):
    """Tokens of a signed-in customer. Each refresh token is good for one use."""

    access_token: str = Field(examples=["eyJhbGciOiJFZERTQSIs..."])
    refresh_token: str = Field(examples=["cbr_1P0a..."])
    token_type: Literal["bearer"] = "bearer"  # noqa: S105 - the scheme's name
    expires_in: int = Field(examples=[900], description="Life of the access token, in seconds.")
    issued_token_type: Literal["urn:ietf:params:oauth:token-type:access_token"] | None = Field(
        None, description="With a token exchange only (RFC 8693, section 2.2.1)."
    )


class Nonce(ResponseModel):
    """What an ID token must repeat as `nonce`, itself or its SHA-256 in hexadecimal digits."""

    nonce: str = Field(examples=["cbo_1P0a..."])
    expires_in: int = Field(examples=[600], description="In seconds.")


class RevocationRequest(BaseModel):
    """The form of RFC 7009. `token_type_hint` is ignored: the two kinds cannot be confused."""

    token: SecretStr = Field(max_length=4096, examples=["cbr_1P0a..."])
