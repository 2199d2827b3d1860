"""`cashback demo` tells its story against the real service, and fails loudly where a step fails."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson
import pytest

from app.config import Settings
from app.db import transaction
from app.demo import DemoError, tell
from app.services.demo import DemoCredentials, load_demo
from tests.service import Service


@pytest.fixture
async def credentials(committed_db: Settings) -> DemoCredentials:
    async with transaction() as session:
        first = await load_demo(session, committed_db)
    async with transaction() as session:
        assert await load_demo(session, committed_db) == first
    return first


@pytest.fixture
def service(committed_db: Settings, tmp_path: Path) -> Iterator[Service]:
    with Service(tmp_path, database_url=committed_db.database_url, redis_url=committed_db.redis_url) as service:
        yield service


def write_state(folder: Path, service: Service, credentials: DemoCredentials, **changes: Any) -> None:
    demo = asdict(credentials) | changes
    state = {
        "api_url": service.url,
        "staff_api_key": demo.pop("staff_api_key"),
        "mailbox_dir": service.environment["MAILBOX_DIR"],
        "demo": demo,
    }
    (folder / "dev.json").write_bytes(orjson.dumps(state))


def test_the_whole_story_comes_out(service: Service, credentials: DemoCredentials, tmp_path: Path) -> None:
    service.start_api()
    service.start("worker", "default")
    service.start("worker", "sync")
    write_state(tmp_path, service, credentials)
    told: list[str] = []
    tell(tmp_path, told.append)
    story = "\n".join(told)
    assert "125.00 PKR pending" in story
    assert "0.00 PKR pending, 125.00 PKR available" in story
    assert "had the token, which works once" in story
    assert "one payout, approved by the rule" in story
    assert "75.00 PKR available, 50.00 PKR on its way" in story
    assert "the bank has paid: paid 1" in story
    assert "1 line matched" in story
    assert "50.00 PKR of cashback: 0.00 PKR pending, 25.00 PKR available" in story
    assert "the books balance" in story
    assert "staff see the orphan that fits best" in story
    assert "an order like any other: 90.00 PKR pending" in story
    assert "2,000 fetched, 2,000 created, 0 updated, 0 unchanged, 3 removed, 0 rejected" in story
    assert "1,975 fetched, 0 created, 40 updated, 1,935 unchanged, 25 removed, 0 rejected" in story
    assert "a search for 'lawn suit 7' finds" in story
    # It can be told again.
    tell(tmp_path, told.append)


def test_a_wrong_step_ends_the_story(service: Service, credentials: DemoCredentials, tmp_path: Path) -> None:
    service.start_api()
    write_state(tmp_path, service, credentials, webhook_secret="whsec_" + "A" * 44)
    with pytest.raises(DemoError, match=r"POST /v1/webhooks/.* answered 401, not 202"):
        tell(tmp_path, lambda _: None)


def test_without_a_running_service_it_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DemoError, match="start the service with `make run`"):
        tell(tmp_path, lambda _: None)
    (tmp_path / "dev.json").write_bytes(
        orjson.dumps(
            {
                "api_url": "http://127.0.0.1:1",
                "mailbox_dir": "",
                "staff_api_key": "",
                "demo": {"customer_email": "", "customer_password": ""},
            }
        )
    )
    with pytest.raises(DemoError, match="Is `make run` still running"):
        tell(tmp_path, lambda _: None)


async def test_the_demo_is_refused_outside_development(committed_db: Settings) -> None:
    production = committed_db.model_copy(update={"environment": "production"})
    async with transaction() as session:
        with pytest.raises(RuntimeError, match="ENVIRONMENT=development"):
            await load_demo(session, production)
