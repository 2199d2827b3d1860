"""`cashback demo`: the story of one cashback, told step by step over real HTTP against a running `cashback dev`.

It uses only what any client has: the public API and the credentials in `DATA_DIR/dev.json`. A step that does not come
out as it should ends the story with exit code 1.
"""

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email import message_from_bytes, policy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar

import httpx
from standardwebhooks.webhooks import Webhook

from app.ids import new_id
from app.money import format_minor

_POLL_SECONDS = 0.02
_LONGEST_WAIT_SECONDS = 30
_FEED_MERCHANT = "indus-fashion"
_FEED_OFFERS = 2_000

Found = TypeVar("Found")


class DemoError(Exception):
    """A step failed; the message says which and what was answered."""


def tell(data_dir: Path, say: Callable[[str], None]) -> None:
    """Tell the whole story, line by line through `say`. Raises DemoError."""
    state_file = data_dir / "dev.json"
    try:
        state = json.loads(state_file.read_text())
    except FileNotFoundError:
        raise DemoError(f"{state_file} is not there: start the service with `make run` in another terminal") from None
    with httpx.Client(base_url=state["api_url"], timeout=10) as http:
        story = _Story(http, state, say)
        try:
            story.shop()
            story.earn()
            story.verify()
            story.withdraw()
            story.settle()
            story.claim()
            story.sync()
        except httpx.HTTPError as error:
            raise DemoError(f"no answer from {state['api_url']}: {error}. Is `make run` still running?") from None


class _Story:
    def __init__(self, http: httpx.Client, state: dict[str, Any], say: Callable[[str], None]) -> None:
        self.http = http
        self.demo = state["demo"]
        self.staff = {"X-API-Key": state["staff_api_key"]}
        self.mailbox = Path(state["mailbox_dir"])
        self.say = say
        self.customer: dict[str, str] = {}
        self.click_id = ""
        self.order_id = f"DEMO-{new_id().hex[-8:].upper()}"

    def shop(self) -> None:
        """Sign in, find a merchant, click, follow the redirect."""
        self._title("A customer goes shopping")
        token = self._call(
            "POST",
            "/v1/auth/token",
            data={
                "grant_type": "password",
                "username": self.demo["customer_email"],
                "password": self.demo["customer_password"],
            },
        )
        self.customer = {"Authorization": f"Bearer {token['access_token']}"}
        self._done(f"signed in as {self.demo['customer_email']}, for {token['expires_in'] // 60} minutes")

        merchant = self._call("GET", f"/v1/merchants/{self.demo['merchant_id']}")
        rate = merchant["rate"]
        self._done(f"found {merchant['name']}: {rate['basis_points'] / 100:g} % cashback ({rate['kind']})")

        click = self._call(
            "POST",
            "/v1/clicks",
            201,
            headers=self.customer | {"Idempotency-Key": self.order_id},
            json={"merchant_id": merchant["id"]},
        )
        self.click_id = click["id"]
        self._done(f"clicked: the rate is promised until {click['expires_at'][:10]}")

        redirect = self.http.get(click["redirect_url"])
        location = redirect.headers.get("location", "")
        if redirect.status_code != 302 or self.click_id not in location:
            raise DemoError(f"GET {click['redirect_url']} answered {redirect.status_code}, location {location!r}")
        self._done(f"followed the redirect to {location}")

    def earn(self) -> None:
        """Report the sale, watch it pend, approve it, watch it become available."""
        self._title("The merchant reports a sale of 2,500.00 PKR")
        before = self._balance()
        cashback_minor = 12_500
        self._report("order.created", amount="2500.00", commission="200.00", currency="PKR")
        milliseconds = self._wait_for(
            "pending cashback", lambda: self._balance()["pending_minor"] == before["pending_minor"] + cashback_minor
        )
        self._done(f"{milliseconds:.0f} ms after the webhook the wallet shows {self._wallet_line()}")

        self._report("order.approved")
        milliseconds = self._wait_for(
            "available cashback",
            lambda: self._balance()["available_minor"] == before["available_minor"] + cashback_minor,
        )
        self._done(f"approved, and {milliseconds:.0f} ms later: {self._wallet_line()}")

        order = self._call("GET", "/v1/me/orders?limit=1", headers=self.customer)["items"][0]
        detail = self._call("GET", f"/v1/me/orders/{order['id']}", headers=self.customer)
        for step in detail["explanation"]:
            self._done(f"order {order['order_reference']} explains itself: {step['detail']}")
        self._done("its life: " + " -> ".join(state["status"] for state in detail["history"]))

    def verify(self) -> None:
        """Prove the e-mail address by the token of a mail, once for all tellings."""
        if self._call("GET", "/v1/me", headers=self.customer)["email_verified"]:
            return
        self._title("The customer confirms the e-mail address, for without that nothing is paid out")
        asked_at = time.time()
        self._call("POST", "/v1/auth/email-verification", 202, json={"email": self.demo["customer_email"]})
        tokens: list[str] = []

        def arrived() -> bool:
            for mail in self.mailbox.glob("*.eml"):
                # Files' clocks are coarser than ours.
                if mail.stat().st_mtime >= asked_at - 2:
                    text = message_from_bytes(mail.read_bytes(), policy=policy.default).get_content()
                    tokens.extend(re.findall(r"cbo_[\w-]+", text))
            return bool(tokens)

        self._wait_for("the mail that verifies the address", arrived)
        self._call("POST", "/v1/auth/email-verification/confirm", 204, json={"token": tokens[-1]})
        self._done(f"a mail in {self.mailbox} had the token, which works once")

    def withdraw(self) -> None:
        """Add a payout method with the password, and ask for a payout, twice by mistake."""
        self._title("The customer asks for a payout")
        path, method = "/v1/me/payout-methods", {"kind": "email", "holder": "Demo Customer", "provider": "PayPal"}
        method["email"] = self.demo["customer_email"]
        self._call("POST", path, 403, headers=self.customer, json={**method, "password": "stolen"})
        confirmed = {**method, "password": self.demo["customer_password"]}
        # An earlier telling of the story may have left it behind.
        kept = self._call("GET", path, headers=self.customer)["items"]
        used = kept[0] if kept else self._call("POST", path, 201, headers=self.customer, json=confirmed)
        self._done(f"a payout method is added with the password only, and shown as {used['masked']}")
        wanted = {"amount_minor": 5_000, "currency": "PKR", "method_id": used["id"]}
        headers = {**self.customer, "Idempotency-Key": f"payout {self.order_id}"}
        before = self._balance()
        first, again = (self._call("POST", "/v1/me/payouts", 201, headers=headers, json=wanted) for _ in range(2))
        after = self._balance()
        if first != again or after["in_payout_minor"] != before["in_payout_minor"] + 5_000:
            raise DemoError(f"a payout that was asked for twice is {first} and {again}; the wallet shows {after}")
        self._done(f"asked for 50.00 PKR, twice with one Idempotency-Key: one payout, {first['status']} by the rule")
        self._done(
            f"the wallet shows {format_minor(after['available_minor'], 'PKR')} PKR available, "
            f"{format_minor(after['in_payout_minor'], 'PKR')} PKR on its way"
        )

    def settle(self) -> None:
        """Hand payouts to the bank, take in what the network paid and what a return takes back; look at the books."""
        self._title("Finance closes the day")
        path = "/v1/admin/payout-batches"
        batch = self._call("POST", path, 201, headers=self.staff, json={"currency": "PKR"})
        total = format_minor(batch["total"]["amount_minor"], "PKR")
        self._done(f"batch {batch['reference']} for the bank: {batch['payout_count']} payout, {total} PKR, closed once")
        settled = self._call("POST", f"{path}/{batch['id']}/settle", headers=self.staff, json={})
        self._done(
            "the bank has paid: " + ", ".join(f"{part['status']} {part['payout_count']}" for part in settled["parts"])
        )

        statement = {
            "merchant_id": self.demo["merchant_id"],
            "reference": f"STATEMENT-{self.order_id}",
            "currency": "PKR",
            "paid_on": datetime.now(UTC).date().isoformat(),
            "total_minor": 20_000,
            "lines": [{"order_reference": self.order_id, "amount_minor": 20_000}],
        }
        recorded = self._call("POST", "/v1/admin/settlements", 201, headers=self.staff, json=statement)
        self._done(
            f"the network paid its commission of 200.00 PKR: {recorded['lines_by_status']['matched']} line matched"
        )

        before = self._balance()
        self._report("order.returned", amount="1000.00", commission="80.00", currency="PKR")
        self._wait_for("the return", lambda: self._balance()["available_minor"] == before["available_minor"] - 5_000)
        self._done(f"books for 1,000.00 PKR are returned, and with them 50.00 PKR of cashback: {self._wallet_line()}")
        balance = self._call("GET", "/v1/admin/ledger/trial-balance", headers=self.staff)
        (rupees,) = (row for row in balance["totals"] if row["currency"] == "PKR")
        if rupees["difference_minor"]:
            raise DemoError(f"the books do not balance: {rupees}")
        self._done(f"the books balance: {format_minor(rupees['debit_minor'], 'PKR')} PKR on both sides")

    def claim(self) -> None:
        """Let the click be lost on the way, and the customer ask where the cashback is."""
        self._title("A cashback is missing")
        lost = f"{self.order_id}-LOST"
        self._report("order.created", order_id=lost, click_id="", amount="1800.00", commission="144.00", currency="PKR")
        body = {
            "merchant_id": self.demo["merchant_id"],
            "order_reference": lost,
            "ordered_at": datetime.now(UTC).isoformat(),
            "amount": {"amount_minor": 180_000, "currency": "PKR"},
        }
        claim = self._call("POST", "/v1/me/claims", 201, headers=self.customer, json=body)
        self._done(f"the sale of order {lost} came without a click; its customer claims it, due {claim['due_at'][:10]}")
        path, seen = f"/v1/admin/claims/{claim['id']}", {}

        def fits() -> bool:
            seen.update(self._call("GET", path, headers=self.staff))
            return bool(seen["orphans"])

        self._wait_for("an orphan that fits", fits)
        best = seen["orphans"][0]
        self._done(f"staff see the orphan that fits best, {best['score']} of 100, and why:")
        for reason in best["reasons"]:
            self.say(f"      {reason['points']:>3}  {reason['detail']}")
        before = self._balance()
        self._call("POST", f"{path}/approve", headers=self.staff, json={"event_id": best["orphan"]["id"]})
        self._wait_for(
            "the claim's cashback", lambda: self._balance()["pending_minor"] == before["pending_minor"] + 9_000
        )
        self._done(f"staff approve, and it is an order like any other: {self._wallet_line()}")

    def sync(self) -> None:
        """Sync a feed, change it, and sync it again."""
        merchant = self._call("GET", f"/v1/merchants/{_FEED_MERCHANT}")
        self._title(f"{merchant['name']} publishes a feed of {_FEED_OFFERS:,} offers")
        offers = [_offer(number) for number in range(_FEED_OFFERS)]
        with _served(offers) as url:
            self._call(
                "PUT",
                f"/v1/admin/merchants/{merchant['id']}/feed",
                headers=self.staff,
                # The demo's hand-made offers are not in the feed; only here may they all vanish at once.
                json={
                    "url": url,
                    "mapping": {"preset": "direct-json"},
                    "enabled": False,
                    "max_loss_basis_points": 10_000,
                },
            )
            self._sync_once(merchant["id"])
            # A price that no earlier telling of the story can have left behind.
            cents = int(time.time()) % 10_000
            for offer in offers[:40]:
                offer["price"]["amount_minor"] += 10_000 + cents
            del offers[-25:]
            self._done("the merchant changes 40 prices and takes 25 products out")
            self._sync_once(merchant["id"])
        found = self._call("GET", f"/v1/offers?q=lawn suit 7&merchant_id={merchant['id']}&limit=1")["items"]
        if not found:
            raise DemoError("the search finds none of the synced offers")
        self._done(f"a search for 'lawn suit 7' finds {found[0]['title']!r}")

    def _sync_once(self, merchant_id: int) -> None:
        started = time.perf_counter()
        job = self._call("POST", f"/sync/{merchant_id}", 202, headers=self.staff)
        answered = (time.perf_counter() - started) * 1000
        self._done(f"POST /sync/{merchant_id} answered {job['status']!r} in {answered:.0f} ms")

        run: dict[str, Any] = {}

        def finished() -> bool:
            run.update(self._call("GET", f"/sync/jobs/{job['job_id']}", headers=self.staff))
            return run["finished_at"] is not None

        milliseconds = self._wait_for("the sync's end", finished)
        counts = ", ".join(
            f"{run[name]:,} {name}" for name in ("fetched", "created", "updated", "unchanged", "removed", "rejected")
        )
        if run["status"] != "succeeded":
            raise DemoError(f"the sync {run['status']}: {run['error']} ({counts})")
        self._done(f"{milliseconds / 1000:.1f} s later: {counts}")

    def _report(self, kind: str, **members: str) -> None:
        known = {"order_id": self.order_id, "click_id": self.click_id, "occurred_at": datetime.now(UTC).isoformat()}
        body = json.dumps({"type": kind, **known, **members})
        message_id, now = f"msg_{new_id().hex}", datetime.now(UTC)
        receipt = self._call(
            "POST",
            f"/v1/webhooks/{self.demo['source_key']}",
            202,
            content=body,
            headers={
                "content-type": "application/json",
                "webhook-id": message_id,
                "webhook-timestamp": str(int(now.timestamp())),
                "webhook-signature": Webhook(self.demo["webhook_secret"]).sign(message_id, now, body),
            },
        )
        self._done(f"signed webhook {kind}: {receipt['status']}, stored before it was answered")

    def _balance(self) -> dict[str, int]:
        balances = self._call("GET", "/v1/me/wallet", headers=self.customer)["balances"]
        empty = {"pending_minor": 0, "available_minor": 0}
        found: dict[str, int] = next((balance for balance in balances if balance["currency"] == "PKR"), empty)
        return found

    def _wallet_line(self) -> str:
        balance = self._balance()
        return (
            f"{format_minor(balance['pending_minor'], 'PKR')} PKR pending, "
            f"{format_minor(balance['available_minor'], 'PKR')} PKR available"
        )

    def _wait_for(self, what: str, look: Callable[[], bool]) -> float:
        """Look until it is so; returns how many milliseconds that took."""
        started = time.perf_counter()
        while not look():
            if time.perf_counter() - started > _LONGEST_WAIT_SECONDS:
                raise DemoError(f"{what}: not within {_LONGEST_WAIT_SECONDS} s; look at the log of `make run`")
            time.sleep(_POLL_SECONDS)
        return (time.perf_counter() - started) * 1000

    def _call(self, method: str, path: str, expected: int = 200, **arguments: Any) -> Any:  # noqa: ANN401 - JSON
        response = self.http.request(method, path, **arguments)
        if response.status_code != expected:
            raise DemoError(f"{method} {path} answered {response.status_code}, not {expected}: {response.text[:500]}")
        return response.json() if response.content else None

    def _title(self, text: str) -> None:
        self.say("")
        self.say(text)

    def _done(self, text: str) -> None:
        self.say(f"  ✓ {text}")


def _offer(number: int) -> dict[str, Any]:
    return {
        "id": f"lawn-{number}",
        "title": f"Lawn suit {number}, three pieces",
        "brand": "Indus",
        "url": f"https://{_FEED_MERCHANT}.example/products/lawn-{number}",
        "price": {"amount_minor": 400_000 + number * 100, "currency": "PKR"},
    }


@contextmanager
def _served(offers: list[dict[str, Any]]) -> Iterator[str]:
    """Serve the offers as a merchant's server would, on loopback, while the block runs."""

    class Feed(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"items": offers}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Stay quiet: the story is the output."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Feed)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/feed.json"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
