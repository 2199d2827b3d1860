"""Proving an address, replacing a password, and the second factor, as the contract has them."""

from typing import Literal

from app.schemas.common import RequestModel, ResponseModel
from app.schemas.customers import Code, CurrentPassword, Email, MailedToken, NewPassword
from app.schemas.payouts import MobileNumber


class MailRequest(RequestModel):
    """Where a mail shall go."""

    email: Email


class Accepted(ResponseModel):
    """The request was taken; if there is somebody to write to, a message is on its way."""

    status: Literal["accepted"] = "accepted"


class EmailVerification(RequestModel):
    """The token of a mail that was to verify its address."""

    token: MailedToken


class PasswordReset(RequestModel):
    """The token of a mail that was to replace a forgotten password."""

    token: MailedToken
    password: NewPassword


class PasswordChange(RequestModel):
    """A new password, confirmed with the one of now; and with a code, where the customer has a verified phone."""

    current_password: CurrentPassword
    new_password: NewPassword
    code: Code | None = None


class PhoneChange(RequestModel):
    """The number that shall be the second factor, confirmed with the password, and a code of the number of now."""

    phone: MobileNumber
    current_password: CurrentPassword | None = None
    code: Code | None = None


class PhoneRemoval(RequestModel):
    """What confirms that the second factor shall go."""

    current_password: CurrentPassword | None = None
    code: Code | None = None


class PhoneVerification(RequestModel):
    """The code that was sent to the new number."""

    code: Code
