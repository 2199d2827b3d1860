"""What commands share: settings from the environment, and the database open while they work."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import typer
from pydantic import ValidationError

from app.config import Settings

Result = TypeVar("Result")


def load_settings() -> Settings:
    """Read the settings, or say which are wrong and exit with 2."""
    try:
        return Settings()
    except ValidationError as error:
        for problem in error.errors():
            name = "_".join(str(part) for part in problem["loc"]).upper() or "settings"
            typer.echo(f"{name}: {problem['msg'].removeprefix('Value error, ')}", err=True)
        raise typer.Exit(2) from None


def with_database(work: Callable[[], Coroutine[Any, Any, Result]], *, pool_size: int = 1) -> Result:
    """Run a coroutine with this process's database open."""
    from app import db  # noqa: PLC0415 - only commands that touch the database

    async def run() -> Result:
        settings = load_settings()
        await db.open_database(settings, application_name="cashback-cli", pool_size=pool_size, max_overflow=0)
        try:
            return await work()
        finally:
            await db.close_database()

    return asyncio.run(run())
