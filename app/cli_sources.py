"""`cashback source` and `cashback webhooks`: presets, trying what a network sends, replaying events."""

import asyncio
import json
import tomllib
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import typer
from pydantic import BaseModel, ValidationError

from app.cli_database import load_settings, with_database
from app.errors import AppError
from app.models import Source, WebhookReplay, WebhookStatus
from app.schemas.dry_run import DryRunRequest
from app.schemas.source_definitions import SourceDefinition
from app.schemas.sources import SourceCreate
from app.schemas.webhooks import EventFilter, ReplayRead

Model = TypeVar("Model", bound=BaseModel)

source_app = typer.Typer(help="Sources of sales: presets, and trying what a network sends.", no_args_is_help=True)
webhooks_app = typer.Typer(help="The webhook inbox.", no_args_is_help=True)


@source_app.command("presets")
def list_presets() -> None:
    """List the definitions that ship with the service."""
    from app.services.sources import list_presets as presets  # noqa: PLC0415 - compiles every definition

    for preset in presets():
        typer.echo(f"{preset.name:<14}{preset.title}")


@source_app.command("load")
def load_source(
    preset: Annotated[str, typer.Argument(help="A preset's name, or a TOML or JSON file with a definition.")],
    name: Annotated[str, typer.Option(help="What the source is called.")],
) -> None:
    """Add a source and print its address and, once, its secret."""
    from app import db  # noqa: PLC0415 - only commands that touch the database
    from app.services import audit, sources  # noqa: PLC0415 - see above

    is_file = Path(preset).suffix in {".toml", ".json"}
    given = {"definition": _definition(preset)} if is_file else {"preset": preset}
    wanted = _valid(SourceCreate, {"name": name, **given})
    settings = load_settings()

    async def load() -> None:
        async with (
            db.transaction() as session,
            audit.recorded_command(session, "source load", audit.Target("sources", model=Source)),
        ):
            made = await sources.create_source(
                session, settings=settings, public_url=settings.public_url or "", wanted=wanted, member_id=None
            )
        typer.echo(f"source   {made.id}")
        typer.echo(f"address  {made.webhook_url}")
        if made.secret is not None:
            typer.echo(f"secret   {made.secret}")

    try:
        with_database(load)
    except AppError as error:
        _fail(error.detail)


@source_app.command("try")
def try_source(
    file: Annotated[Path, typer.Argument(help="A request: JSON with method, query, headers, and body, json or form.")],
    source: Annotated[int | None, typer.Option(help="Try it at this source, down to the postings.")] = None,
    preset: Annotated[str | None, typer.Option(help="Only read it, as this preset does.")] = None,
    definition: Annotated[
        str | None, typer.Option(help="Read it as this TOML or JSON file says; with --source, try that there.")
    ] = None,
) -> None:
    """Show what would become of a request, and all that is wrong with it. Nothing is kept."""
    content = _json(file)
    names = {field.alias or name for name, field in DryRunRequest.model_fields.items()}
    given = {name: value for name, value in content.items() if name in names}
    if definition is not None:
        given["definition"] = _definition(definition)
    wanted = _valid(DryRunRequest, given)
    if source is not None:
        shown, good = _try_at(source, wanted)
    elif preset is not None or wanted.definition is not None:
        shown, good = _read_only(preset, wanted)
    else:
        _fail("give --source, --preset or --definition")
    typer.echo(json.dumps(shown, indent=2, ensure_ascii=False))
    if not good:
        raise typer.Exit(1)


def _try_at(source_id: int, wanted: DryRunRequest) -> tuple[Any, bool]:
    from app import db  # noqa: PLC0415 - only commands that touch the database
    from app.services.webhooks.dry_run import dry_run  # noqa: PLC0415 - see above

    settings = load_settings()

    async def run() -> tuple[Any, bool]:
        async with db.transaction() as session:
            result = await dry_run(
                session, settings, public_url=settings.public_url or "", source_id=source_id, wanted=wanted
            )
        good = {WebhookStatus.PROCESSED, WebhookStatus.IGNORED}
        return result.model_dump(mode="json"), all(event.status in good for event in result.events)

    try:
        return with_database(run)
    except AppError as error:
        _fail(error.detail)


def _read_only(preset: str | None, wanted: DryRunRequest) -> tuple[Any, bool]:
    from app.services.sources import get_preset  # noqa: PLC0415 - compiles every definition
    from app.services.webhooks.dry_run import preview  # noqa: PLC0415 - see above
    from app.services.webhooks.payload import PayloadError  # noqa: PLC0415 - see above

    try:
        definition = wanted.definition or get_preset(preset or "").definition
        events = preview(definition, wanted)
    except AppError as error:
        _fail(error.detail)
    except PayloadError as error:
        _fail(str(error))
    shown = [event.model_dump(mode="json", include={"mapped", "problems", "status"}) for event in events]
    return shown, not any(event.problems for event in events)


@webhooks_app.command("replay")
def replay_webhooks(
    everything: Annotated[bool, typer.Option("--all", help="Every event that ever came.")] = False,  # noqa: FBT002 - a flag
    status: Annotated[WebhookStatus | None, typer.Option(help="Only events in this state.")] = None,
    source: Annotated[int | None, typer.Option(help="Only events of this source.")] = None,
) -> None:
    """Process events again from their raw bytes, in the order they arrived, and wait until that is done.

    With --all in a database that has sources, merchants, customers, clicks, rates and raw events but no orders, it
    makes the same orders and balances again.
    """
    from app import db  # noqa: PLC0415 - only commands that touch the database
    from app.services import audit  # noqa: PLC0415 - see above
    from app.services.webhooks import replays  # noqa: PLC0415 - see above
    from app.workers.webhooks import webhook_drain, webhook_replay  # noqa: PLC0415 - see above

    if everything == (status is not None or source is not None):
        _fail("give --all, or --status or --source")
    settings = load_settings()

    async def run() -> ReplayRead:
        async with (
            db.transaction() as session,
            audit.recorded_command(session, "webhooks replay", audit.Target("webhook_replays", model=WebhookReplay)),
        ):
            replay = await replays.start(session, wanted=EventFilter(status=status, source_id=source))
        typer.echo(f"{replay.total} events")
        while replay.finished_at is None:
            # A worker may have claimed it; then this waits.
            if not await webhook_replay(settings)():
                await asyncio.sleep(1)
            async with db.transaction() as session:
                replay = await replays.get_replay(session, replay.id)
        # What waited for an order that was made since.
        await webhook_drain(settings)()
        return replay

    replay = with_database(run, pool_size=5)
    for outcome, count in sorted(replay.outcomes.items()):
        typer.echo(f"{count:>9} {outcome}")


def _valid(model: type[Model], content: Any) -> Model:  # noqa: ANN401 - what is to be checked
    try:
        return model.model_validate(content)
    except ValidationError as error:
        for problem in error.errors():
            typer.echo(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}", err=True)
        raise typer.Exit(2) from None


def _fail(message: str) -> NoReturn:
    typer.echo(message, err=True)
    raise typer.Exit(2)


def _definition(path: str) -> SourceDefinition:
    """Return the definition in a file: the whole of it, or its member `definition`, as presets have it."""
    file = Path(path)
    try:
        content: Any = tomllib.loads(file.read_text()) if file.suffix == ".toml" else json.loads(file.read_text())
    except (OSError, ValueError) as error:
        _fail(f"{path}: {error}")
    content = content.get("definition", content) if isinstance(content, dict) else content
    return _valid(SourceDefinition, content)


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        _fail(f"{file}: {error}")
    if not isinstance(content, dict):
        _fail(f"{file}: no JSON object")
    return content
