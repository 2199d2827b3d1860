"""Referrals, as customers and staff see them, and the programs that staff make."""

from typing import Annotated, Self
from uuid import UUID

from pydantic import ConfigDict, Field, model_validator

from app.models import ReferralReason, ReferralStatus
from app.money import MAX_MINOR
from app.schemas.admin_catalogue import Moment, PositiveMoney
from app.schemas.common import Currency, Money, Page, RequestModel, ResponseModel, SafeText, UtcTime

Limit = Annotated[int, Field(strict=True, ge=1, le=1_000_000, examples=[50])]


class ReferralProgramCreate(RequestModel):
    """Bonuses for whoever registers with a code from `valid_from` (default: now) until before `valid_to`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "currency": "PKR",
                    "referrer_bonus": {"amount_minor": 50_000, "currency": "PKR"},
                    "invited_bonus": {"amount_minor": 25_000, "currency": "PKR"},
                    "minimum_sale": {"amount_minor": 200_000, "currency": "PKR"},
                    "max_granted": 50,
                }
            ]
        }
    )

    currency: Currency
    referrer_bonus: PositiveMoney | None = Field(None, description="For the customer whose code it is.")
    invited_bonus: PositiveMoney | None = Field(None, description="For the customer who registered with it.")
    minimum_sale: PositiveMoney | None = Field(
        None, description="An order of the invited customer counts from this sale on, in this currency."
    )
    max_granted: Limit = Field(description="Most bonuses of one referrer under this program.")
    valid_from: Moment | None = Field(None, examples=["2027-03-20T00:00:00Z"])
    valid_to: Moment | None = Field(None, examples=["2027-04-01T00:00:00Z"])

    @model_validator(mode="after")
    def _fits(self) -> Self:
        bonuses = [bonus for bonus in (self.referrer_bonus, self.invited_bonus) if bonus is not None]
        if not bonuses:
            raise ValueError("a program needs referrer_bonus, invited_bonus or both")
        if any(amount.currency != self.currency for amount in (*bonuses, self.minimum_sale) if amount is not None):
            raise ValueError(f"amounts of this program are in {self.currency}")
        if sum(bonus.amount_minor for bonus in bonuses) > MAX_MINOR:
            raise ValueError("the bonuses are too large together")
        return self


class ReferralProgramEnd(RequestModel):
    """When a program ends. Who has registered by then keeps what was promised."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"valid_to": "2027-04-01T00:00:00Z"}]})

    valid_to: Moment | None = Field(None, description="Not before now; default: now.")


class ReferralTerms(ResponseModel):
    """What both sides get of a referral, and from which sale on."""

    referrer_bonus: Money
    invited_bonus: Money
    minimum_sale: Money


class ReferralProgramRead(ReferralTerms):
    """A program, as staff see it."""

    id: UUID
    currency: Currency
    max_granted: int = Field(examples=[50])
    valid_from: UtcTime
    valid_to: UtcTime | None
    created_at: UtcTime


class InvitedRead(ResponseModel):
    """Somebody who registered with the customer's code: no more of them than a letter."""

    name: str = Field(examples=["A•••"])
    status: ReferralStatus | None = Field(
        description="`held`: staff look at it first; null: there was no program, and so no bonus.",
        examples=[ReferralStatus.GRANTED],
    )
    bonus: Money | None = Field(description="What the customer gets for it, or would have got.")
    registered_at: UtcTime


class WelcomeRead(ResponseModel):
    """What the customer gets for having been invited."""

    status: ReferralStatus
    bonus: Money


class MyReferrals(Page[InvitedRead]):
    """The customer's code, who registered with it (a page, newest first), and what came of it."""

    code: str = Field(examples=["7KD2MQ9X"], description="For friends to register with.")
    invited: int = Field(examples=[3], description="How many have registered with it.")
    earned: list[Money] = Field(description="Bonuses granted and not taken back, one amount a currency.")
    welcome: WelcomeRead | None = Field(description="The bonus for having been invited; null: none was promised.")
    program: ReferralTerms | None = Field(description="What holds for who registers now; null: there is no bonus.")


class ReferralAdminRead(ResponseModel):
    """A referral, as staff see it."""

    id: UUID
    program_id: UUID
    referrer_id: UUID
    invited_id: UUID
    status: ReferralStatus
    reason: ReferralReason | None = Field(description="Why it is held or refused.")
    referrer_bonus: Money
    invited_bonus: Money
    order_id: UUID | None = Field(description="The order that earns it, or did until it was taken back.")
    decided_by_id: UUID | None = Field(description="The staff key that allowed or refused it.")
    note: str | None = Field(description="What staff said to that.", examples=["They are sisters"])
    revision: int = Field(description="Counts grants and clawbacks; names the ledger transfer of each.", examples=[1])
    created_at: UtcTime
    updated_at: UtcTime


class ReferralDecision(RequestModel):
    """Why staff allow or refuse a bonus."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"note": "They are sisters"}]})

    note: Annotated[SafeText, Field(min_length=3, max_length=1000)]


ReferralProgramPage = Page[ReferralProgramRead]
ReferralAdminPage = Page[ReferralAdminRead]
