"""Messages: rows first, sent by a worker through a real server, tried again when it fails, never lost."""

import asyncio
import email
import email.policy
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import pytest
from pydantic import SecretStr
from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.db import transaction
from app.ids import new_id
from app.models import Message, MessageChannel, MessageKind, MessageStatus
from app.services import messages
from app.services.messages import outbox
from app.services.messages.outbox import Outcome, Outgoing
from app.services.messages.senders import open_senders
from app.services.messages.texts import Text
from app.workers.messages import message_delivery
from tests.factories import make_customer


class MailServer:
    """A small SMTP server on loopback (RFC 5321): takes mails, or answers RCPT and AUTH as a test wants."""

    def __init__(self) -> None:
        self.mails: list[bytes] = []
        self.recipient_answer = "250 ok"
        self.logins: list[str] = []

    async def __aenter__(self) -> Self:
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.server.close()
        await self.server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        def say(line: str) -> None:
            writer.write(f"{line}\r\n".encode())

        say("220 mail.example")
        while line := (await reader.readline()).decode():
            match line.split()[0].upper():
                case "EHLO":
                    say("250-mail.example\r\n250-8BITMIME\r\n250 AUTH PLAIN")
                case "AUTH":
                    self.logins.append(line.split()[2])
                    say("235 ok")
                case "RCPT":
                    say(self.recipient_answer)
                case "DATA":
                    say("354 go on")
                    self.mails.append(await reader.readuntil(b"\r\n.\r\n"))
                    say("250 taken")
                case "QUIT":
                    say("221 bye")
                    break
                case _:
                    say("250 ok")
        writer.close()
        await writer.wait_closed()


@pytest.fixture
async def server() -> AsyncIterator[MailServer]:
    async with MailServer() as server:
        yield server


def with_server(settings: Settings, server: MailServer, **changes: Any) -> Settings:
    url = f"smtp://cashback:s%40cret@127.0.0.1:{server.port}?tls=off"
    return settings.model_copy(
        update={"smtp_url": SecretStr(url), "mail_from": "Cashback <no-reply@shop.example>", **changes}
    )


async def post(settings: Settings, kind: MessageKind = MessageKind.VERIFY_EMAIL) -> str:
    async with transaction() as session:
        customer = await make_customer(session, email_verified_at=None)
        await messages.post(session, kind, recipient=customer.email, customer_id=customer.id)
        return customer.email


async def rows() -> list[Message]:
    async with transaction() as session:
        return list(await session.scalars(select(Message).order_by(Message.id)))


async def let_wait_pass() -> None:
    async with transaction() as session:
        await session.execute(
            update(Message).where(Message.next_attempt_at.is_not(None)).values(next_attempt_at=func.now())
        )


async def test_mail_is_sent_once_after_its_commit_through_smtp(committed_db: Settings, server: MailServer) -> None:
    deliver = message_delivery(
        with_server(committed_db, server, frontend_url="https://shop.example/a-rather-long-path/to-the-account/")
    )
    async with transaction() as session:
        customer = await make_customer(session)
        await messages.post(session, MessageKind.VERIFY_EMAIL, recipient=customer.email, customer_id=customer.id)
        await session.rollback()
    assert await deliver() == 0
    recipient = await post(committed_db)
    assert sum(await asyncio.gather(deliver(), deliver())) == 1
    assert await deliver() == 0
    [raw] = server.mails
    mail = email.message_from_bytes(raw, policy=email.policy.default)
    assert (mail["To"], mail["From"]) == (recipient, "Cashback <no-reply@shop.example>")
    assert mail["Auto-Submitted"] == "auto-generated"
    assert mail["Message-ID"].endswith("@shop.example>")
    text = mail.get_content()
    assert "https://shop.example/a-rather-long-path/to-the-account/verify-email#token=cbo_" in text
    [row] = await rows()
    assert (row.status, row.tries, row.next_attempt_at) == (MessageStatus.SENT, 1, None)
    assert server.logins == ["AGNhc2hiYWNrAHNAY3JldA=="]


async def test_server_that_is_away_delays_a_mail_and_loses_none(committed_db: Settings, server: MailServer) -> None:
    settings = with_server(committed_db, server)
    await post(settings)
    server.recipient_answer = "451 greylisted, come back"
    deliver = message_delivery(settings)
    assert await deliver() == 1
    assert await deliver() == 0
    [row] = await rows()
    assert (row.status, row.tries) == (MessageStatus.PENDING, 1)
    assert row.last_error == "451 greylisted, come back"
    assert row.next_attempt_at is not None
    assert row.next_attempt_at > datetime.now(UTC)
    await let_wait_pass()
    away = settings.model_copy(update={"smtp_url": SecretStr("smtp://127.0.0.1:1?tls=off")})
    assert await message_delivery(away)() == 1
    await let_wait_pass()
    server.recipient_answer = "250 ok"
    assert await deliver() == 1
    [row] = await rows()
    assert (row.status, row.tries, row.last_error) == (MessageStatus.SENT, 3, None)
    assert len(server.mails) == 1


async def test_refused_recipient_and_the_end_of_the_schedule_give_up(
    committed_db: Settings, server: MailServer
) -> None:
    settings = with_server(committed_db, server)
    await post(settings)
    server.recipient_answer = "550 no such user"
    await message_delivery(settings)()
    await post(settings)
    server.recipient_answer = "450 busy"
    for _ in range(len(outbox.RETRY_SECONDS) + 1):
        await let_wait_pass()
        await message_delivery(settings)()
    assert [(row.status, row.tries) for row in await rows()] == [
        (MessageStatus.FAILED, 1),
        (MessageStatus.FAILED, len(outbox.RETRY_SECONDS) + 1),
    ]


async def test_server_without_starttls_gets_no_password(session: AsyncSession, settings: Settings) -> None:
    async with MailServer() as server, AsyncExitStack() as stack:
        url = SecretStr(f"smtp://user:secret@127.0.0.1:{server.port}")
        senders = await open_senders(settings.model_copy(update={"smtp_url": url}), stack)
        outcome = await senders[MessageChannel.EMAIL].send(outgoing())
        assert outcome.error is not None
        assert outcome.error.startswith("SMTPNotSupportedError")
        assert not outcome.permanent
        assert (server.logins, server.mails) == ([], [])


def outgoing(**changes: Any) -> Outgoing:
    values = {"channel": MessageChannel.EMAIL, "recipient": "a@example.com", "text": Text("S", "B"), "tries": 1}
    return Outgoing(message_id=new_id(), **{**values, **changes})


async def test_address_with_a_line_end_makes_no_second_header(settings: Settings) -> None:
    async with MailServer() as server, AsyncExitStack() as stack:
        senders = await open_senders(with_server(settings, server), stack)
        hostile = outgoing(recipient="a@example.com\r\nBcc: everybody@example.com")
        assert (await senders[MessageChannel.EMAIL].send(hostile)).error is not None
        assert server.mails == []


async def test_worker_that_died_while_sending_leaves_the_mail_to_another(
    committed_db: Settings, server: MailServer
) -> None:
    settings = with_server(committed_db, server)
    await post(settings)
    async with transaction() as session:
        [taken] = await outbox.claim_due(session, settings, set(MessageChannel))
    assert await message_delivery(settings)() == 0
    await let_wait_pass()
    assert await message_delivery(settings)() == 1
    # What comes late from the dead one changes nothing.
    async with transaction() as session:
        assert await outbox.record(session, taken, Outcome("too late")) is MessageStatus.SENT
    assert len(server.mails) == 1


async def test_without_a_mail_server_mails_wait_and_a_warning_says_so(
    committed_db: Settings, server: MailServer, caplog: pytest.LogCaptureFixture
) -> None:
    await post(committed_db)
    assert await message_delivery(committed_db)() == 0
    assert "messages wait for a way to be sent" in caplog.text
    assert await message_delivery(with_server(committed_db, server))() == 1


async def test_text_message_is_posted_to_the_gateway(settings: Settings) -> None:
    seen: list[bytes] = []
    answers = [b"202 Accepted", b"503 Busy", b"422 Bad"]

    async def gateway(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        [length] = [line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")]
        seen.append(head + await reader.readexactly(int(length)))
        writer.write(b"HTTP/1.1 " + answers[len(seen) - 1] + b"\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(gateway, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/messages"
    changes = {"sms_http_url": url, "sms_http_token": SecretStr("gateway-token")}
    async with server, AsyncExitStack() as stack:
        senders = await open_senders(settings.model_copy(update=changes), stack)
        message = outgoing(channel=MessageChannel.SMS, recipient="+923001234567", text=Text("", "042917 is your code"))
        outcomes = [await senders[MessageChannel.SMS].send(message) for _ in answers]
    assert outcomes == [Outcome(), Outcome("answered 503"), Outcome("answered 422", permanent=True)]
    assert b"authorization: bearer gateway-token" in seen[0].lower()
    assert f"idempotency-key: message-{message.message_id}-1".encode() in seen[0].lower()
    assert seen[0].endswith(b'{"to":"+923001234567","text":"042917 is your code"}')


async def test_folder_gets_whole_files_in_the_order_of_messages(settings: Settings, tmp_path: Path) -> None:
    folder = tmp_path / "mailbox"
    async with AsyncExitStack() as stack:
        senders = await open_senders(settings.model_copy(update={"mailbox_dir": folder}), stack)
        for message in (outgoing(), outgoing(channel=MessageChannel.SMS, recipient="+1", text=Text("", "code"))):
            assert (await senders[message.channel].send(message)).error is None
    mail, text = sorted(folder.iterdir())
    assert email.message_from_bytes(mail.read_bytes())["Subject"] == "S"
    assert text.read_text() == "To: +1\n\ncode\n"


async def test_old_messages_are_forgotten_in_bounded_steps(session: AsyncSession) -> None:
    for _ in range(3):
        await messages.post(session, MessageKind.RESET_PASSWORD, recipient="a@example.com")
    await session.execute(update(Message).values(created_at=func.now() - timedelta(days=outbox.KEPT_DAYS, seconds=1)))
    await messages.post(session, MessageKind.RESET_PASSWORD, recipient="a@example.com")
    assert [await outbox.forget_old(session, limit=2) for _ in range(3)] == [2, 1, 0]
