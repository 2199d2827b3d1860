"""Exchange rates by day: kept as integers, entered by finance, never changed, used for orders in another currency.

A rate is units of `quote` for one unit of `base`, times 10^12. It holds from its day until a newer one, and for at most
EXCHANGE_RATE_MAX_AGE_DAYS: an order never takes a rate that nobody has looked after.
"""

from datetime import date
from decimal import Context, Decimal
from uuid import UUID

from sqlalchemy import func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.db import ring_after_commit
from app.errors import ConflictError, FieldError, InvalidRequestError
from app.ids import new_id
from app.models import ExchangeRate, WebhookEvent, WebhookStatus
from app.money import MAX_MINOR, MoneyError, minor_digits, round_to_minor
from app.schemas.exchange_rates import ExchangeRatePage, ExchangeRateRead
from app.services.pagination import newest_first

SCALE_DIGITS = 12
# Two 64-bit factors and the shift between two currencies, digit for digit.
_EXACT = Context(prec=60)
# Who finds no rate holds the pair shared until its event waits; who adds one holds it alone.
_LOCK_SHARED = text("SELECT pg_advisory_xact_lock_shared(hashtextextended(:pair, 2))")
_LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended(:pair, 2))")


class SameCurrencyError(InvalidRequestError):
    """Base and quote are one currency, which is worth itself."""

    code = "exchange_rate_same_currency"
    title = "Same currency"

    def __init__(self) -> None:
        error: FieldError = {"loc": ["body", "quote"], "msg": "Must differ from base", "type": self.code}
        super().__init__("base and quote must be two currencies.", errors=[error])


class ExchangeRateRangeError(InvalidRequestError):
    """A rate that is not above zero, has more than 12 decimals, or does not fit in 64 bits."""

    code = "exchange_rate_out_of_range"
    title = "Rate out of range"

    def __init__(self) -> None:
        error: FieldError = {"loc": ["body", "rate"], "msg": "Out of range", "type": self.code}
        most = show_rate(MAX_MINOR)
        super().__init__(
            f"rate must be above zero, at most {most}, with at most {SCALE_DIGITS} decimals.", errors=[error]
        )


class ExchangeRateExistsError(ConflictError):
    """The pair has another rate for that day. Orders may have used it, so it stays."""

    code = "exchange_rate_exists"
    title = "Another rate exists"

    def __init__(self, rate: ExchangeRate) -> None:
        super().__init__(
            f"{rate.base}/{rate.quote} is {show_rate(rate.rate_e12)} from {rate.effective_on} on, and a rate is never"
            " changed; give a corrected one a later day."
        )


def convert(amount_minor: int, rate_e12: int, *, base: str, quote: str) -> int:
    """Convert minor units of `base` to minor units of `quote`, exactly, then rounded half-even.

    Raises MoneyError for what does not fit in 64 bits.
    """
    shift = minor_digits(quote) - minor_digits(base) - SCALE_DIGITS
    exact = _EXACT.multiply(Decimal(amount_minor), Decimal(rate_e12)).scaleb(shift, _EXACT)
    if abs(exact) > MAX_MINOR:
        raise MoneyError(f"the amount in {base} is too large in {quote}")
    return round_to_minor(exact)


def parse_rate(rate: str) -> int:
    """Turn a plain decimal such as `"278.45"` into units times 10^12. Raises ExchangeRateRangeError."""
    whole, _, decimals = rate.partition(".")
    digits = decimals.rstrip("0")
    if not (whole + digits).isascii() or not (whole + digits).isdecimal() or len(digits) > SCALE_DIGITS:
        raise ExchangeRateRangeError
    # Before int(): a hostile number of digits must not cost anything.
    if len(whole.lstrip("0")) > SCALE_DIGITS:
        raise ExchangeRateRangeError
    rate_e12 = int(whole + digits.ljust(SCALE_DIGITS, "0"))
    if not 0 < rate_e12 <= MAX_MINOR:
        raise ExchangeRateRangeError
    return rate_e12


def show_rate(rate_e12: int) -> str:
    """Return a rate as a plain decimal without zeros at its end: `"278.45"`."""
    shown = f"{Decimal(rate_e12).scaleb(-SCALE_DIGITS, _EXACT):f}"
    return shown.rstrip("0").rstrip(".") if "." in shown else shown


def wait_key(base: str, quote: str) -> str:
    """Return what an event waits for (`WebhookEvent.waits_for`) while the pair has no rate for its day."""
    return f"exchange_rate:{base}/{quote}"


async def rate_on(session: AsyncSession, *, base: str, quote: str, day: date, max_age_days: int) -> int | None:
    """Return the rate (times 10^12) of the latest day up to `day`, or None when none is recent enough.

    After None a rate for the pair cannot be added before this transaction ends, so that an event which is put aside to
    wait for one is seen by `add_exchange_rate`.
    """
    rate_e12 = await _latest(session, base, quote, day, max_age_days)
    if rate_e12 is None:
        await session.execute(_LOCK_SHARED, {"pair": wait_key(base, quote)})
        rate_e12 = await _latest(session, base, quote, day, max_age_days)
    return rate_e12


async def add_exchange_rate(
    session: AsyncSession, *, base: str, quote: str, rate: str, effective_on: date, created_by_id: UUID | None
) -> ExchangeRateRead:
    """Add a rate that holds from a day on, and wake the events that wait for the pair. The same again is the same row.

    Raises SameCurrencyError, ExchangeRateRangeError, or ExchangeRateExistsError for another value on that day.
    """
    if base == quote:
        raise SameCurrencyError
    rate_e12 = parse_rate(rate)
    await session.execute(_LOCK, {"pair": wait_key(base, quote)})
    added: ExchangeRate | None = await session.scalar(
        insert(ExchangeRate)
        .values(
            id=new_id(),
            base=base,
            quote=quote,
            effective_on=effective_on,
            rate_e12=rate_e12,
            created_by_id=created_by_id,
        )
        .on_conflict_do_nothing()
        .returning(ExchangeRate)
    )
    if added is None:
        known: ExchangeRate = (
            await session.scalars(
                select(ExchangeRate).where(
                    ExchangeRate.base == base,
                    ExchangeRate.quote == quote,
                    ExchangeRate.effective_on == effective_on,
                )
            )
        ).one()
        if known.rate_e12 != rate_e12:
            raise ExchangeRateExistsError(known)
        return _read(known)
    await _wake_events(session, wait_key(base, quote))
    return _read(added)


async def list_exchange_rates(
    session: AsyncSession, *, limit: int, cursor: str | None, base: str | None = None, quote: str | None = None
) -> ExchangeRatePage:
    """Return rates, the last added first. Raises InvalidCursorError."""
    statement = select(ExchangeRate)
    if base is not None:
        statement = statement.where(ExchangeRate.base == base)
    if quote is not None:
        statement = statement.where(ExchangeRate.quote == quote)
    rows, next_cursor = await newest_first(session, statement, ExchangeRate.id, limit=limit, cursor=cursor)
    items = [_read(rate) for rate in rows]
    return ExchangeRatePage(items=items, next_cursor=next_cursor)


def _read(rate: ExchangeRate) -> ExchangeRateRead:
    columns = {name: getattr(rate, name) for name in ExchangeRateRead.model_fields if name != "rate"}
    return ExchangeRateRead(**columns, rate=show_rate(rate.rate_e12))


async def _latest(session: AsyncSession, base: str, quote: str, day: date, max_age_days: int) -> int | None:
    row = (
        await session.execute(
            select(ExchangeRate.effective_on, ExchangeRate.rate_e12)
            .where(ExchangeRate.base == base, ExchangeRate.quote == quote, ExchangeRate.effective_on <= day)
            .order_by(ExchangeRate.effective_on.desc())
            .limit(1)
        )
    ).one_or_none()
    return row.rate_e12 if row is not None and (day - row.effective_on).days <= max_age_days else None


async def _wake_events(session: AsyncSession, waits_for: str) -> None:
    woken = await session.execute(
        update(WebhookEvent)
        .where(WebhookEvent.waits_for == waits_for, WebhookEvent.status == WebhookStatus.QUARANTINED)
        .values(
            status=WebhookStatus.RECEIVED, next_attempt_at=func.now(), waits_for=None, reason=None, processed_at=None
        )
        .returning(WebhookEvent.id)
        .execution_options(synchronize_session=False)
    )
    if woken.first() is not None:
        ring_after_commit(session, "drain_webhooks")
