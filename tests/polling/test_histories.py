"""Small histories of each network: however they are polled, they end in the same orders and balances.

One world asks after each thing that happens. The other asks now and then, in short windows, its passes in another
order, and is told in another order and on other pages.
"""

import random
from typing import Any

import pytest

from app.services.sources import get_preset
from tests.polling.conftest import Make
from tests.polling.networks import NETWORKS
from tests.polling.world import World

SALES = 6


def lives(seed: int) -> list[tuple[int, str, int | None]]:
    """What happens to the sales, as it happens: (number, status, new amount of the sale or None)."""
    chance = random.Random(seed)  # noqa: S311 - repeatable
    ends: tuple[list[str], ...] = (
        [],
        ["approved"],
        ["declined"],
        ["pending", "approved"],
        ["approved", "declined"],
        ["deleted"],
    )
    steps = [(number, list(ends[number % len(ends)])) for number in range(1, SALES + 1)]
    told = []
    while left := [(number, todo) for number, todo in steps if todo]:
        number, todo = chance.choice(left)
        status = todo.pop(0)
        told.append((number, status, chance.randint(5_000, 20_000) if status in {"pending", "approved"} else None))
    return told


def track(world: World) -> None:
    chance = random.Random(1)  # noqa: S311 - repeatable
    for number in range(1, SALES + 1):
        world.sale(number, days_ago=chance.randint(2, 28), sale=10_000 + number)


def happen(world: World, number: int, status: str, sale: int | None) -> None:
    world.network.change(number, status, sale=sale)


@pytest.mark.parametrize("preset", sorted(NETWORKS))
async def test_a_history_ends_the_same_however_it_is_polled(make: Make, preset: str) -> None:
    chance = random.Random(7)  # noqa: S311 - repeatable
    definition = get_preset(preset).definition.polling
    assert definition is not None
    passes: list[dict[str, Any]] = [
        {**one.model_dump(mode="json", exclude_defaults=True), "first_days": 30} for one in definition.passes
    ]
    first = await make(NETWORKS[preset], prefix="/a", passes=passes)
    passes = [{**one, "longest_days": 12} for one in passes]
    chance.shuffle(passes)
    second = await make(NETWORKS[preset], prefix="/b", page_size=2, shuffle=chance, passes=passes)
    for world in (first, second):
        track(world)
    await first.poll()
    for number, status, sale in lives(3):
        for world in (first, second):
            happen(world, number, status, sale)
        await first.poll()
        if chance.random() < 0.4:
            await second.poll()
    # A day later, all of it is looked through.
    for world in (first, second):
        assert (await world.poll(everything=True))["last_error"] is None
    orders = await first.orders()
    assert len(orders) == SALES
    assert await second.orders() == orders
    assert await second.wallet() == await first.wallet()
    statuses = {status for status, _, _ in orders.values()}
    assert statuses == {"pending", "approved", "declined"}
    before = await first.events(), await second.events()
    await first.poll(everything=True)
    await second.poll(everything=True)
    assert (await first.events(), await second.events()) == before


async def test_what_was_partly_approved_pays_for_that_part(make: Make) -> None:
    world = await make(NETWORKS["partnerize"])
    sale = world.sale(1, sale=10_000, commission=1_000)
    await world.poll()
    sale.halves = ("approved", "rejected")
    world.network.change(1, "pending")
    await world.poll()
    assert await world.orders() == {"1011l1": ("approved", 5_000, 500)}
    assert await world.wallet() == (250, 0)


async def test_a_restatement_replaces_what_was_said(make: Make) -> None:
    world = await make(NETWORKS["cj"])
    world.sale(1, sale=10_000, commission=1_000)
    await world.poll()
    assert await world.orders() == {"1": ("pending", 10_000, 1_000)}
    world.network.change(1, "pending", sale=6_000, commission=600)
    await world.poll()
    assert await world.orders() == {"1": ("pending", 6_000, 600)}
    world.network.change(1, "approved")
    await world.poll()
    # Three records, each first new and then locked, add up once.
    assert await world.orders() == {"1": ("approved", 6_000, 600)}
    assert await world.events() == 6
    world.network.change(1, "declined")
    await world.poll()
    assert await world.orders() == {"1": ("declined", 0, 0)}
    assert await world.wallet() == (0, 0)
