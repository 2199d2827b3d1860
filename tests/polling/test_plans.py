"""What is asked and how an answer is taken apart: windows, placeholders, every kind of next page. Nothing is sent."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from app.config import Settings
from app.schemas.source_definitions import SourceDefinition
from app.schemas.source_polling import Polling
from app.services.polling.pages import Page, PageReader
from app.services.polling.progress import Position, Progress, after_page, begin, present_pass, window_end
from app.services.polling.requests import page_request
from app.services.sources import get_preset
from app.services.sync.errors import UnreadableFeedError

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
URL = "https://api.example/v1/sales"


def make_polling(**changes: Any) -> Polling:
    wanted = {
        "url": "https://api.example/{account}/sales",
        "query": {"from": "{from}", "to": "{until}"},
        "credentials": "none",
        "items": "items",
        "passes": [{"name": "sales", "longest_days": 30, "first_days": 70}],
        **changes,
    }
    return Polling.model_validate(wanted)


def read(polling: Polling, answer: Any, position: Position | None = None, link: str | None = None) -> Page:
    return PageReader(polling).read(
        json.dumps(answer).encode(), url=f"{URL}?p=1", link=link, position=position or Position()
    )


def test_a_first_run_goes_through_all_passes_in_windows_and_the_next_one_overlaps() -> None:
    polling = make_polling(
        passes=[
            {"name": "sales", "longest_days": 30, "first_days": 70, "overlap_hours": 24},
            {"name": "all", "first_days": 1, "overlap_hours": 2400, "longest_days": 31, "every_minutes": 1440},
        ]
    )
    seen, watermarks = [], dict[str, str]()
    progress = begin(polling, version="1", watermarks=watermarks, now=NOW)
    while progress is not None:
        one = present_pass(polling, progress)
        seen.append((one.name, (NOW - progress.start).days, (NOW - window_end(one, progress)).days))
        step = after_page(polling, progress, None, watermarks)
        if step.finished_pass is not None:
            watermarks[step.finished_pass] = progress.until.isoformat()
        progress = step.progress
    assert seen == [("sales", 70, 40), ("sales", 40, 10), ("sales", 10, 0), ("all", 1, 0)]
    later = NOW + timedelta(hours=2)
    following = begin(polling, version="1", watermarks=watermarks, now=later)
    assert following is not None
    assert (following.passes, following.start) == (("sales",), NOW - timedelta(hours=24))
    # The other pass comes once a day, and then looks far back.
    tomorrow = begin(polling, version="1", watermarks=watermarks, now=NOW + timedelta(days=1))
    assert tomorrow is not None
    assert tomorrow.passes == ("sales", "all")
    none_due = make_polling(passes=[{"name": "sales", "every_minutes": 60}])
    assert begin(none_due, version="1", watermarks=watermarks, now=NOW) is None


def test_a_checkpoint_survives_and_an_old_page_is_not_gone_on_with(settings: Settings) -> None:
    progress = Progress("1", NOW, ("sales",), NOW - timedelta(days=3), Position(2, 50, "a-secret-cursor", None))
    kept = progress.sealed(settings)
    assert "a-secret-cursor" not in json.dumps(kept)
    assert Progress.unsealed(settings, kept) == progress
    old = {**kept, "at": (datetime.now(UTC) - timedelta(hours=2)).isoformat()}
    assert Progress.unsealed(settings, old) == progress.at_window_start()
    assert Progress.unsealed(settings, {**kept, "position": "nothing"}) == progress.at_window_start()


def test_a_request_has_its_window_values_and_page() -> None:
    polling = make_polling(
        query={"from": "{from}", "to": "{until}", "cursor": "{cursor}", "page": "{page}", "text": "a {b} c"},
        paging={"kind": "page_number", "first": 0},
        headers={"X-Account": "{account}"},
        time_format="%d/%m/%Y",
    )
    assert polling.value_names == ["account", "b"]
    values = {"account": "a/b?c", "b": "&"}
    start = NOW - timedelta(days=1)
    first = page_request(polling, polling.passes[0], Position(), start=start, end=NOW, values=values)
    assert first.url == (
        "https://api.example/a%2Fb%3Fc/sales?from=24%2F11%2F2026&to=25%2F11%2F2026&page=0&text=a%20%26%20c"
    )
    assert first.ask.headers["X-Account"] == "a/b?c"
    third = page_request(polling, polling.passes[0], Position(2, 9, "x y"), start=start, end=NOW, values=values)
    assert "cursor=x%20y&page=2" in third.url


def test_a_graphql_request_keeps_its_braces_and_gets_its_variables() -> None:
    polling = get_preset("cj").definition.polling
    assert polling is not None
    one = polling.passes[1]
    request = page_request(polling, one, Position(), start=NOW, end=NOW, values={"publisher_id": '5", x: "'})
    assert request.url == polling.url
    body = json.loads(request.ask.content or b"")
    assert polling.body is not None
    assert body["query"] == polling.body["query"]
    assert body["variables"] == {
        "publishers": ['5", x: "'],
        "since": None,
        "locked_from": "2026-11-25T12:00:00Z",
        "locked_until": "2026-11-25T12:00:00Z",
    }


NEXT_URL = {"kind": "next_url", "path": "next"}
CURSOR = {"kind": "cursor", "path": "max", "complete": "done"}


@pytest.mark.parametrize(
    ("paging", "answer", "position", "following"),
    [
        (None, {"items": [1]}, Position(), None),
        (NEXT_URL, {"items": [1], "next": "/v1/sales?p=2"}, Position(), Position(1, 1, url=f"{URL}?p=2")),
        (NEXT_URL, {"items": [1], "next": ""}, Position(), None),
        (CURSOR, {"items": [1, 2], "max": 12, "done": False}, Position(), Position(1, 2, "12")),
        (CURSOR, {"items": [1, 2], "max": 13, "done": True}, Position(1, 2, "12"), None),
        ({"kind": "cursor", "path": "max"}, {"items": []}, Position(1, 2, "12"), None),
        ({"kind": "page_number"}, {"items": [1]}, Position(), Position(1, 1)),
        ({"kind": "page_number"}, {"items": []}, Position(1, 1), None),
        ({"kind": "page_number", "pages": "n"}, {"items": [1], "n": "2"}, Position(1, 1), None),
        ({"kind": "offset", "size": 2}, {"items": [1, 2]}, Position(), Position(1, 2)),
        ({"kind": "offset", "size": 2}, {"items": [1]}, Position(1, 2), None),
        ({"kind": "offset", "size": 2, "total": "n"}, {"items": [1, 2], "n": 4}, Position(1, 2), None),
    ],
    ids=[
        *("whole", "next-url", "no-next-url", "cursor", "complete", "no-cursor", "page", "empty", "pages"),
        *("offset", "short", "total"),
    ],
)
def test_the_next_page(paging: Any, answer: Any, position: Position, following: Position | None) -> None:
    query = {"from": "{from}", "to": "{until}", "c": "{cursor}", "p": "{page}", "o": "{offset}"}
    assert read(make_polling(paging=paging, query=query), answer, position).following == following


def test_the_next_page_may_stand_in_a_header() -> None:
    polling = make_polling(paging={"kind": "link_header"})
    assert read(polling, {"items": []}, link="?p=2").following == Position(1, 0, url=f"{URL}?p=2")
    assert read(polling, {"items": []}).following is None


@pytest.mark.parametrize(
    ("paging", "answer", "position", "message"),
    [
        (NEXT_URL, {"items": [], "next": "https://elsewhere.example/"}, Position(), "another host"),
        (NEXT_URL, {"items": [], "next": "file:///etc/passwd"}, Position(), "another host"),
        (NEXT_URL, {"items": [], "next": "?p=1"}, Position(), "itself"),
        (CURSOR, {"items": [], "max": "12", "done": False}, Position(1, 0, "12"), "itself"),
        (CURSOR, {"items": [], "done": False}, Position(), "no cursor"),
        (NEXT_URL, {"items": [], "next": "?p=2"}, Position(4_999), "more than 5000 pages"),
        ({"kind": "page_number", "pages": "n"}, {"items": [], "n": "many"}, Position(), "no number"),
        (None, {"items": {}}, Position(), "no list"),
        (None, {"items": [], "error": "no"}, Position(), "says that the request failed"),
    ],
    ids=["host", "scheme", "same-url", "same-cursor", "no-cursor", "circle", "no-number", "no-list", "failed"],
)
def test_an_answer_that_leads_nowhere_is_refused(paging: Any, answer: Any, position: Position, message: str) -> None:
    query = {"from": "{from}", "to": "{until}", "c": "{cursor}", "p": "{page}"}
    with pytest.raises(UnreadableFeedError, match=message):
        read(make_polling(paging=paging, query=query, failed="error"), answer, position)


def test_an_item_in_parts_is_an_item_for_each() -> None:
    polling = make_polling(parts="rows")
    whole, parted = {"id": 1, "rows": []}, {"id": 2, "rows": [{"n": 1}, {"n": 2}]}
    found = read(polling, {"items": [whole, parted, "odd"]}).items
    assert found == [whole, {**parted, "part": {"n": 1}}, {**parted, "part": {"n": 2}}, "odd"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"url": "https://{host}/x"}, "in the host"),
        ({"url": "https://user:password@api.example/"}, "in the host"),
        ({"url": "https://api.example/?key=1"}, "belong in query"),
        ({"url": "ftp://api.example/"}, "http or https"),
        ({"headers": {"Authorization": "Bearer x"}}, "given to the source"),
        ({"method": "POST"}, "a POST has one"),
        ({"query": {"from": "{from}"}}, "until"),
        ({"paging": {"kind": "cursor", "path": "c"}}, "{cursor}"),
        ({"items": "items["}, "items"),
        ({"passes": [{"name": "a"}, {"name": "a"}]}, "each name once"),
        ({"passes": [{"name": "a", "variables": {"x": "y"}}]}, "no variables"),
    ],
    ids=["host", "user", "query", "scheme", "secret", "body", "window", "cursor", "path", "names", "variables"],
)
def test_a_polling_that_cannot_work_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        make_polling(**changes)


def test_what_is_polled_must_be_told_apart() -> None:
    definition = {
        "authentication": "closed",
        "transport": {"accepts": ["json"]},
        "reading": {"mapping": {"order_reference": "id"}},
        "subid_parameter": "sub",
    }
    with pytest.raises(ValidationError, match="closed source needs polling"):
        SourceDefinition.model_validate(definition)
    polling = make_polling().model_dump(mode="json", by_alias=True)
    with pytest.raises(ValidationError, match="event_id"):
        SourceDefinition.model_validate({**definition, "polling": polling})
