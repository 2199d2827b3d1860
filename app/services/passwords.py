"""Passwords as argon2id hashes, computed in threads so that the event loop keeps turning.

The parameters are OWASP's minimum for argon2id (19 MiB, two passes, one lane). A semaphore bounds how many run at
once in a process: each needs its 19 MiB and a whole core.
"""

import asyncio
import base64
import secrets
from collections.abc import Callable
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from app.errors import UnavailableError

Result = TypeVar("Result")

_MEMORY_KIB = 19_456
_PASSES = 2
_LANES = 1
# A client has given up by then; to hash for it still would only lengthen the queue.
_LONGEST_WAIT_SECONDS = 10


class PasswordQueueFullError(UnavailableError):
    """More passwords wait to be hashed than this process gets done in time."""

    code = "password_queue_full"

    def __init__(self) -> None:
        super().__init__("Too many sign-ins at the moment; try again.", retry_after_seconds=5)


class Passwords:
    """Hashes and verifies passwords, at most `concurrency` at a time. One for each application."""

    def __init__(self, concurrency: int) -> None:
        self._argon2 = PasswordHasher(time_cost=_PASSES, memory_cost=_MEMORY_KIB, parallelism=_LANES)
        # Binds itself to the event loop that first has to wait, so it may be made before there is one.
        self._turns = asyncio.Semaphore(concurrency)
        # Random bytes in a hash's clothes: verifying against it costs as much as against a real one, and always fails.
        salt, digest = (base64.b64encode(secrets.token_bytes(size)).decode().rstrip("=") for size in (16, 32))
        self._nobodys = f"$argon2id$v=19$m={_MEMORY_KIB},t={_PASSES},p={_LANES}${salt}${digest}"

    async def hash(self, password: str) -> str:
        """Return the encoded hash to keep. Raises PasswordQueueFullError."""
        return await self._in_turn(lambda: self._argon2.hash(password))

    async def verify(self, password: str, kept: str | None) -> bool:
        """Tell whether the password is the one that `kept` was made of; without a hash it is as slow, and False.

        Raises PasswordQueueFullError.
        """

        def matches() -> bool:
            try:
                return self._argon2.verify(kept or self._nobodys, password)
            except (VerificationError, InvalidHashError):
                return False

        return await self._in_turn(matches)

    def is_outdated(self, kept: str) -> bool:
        """Tell whether the hash was made with other parameters than today's."""
        return self._argon2.check_needs_rehash(kept)

    async def _in_turn(self, compute: Callable[[], Result]) -> Result:
        try:
            async with asyncio.timeout(_LONGEST_WAIT_SECONDS):
                await self._turns.acquire()
        except TimeoutError:
            raise PasswordQueueFullError from None
        try:
            return await asyncio.to_thread(compute)  # argon2 releases the interpreter lock
        finally:
            self._turns.release()
