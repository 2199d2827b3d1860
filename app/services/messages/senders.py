"""The ports that messages leave through: SMTP, a text message gateway over HTTP, and a folder in development."""

import asyncio
import email.policy
import smtplib
import ssl
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import format_datetime, parseaddr
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

import httpx

from app.config import Settings
from app.models import MessageChannel
from app.services.messages.outbox import Outcome, Outgoing

_TIMEOUT_SECONDS = 20.0


class Sender(Protocol):
    """Sends messages of one channel."""

    async def send(self, outgoing: Outgoing) -> Outcome:
        """Send one and say what came of it; never raises for what the other side does."""
        ...


async def open_senders(settings: Settings, stack: AsyncExitStack) -> dict[MessageChannel, Sender]:
    """Return what sends each channel that is set up, until the stack is closed."""
    senders: dict[MessageChannel, Sender] = {}
    if settings.mailbox_dir is not None:
        folder = FolderSender(settings.mailbox_dir, mail_from=settings.mail_from)
        senders = dict.fromkeys(MessageChannel, folder)
    if settings.smtp_url is not None:
        senders[MessageChannel.EMAIL] = SmtpSender(settings.smtp_url.get_secret_value(), mail_from=settings.mail_from)
    if settings.sms_http_url is not None:
        client = await stack.enter_async_context(httpx.AsyncClient(timeout=_TIMEOUT_SECONDS, trust_env=False))
        token = settings.sms_http_token.get_secret_value() if settings.sms_http_token else ""
        senders[MessageChannel.SMS] = HttpSmsSender(client, settings.sms_http_url, token)
    return senders


@dataclass(frozen=True, slots=True)
class SmtpSender:
    """Hands mails to a server, in a thread: `smtps://` with TLS from the start, `smtp://` with STARTTLS.

    A server without STARTTLS is refused unless the URL says `?tls=off`, which settings allow in development only.
    """

    url: str
    mail_from: str

    async def send(self, outgoing: Outgoing) -> Outcome:
        """Send one mail."""
        return await asyncio.to_thread(self._send, outgoing)

    def _send(self, outgoing: Outgoing) -> Outcome:
        try:
            with self._connect() as server:
                server.send_message(write_mail(outgoing, mail_from=self.mail_from))
        except smtplib.SMTPRecipientsRefused as refused:
            code, reason = next(iter(refused.recipients.values()))
            return Outcome(f"{code} {reason.decode(errors='replace')}", permanent=500 <= code < 600)
        except (smtplib.SMTPSenderRefused, smtplib.SMTPDataError) as refused:
            # Not this recipient's fault; settings may be mended meanwhile.
            return Outcome(f"{type(refused).__name__}: {refused.smtp_code}")
        except smtplib.SMTPNotSupportedError as lacking:
            return Outcome(f"{type(lacking).__name__}: {lacking}")
        except (smtplib.SMTPException, OSError, ValueError) as error:
            # Their texts may quote what was sent.
            return Outcome(type(error).__name__)
        return Outcome()

    def _connect(self) -> smtplib.SMTP:
        parts = urlsplit(self.url)
        tls = ssl.create_default_context()
        host = parts.hostname or ""
        server: smtplib.SMTP
        if parts.scheme == "smtps":
            server = smtplib.SMTP_SSL(host, parts.port or 465, timeout=_TIMEOUT_SECONDS, context=tls)
        else:
            server = smtplib.SMTP(host, parts.port or 587, timeout=_TIMEOUT_SECONDS)
        try:
            if parts.scheme == "smtp" and parts.query != "tls=off":
                server.starttls(context=tls)
            if parts.username:
                server.login(unquote(parts.username), unquote(parts.password or ""))
        except BaseException:
            server.close()
            raise
        return server


@dataclass(frozen=True, slots=True)
class HttpSmsSender:
    """Posts text messages to a gateway (SMS_HTTP_URL), which answers 2xx once it has taken one.

    POST {url}    Authorization: Bearer {token}    Idempotency-Key: message-{id}-{try}
        {"to": "+923001234567", "text": "..."}
    """

    client: httpx.AsyncClient
    url: str
    token: str

    async def send(self, outgoing: Outgoing) -> Outcome:
        """Send one text message."""
        key = f"message-{outgoing.message_id}-{outgoing.tries}"  # each try has a text of its own
        headers = {"authorization": f"Bearer {self.token}", "idempotency-key": key}
        body = {"to": outgoing.recipient, "text": outgoing.text.body}
        try:
            async with (
                asyncio.timeout(_TIMEOUT_SECONDS),
                self.client.stream("POST", self.url, json=body, headers=headers) as response,
            ):
                code = response.status_code
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
            return Outcome(type(error).__name__)
        return Outcome() if 200 <= code < 300 else Outcome(f"answered {code}", permanent=code in {400, 422})


@dataclass(frozen=True, slots=True)
class FolderSender:
    """Writes messages into a folder, for development: mails as `.eml`, text messages as `.txt`."""

    folder: Path
    mail_from: str

    async def send(self, outgoing: Outgoing) -> Outcome:
        """Write one file, which is there as a whole or not at all."""
        return await asyncio.to_thread(self._write, outgoing)

    def _write(self, outgoing: Outgoing) -> Outcome:
        if outgoing.channel is MessageChannel.EMAIL:
            content, suffix = bytes(write_mail(outgoing, mail_from=self.mail_from)), ".eml"
        else:
            content, suffix = f"To: {outgoing.recipient}\n\n{outgoing.text.body}\n".encode(), ".txt"
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            # Sorted by name they are sorted by time: ids are.
            unfinished = self.folder / f".{outgoing.message_id}"
            unfinished.write_bytes(content)
            unfinished.replace(self.folder / f"{outgoing.message_id}-{outgoing.tries}{suffix}")
        except OSError as error:
            return Outcome(f"{type(error).__name__}: {error.strerror}")
        return Outcome()


def write_mail(outgoing: Outgoing, *, mail_from: str) -> EmailMessage:
    """Return a plain text mail (RFC 5322). Raises ValueError for an address with a line end."""
    mail = EmailMessage(policy=email.policy.SMTP)
    mail["From"], mail["To"], mail["Subject"] = mail_from, outgoing.recipient, outgoing.text.subject
    mail["Date"] = format_datetime(datetime.now(UTC))
    # The same at each try, so that a mail which was taken but not recorded is known again.
    mail["Message-ID"] = f"<{outgoing.message_id}@{parseaddr(mail_from)[1].rpartition('@')[2]}>"
    mail["Auto-Submitted"] = "auto-generated"
    mail.set_content(outgoing.text.body)
    return mail
