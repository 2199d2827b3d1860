"""What schemathesis is told, and what it came to: cases of every operation, with the credentials it asks for."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import schemathesis
from fastapi import FastAPI
from schemathesis.config import SchemathesisConfig
from schemathesis.core.failures import AcceptedNegativeData
from schemathesis.engine import events, from_schema
from schemathesis.python.asgi import shutdown_lifespans

from tests.access.matrix import Caller
from tests.access.world import World

# Not asked of an answer:
UNCHECKED = (
    # that whatever fits the schema is taken: limits, periods and states are more than a schema can say.
    "positive_data_acceptance",
    # that a path has only its own methods: `/sync/jobs` also fits `/sync/{merchant_id}`; tests/access has them all.
    "unsupported_method",
)


@dataclass
class Outcome:
    """What was tried and what was found."""

    cases: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    operations: set[str] = field(default_factory=set)
    # By kind of failure and operation, what it says and how to see it again.
    failures: dict[str, str] = field(default_factory=dict)

    def take(self, event: events.EngineEvent) -> None:
        """Count what an event of the engine tells of."""
        match event:
            case events.ScenarioFinished(recorder=recorder):
                for case_id, interaction in recorder.interactions.items():
                    self.cases += 1
                    self.operations.add(recorder.cases[case_id].value.operation.label)
                    if interaction.response is not None:
                        self.statuses[interaction.response.status_code] += 1
                for case_id, check in ((key, one) for key, checks in recorder.checks.items() for one in checks):
                    if check.failure_info is not None:
                        failure = check.failure_info.failure
                        # Spaces around a text do not count for its length, which a schema cannot say.
                        if isinstance(failure, AcceptedNegativeData) and _is_padded(recorder.cases[case_id].value.body):
                            continue
                        told = f"{failure.message}\n{check.failure_info.code_sample}"
                        self.failures.setdefault(f"{failure.title}: {failure.operation}", told)
            case events.NonFatalError() | events.FatalError():
                error = event.value if isinstance(event, events.NonFatalError) else event.exception
                self.failures.setdefault(f"error: {type(error).__name__}", str(error))


def _is_padded(value: Any) -> bool:
    match value:
        case str():
            return value != value.strip()
        case dict():
            return any(map(_is_padded, value.values()))
        case list():
            return any(map(_is_padded, value))
    return False


def run(app: FastAPI, world: World, *, phases: set[str], examples: int, seed: int) -> Outcome:
    """Start the application, try every operation as often as that, and stop it."""
    schema = schemathesis.openapi.from_asgi("/openapi.json", app, config=_config(world, phases, examples, seed))
    outcome = Outcome()
    try:
        for event in from_schema(schema).execute():
            outcome.take(event)
    finally:
        shutdown_lifespans()
    return outcome


def _config(world: World, phases: set[str], examples: int, seed: int) -> SchemathesisConfig:
    customer = world.credentials[Caller.CUSTOMER]["Authorization"].removeprefix("Bearer ")
    staff = world.credentials[Caller.ADMIN]["X-API-Key"]
    merchant = world.credentials[Caller.MERCHANT]["X-API-Key"]
    return SchemathesisConfig.from_dict(
        {
            "seed": seed,
            "cache": {"enabled": False},
            "continue-on-failure": True,
            "auth": {
                "openapi": {
                    "customer": {"bearer": customer},
                    "staff": {"bearer": staff},
                    "staff-key": {"api_key": staff},
                    "merchant": {"bearer": merchant},
                    "merchant-key": {"api_key": merchant},
                }
            },
            # What ends an account or a session is done to one that nothing else uses.
            "operations": [
                {"include-path": path, "include-method": "DELETE", "headers": world.credentials[Caller.OTHER_CUSTOMER]}
                for path in ("/v1/me", "/v1/me/sessions")
            ],
            "phases": {name: {"enabled": name in phases} for name in ("examples", "coverage", "fuzzing", "stateful")},
            "checks": {name: {"enabled": False} for name in UNCHECKED},
            "generation": {"max-examples": examples, "database": "none"},
        }
    )
