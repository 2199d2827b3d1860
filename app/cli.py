"""The `cashback` command."""

import asyncio
import json
import logging
import os
import signal
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Annotated

import typer

from app.cli_database import load_settings, with_database
from app.cli_sources import source_app, webhooks_app
from app.config import Settings
from app.logs import configure_logging
from app.models import FeedFormat, LedgerDay, StaffKey, StaffRole, StaffScope
from app.schemas.feed_mappings import FeedPreset

# A traceback with local variables would show secrets, and a worker's must be JSON like every other line.
app = typer.Typer(
    name="cashback",
    help="Run and look after the cashback service.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
ledger_app = typer.Typer(help="Prove the ledger.", no_args_is_help=True)
staff_app = typer.Typer(help="Staff keys.", no_args_is_help=True)
feed_app = typer.Typer(help="Merchants' feeds.", no_args_is_help=True)
app.add_typer(ledger_app, name="ledger")
app.add_typer(feed_app, name="feed")
app.add_typer(staff_app, name="staff")
app.add_typer(source_app, name="source")
app.add_typer(webhooks_app, name="webhooks")

ROOT = Path(__file__).resolve().parent.parent


@app.command()
def dev() -> None:
    """Run everything for development: servers, migrations, demo data, the API and both workers."""
    from app.dev import run_dev  # noqa: PLC0415 - development only

    raise typer.Exit(run_dev())


@app.command()
def serve() -> None:
    """Serve the API. HOST, PORT and WEB_CONCURRENCY choose where and with how many processes."""
    import uvicorn  # noqa: PLC0415 - only this command needs it

    from app.edge.protocol import BoundedHttpProtocol  # noqa: PLC0415 - see above

    settings = load_settings()
    configure_logging(settings.log_level, process="api")
    # uvicorn stops gracefully on SIGTERM and then raises it once more, which would end a clean stop as a failure.
    signal.signal(signal.SIGTERM, lambda *_: None)
    uvicorn.run(
        "app.main:create_app",
        factory=True,
        host=settings.host,
        port=settings.port,
        workers=settings.web_concurrency,
        log_config=None,
        access_log=False,
        server_header=False,
        http=BoundedHttpProtocol,
        ws="none",
        forwarded_allow_ips=settings.forwarded_allow_ips,
        timeout_graceful_shutdown=settings.shutdown_grace_seconds,
    )


@app.command()
def worker(kind: Annotated[str, typer.Argument(help="Which queue: default or sync.")]) -> None:
    """Run one job worker process."""
    import uvloop  # noqa: PLC0415 - only this command needs it

    from app.workers.runner import run_worker  # noqa: PLC0415 - the API's commands do not need the workers
    from app.workers.settings import WORKER_NAMES, worker_kind  # noqa: PLC0415 - see above

    if kind not in WORKER_NAMES:
        raise typer.BadParameter(f"choose one of {', '.join(WORKER_NAMES)}", param_hint="kind")
    settings = load_settings()
    configure_logging(settings.log_level, process=f"worker:{kind}")
    try:
        uvloop.run(run_worker(settings, worker_kind(kind, settings)))
    except Exception:
        logging.getLogger("app.cli").exception("worker ended by an error")
        raise typer.Exit(1) from None


@app.command()
def migrate(
    grant_to: Annotated[
        str | None,
        typer.Option(
            envvar="APPLICATION_ROLE", help="Role that the service runs as, which owns nothing: gets what it needs."
        ),
    ] = None,
) -> None:
    """Bring the database to the newest schema. A lock that is held makes it give up within seconds."""
    from alembic import command  # noqa: PLC0415 - only migrations need it

    command.upgrade(alembic_config(load_settings().database_url), "head")
    typer.echo("database is at the newest schema")
    if grant_to:
        _grant(grant_to)


def _grant(role: str) -> None:
    from app import db  # noqa: PLC0415 - only commands that touch the database
    from app.services import audit, grants  # noqa: PLC0415 - see above

    async def grant() -> None:
        async with (
            db.transaction() as session,
            audit.recorded_command(session, "migrate", audit.Target("roles", role)),
        ):
            await grants.grant_to(session, role)

    try:
        with_database(grant)
    except grants.GrantError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
    typer.echo(f"{role} may do what the service needs, and cannot change the ledger")


@app.command("check-migrations")
def check_migrations() -> None:
    """Check, on a throwaway embedded PostgreSQL, that migrations and models say the same; also down and up again."""
    from alembic import command  # noqa: PLC0415 - only migrations need it

    from app.embedded import EmbeddedPostgres  # noqa: PLC0415 - development only

    with tempfile.TemporaryDirectory(prefix="cashback-migrations-") as folder:
        server = EmbeddedPostgres(Path(folder) / "postgres", durable=False)
        url = server.start()
        try:
            config = alembic_config(url)
            command.upgrade(config, "head")
            command.check(config)
            command.downgrade(config, "base")
            command.upgrade(config, "head")
        finally:
            server.stop()


def alembic_config(database_url: str):  # type: ignore[no-untyped-def]  # noqa: ANN201 - alembic is imported late
    """Return Alembic's configuration for a database."""
    from alembic.config import Config  # noqa: PLC0415 - only migrations need it

    config = Config(str(ROOT / "alembic.ini"))
    # ConfigParser reads a percent sign as its own.
    config.set_main_option("sqlalchemy.url", database_url.replace("%", "%%"))
    return config


@app.command()
def demo(
    data_dir: Annotated[Path, typer.Option(envvar="DATA_DIR", help="Where `cashback dev` keeps dev.json.")] = Path(
        ".data"
    ),
) -> None:
    """Tell the story of one cashback against a running `cashback dev`."""
    from app.demo import DemoError, tell  # noqa: PLC0415 - only this command needs it

    try:
        tell(data_dir, typer.echo)
    except DemoError as error:
        typer.echo(f"  ✗ {error}", err=True)
        raise typer.Exit(1) from None


@app.command()
def openapi() -> None:
    """Print the OpenAPI document."""
    from app.main import create_app  # noqa: PLC0415 - builds every route

    settings = Settings(environment="development", database_url="postgresql://", redis_url="redis://")
    document = create_app(settings).openapi()
    sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False) + "\n")


@app.command("new-key")
def new_key() -> None:
    """Print a new key for ENCRYPTION_KEYS."""
    from cryptography.fernet import Fernet  # noqa: PLC0415 - only this command needs it

    typer.echo(Fernet.generate_key().decode())


@app.command("rotate-signing-key")
def rotate_signing_key(
    revoke: Annotated[  # noqa: FBT002 - an option
        bool, typer.Option(help="After a leak: sign with it at once, and refuse within 30 s what others signed.")
    ] = False,
) -> None:
    """Make a new key for access tokens, which signs in ten minutes; the old one verifies until its tokens are over."""
    from app import db  # noqa: PLC0415 - only commands that touch the database
    from app.services import signing_keys  # noqa: PLC0415 - see above

    async def rotate() -> str:
        async with db.transaction() as session:
            made = await signing_keys.rotate(session, load_settings(), revoke=revoke)
            return f"{made.kid} signs from {made.signs_from.isoformat(timespec='seconds')} on"

    typer.echo(with_database(rotate))


@app.command()
def reseal() -> None:
    """Re-encrypt stored secrets with the first of ENCRYPTION_KEYS; exits with 1 when none of them opens some."""
    from app import db  # noqa: PLC0415 - only commands that touch the database
    from app.services import audit  # noqa: PLC0415 - see above
    from app.services.reseal import SEALED, reseal_batch  # noqa: PLC0415 - see above

    async def run() -> int:
        settings, unreadable = load_settings(), 0
        await db.open_database(settings, application_name="cashback-cli", pool_size=1, max_overflow=0)
        try:
            for column in SEALED:
                name, done, last_id = f"{column.class_.__tablename__}.{column.key}", 0, None
                while True:
                    async with (
                        db.transaction() as session,
                        audit.recorded_command(session, "reseal", audit.Target(name)),
                    ):
                        batch = await reseal_batch(session, settings, column, after=last_id)
                        if batch.last_id is None:
                            audit.skip(session)
                    if batch.last_id is None:
                        break
                    last_id, done, unreadable = batch.last_id, done + batch.done, unreadable + len(batch.unreadable)
                    for row_id in batch.unreadable:
                        typer.echo(f"{name} {row_id}: none of ENCRYPTION_KEYS opens it", err=True)
                typer.echo(f"{name}: {done}")
        finally:
            await db.close_database()
        return unreadable

    if asyncio.run(run()):
        raise typer.Exit(1)


@app.command("retention")
def keep_retention(
    apply: Annotated[bool, typer.Option("--apply", help="Do it; without it this is a dry run.")] = False,  # noqa: FBT002 - an option
) -> None:
    """Say what CLICK_KEEP_MONTHS and WEBHOOK_RAW_KEEP_MONTHS drop and erase, or do it; what something needs stays."""
    from app.workers import retention  # noqa: PLC0415 - only this command needs it

    settings = load_settings()

    async def keep() -> None:
        if apply and not await retention.make_months_ahead():
            typer.echo("months of clicks: only the owner of the tables can make and drop them", err=True)
            raise typer.Exit(1)
        if settings.click_keep_months is None:
            typer.echo("clicks are kept for ever: set CLICK_KEEP_MONTHS")
        else:
            for one in await retention.drop_clicks(settings, settings.click_keep_months, is_dry=not apply):
                stays = f"stays, {one.undecided_events} undecided events may need it"
                goes = "would be dropped" if one.kept is None else f"dropped but for {one.kept} that orders need"
                typer.echo(f"clicks from before {one.month.ends:%Y-%m-%d}: {stays if one.undecided_events else goes}")
        if settings.webhook_raw_keep_months is None:
            typer.echo("raw events are kept for ever: set WEBHOOK_RAW_KEEP_MONTHS")
        else:
            done = await retention.erase_raw_events(settings.webhook_raw_keep_months, is_dry=not apply)
            word = "erased" if apply else "would be erased"
            typer.echo(
                f"raw events from before {done.before:%Y-%m-%d}: {done.erased} {word}, {done.needed} are still needed"
            )

    with_database(keep)


@ledger_app.command("verify")
def ledger_verify(
    known: Annotated[
        list[str] | None,
        typer.Option(help="A day's hash that was noted elsewhere, as 2026-11-25:HASH; may be given again and again."),
    ] = None,
) -> None:
    """Check every rule of the ledger and the chain of its days, in one snapshot.

    Exits with 1 when one is broken; names what breaks it. Time and memory of a slice do not grow with the ledger.
    """
    from app import db  # noqa: PLC0415 - only commands that touch the database
    from app.services.ledger import chain, verify_slices  # noqa: PLC0415 - see above

    noted = dict(_noted_hash(text) for text in known or ())

    def show_progress(rule: str, slices: int) -> None:
        if sys.stderr.isatty():
            sys.stderr.write(f"\r\x1b[K       {rule}, slice {slices + 1} ..." if rule else "\r\x1b[K")

    async def check() -> bool:
        sound = True
        async with db.AsyncSessionLocal() as session, session.begin():
            async for checked in verify_slices.verify(session, known=noted, on_progress=show_progress):
                show_progress("", 0)
                word = "BROKEN" if checked.violations else "ok"
                typer.echo(f"{word:<7}{checked.seconds:7.1f} s  {checked.name}: {checked.rule}")
                for violation in checked.violations:
                    typer.echo(f"       {violation.id}: {violation.detail}", err=True)
                sound = sound and not checked.violations
            last = await chain.last_day(session)
            if last is not None:
                typer.echo(
                    f"sealed up to {last.day}, hash {last.hash.hex()}; {await chain.count_due(session)} days wait"
                )
        return sound

    if not with_database(check):
        raise typer.Exit(1)


def _noted_hash(text: str) -> tuple[date, bytes]:
    day, _, digest = text.partition(":")
    try:
        return date.fromisoformat(day), bytes.fromhex(digest)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not like 2026-11-25:HASH", param_hint="--known") from None


@ledger_app.command("seal")
def ledger_seal() -> None:
    """Seal the days that are over, as the workers' schedule does, and print their hashes to note them elsewhere."""
    from app import db  # noqa: PLC0415 - only commands that touch the database
    from app.services import audit  # noqa: PLC0415 - see above
    from app.services.ledger import chain  # noqa: PLC0415 - see above

    async def seal() -> int:
        while True:
            async with (
                db.transaction() as session,
                audit.recorded_command(session, "ledger seal", audit.Target("ledger_days", model=LedgerDay)),
            ):
                day = await chain.seal_next(session)
                if day is None:
                    audit.skip(session)
                due = 0 if day else await chain.count_due(session)
            if day is None:
                return due
            typer.echo(f"{day.day}:{day.hash.hex()}  {day.postings} postings")

    if due := with_database(seal):
        typer.echo(
            f"{due} days cannot be sealed yet: a transaction that began then still runs, or another seals", err=True
        )
        raise typer.Exit(1)


@feed_app.command("try")
def try_feed(
    file: Annotated[Path, typer.Argument(help="A feed, or a part of one; also gzipped or zipped.")],
    preset: Annotated[FeedPreset | None, typer.Option(help="A mapping that ships with the service.")] = None,
    mapping: Annotated[
        Path | None, typer.Option(help="A JSON file of a mapping, or of what differs from the preset.")
    ] = None,
    format: Annotated[FeedFormat | None, typer.Option(help="Needed without a preset.")] = None,  # noqa: A002 - the option's name
    currency: Annotated[str, typer.Option(help="The merchant's currency.")] = "USD",
    url: Annotated[str, typer.Option(help="Where the merchant is.")] = "https://shop.example/",
) -> None:
    """Show what a sync would make of a file: offers, rejected rows, and what is wrong with it. Nothing is stored."""
    from app.services.sync.try_file import describe, try_file  # noqa: PLC0415 - only this command needs it

    try:
        trial = try_file(file, preset=preset, mapping_file=mapping, format_=format, currency=currency, url=url)
    except (OSError, ValueError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None
    for line in describe(trial):
        typer.echo(line)
    if trial.error or not trial.offer_count:
        raise typer.Exit(1)


@staff_app.command("create-key")
def create_staff_key(
    name: Annotated[str, typer.Argument(help="Whose key it is: an e-mail address, or the name of a script.")],
    role: Annotated[StaffRole, typer.Option(help="What it may do.")] = StaffRole.VIEWER,
    scope: Annotated[list[StaffScope] | None, typer.Option(help="Only this of it; may be repeated.")] = None,
    valid_days: Annotated[int | None, typer.Option(min=1, max=3_650, help="Default: until it is revoked.")] = None,
) -> None:
    """Make a staff key and print it, once. So the first one is made, and one more when all others are lost."""
    from app import db  # noqa: PLC0415 - only commands that touch the database
    from app.services import audit, staff  # noqa: PLC0415 - see above
    from app.services.api_keys import expiry  # noqa: PLC0415 - see above

    async def create() -> str:
        async with (
            db.transaction() as session,
            audit.recorded_command(session, "staff create-key", audit.Target("staff_keys", model=StaffKey)),
        ):
            _, key = await staff.create_key(
                session, name=name, role=role, scopes=scope or None, expires_at=expiry(valid_days)
            )
            return key

    typer.echo(with_database(create))


if __name__ == "__main__":
    # `python -m app.cli` finds the package from any folder, a path with spaces included.
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    app()
