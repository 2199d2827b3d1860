"""Settings: refused early, with a message that says what to do, and without the secret in it."""

import base64
import os
import secrets
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from pydantic import ValidationError
from typer.testing import CliRunner

from app.cli import app as command
from app.config import DEVELOPMENT_ENCRYPTION_KEY, DEVELOPMENT_SECRET_KEY, Environment, Settings
from app.refusals import is_weak, weak_key

URLS = {"DATABASE_URL": "postgresql://user:hunter2@db/cashback", "REDIS_URL": "redis://:hunter2@redis:6379/0"}
SECRETS = {"SECRET_KEY": "0f8fad5bd9cb469fa16570867728950e", "ENCRYPTION_KEYS": Fernet.generate_key().decode()}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """An environment without any of our variables, in a folder without a .env file."""
    for name in os.environ:
        if name.lower() in Settings.model_fields:
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return monkeypatch


def read(environment: pytest.MonkeyPatch, **variables: str) -> Settings:
    for name, value in variables.items():
        environment.setenv(name, value)
    return Settings()


def refusal(environment: pytest.MonkeyPatch, **variables: str) -> str:
    with pytest.raises(ValidationError) as raised:
        read(environment, **variables)
    return str(raised.value)


def test_production_with_its_own_secrets_is_taken(environment: pytest.MonkeyPatch) -> None:
    settings = read(environment, **URLS, **SECRETS)
    assert settings.environment is Environment.PRODUCTION
    assert settings.sqlalchemy_url == "postgresql+asyncpg://user:hunter2@db/cashback"
    assert "hunter2" not in settings.secret_key.__repr__()
    for secret in SECRETS.values():
        assert secret not in repr(settings)


@pytest.mark.parametrize("environment_name", [None, "production"])
def test_default_secrets_are_refused_outside_development(
    environment: pytest.MonkeyPatch, environment_name: str | None
) -> None:
    if environment_name is not None:
        environment.setenv("ENVIRONMENT", environment_name)
    assert "SECRET_KEY must be set outside development; make one with: openssl rand -hex 32" in refusal(
        environment, **URLS, ENCRYPTION_KEYS=SECRETS["ENCRYPTION_KEYS"]
    )
    assert "SECRET_KEY must be set outside development" in refusal(
        environment, **URLS, ENCRYPTION_KEYS=SECRETS["ENCRYPTION_KEYS"], SECRET_KEY=DEVELOPMENT_SECRET_KEY
    )
    environment.delenv("ENCRYPTION_KEYS")
    for keys in (None, f"{SECRETS['ENCRYPTION_KEYS']},{DEVELOPMENT_ENCRYPTION_KEY}"):
        more = {} if keys is None else {"ENCRYPTION_KEYS": keys}
        assert "ENCRYPTION_KEYS must be set outside development; make one with: cashback new-key" in refusal(
            environment, **URLS, SECRET_KEY=SECRETS["SECRET_KEY"], **more
        )


def test_development_needs_only_the_urls(environment: pytest.MonkeyPatch) -> None:
    assert read(environment, ENVIRONMENT="development", **URLS).environment is Environment.DEVELOPMENT
    assert "SECRET_KEY must have 32 characters or more" in refusal(environment, SECRET_KEY="short")


@pytest.mark.parametrize("keys", ["", ",", "short", "é" * 44, "{valid},short"])
def test_encryption_keys_that_are_none_are_refused(environment: pytest.MonkeyPatch, keys: str) -> None:
    keys = keys.format(valid=Fernet.generate_key().decode())
    message = refusal(environment, ENVIRONMENT="development", **URLS, ENCRYPTION_KEYS=keys)
    assert "must be one or more Fernet keys" in message


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ("postgresql://u:p@h:5432/d", "postgresql://u:p@h:5432/d"),
        ("postgres://u:p@h/d", "postgresql://u:p@h/d"),
        ("postgresql+asyncpg://u:p@h/d", "postgresql://u:p@h/d"),
        ("postgres+psycopg://u:p@h/d?ssl=require", "postgresql://u:p@h/d?ssl=require"),
    ],
)
def test_usual_spellings_of_a_database_url_are_taken(environment: pytest.MonkeyPatch, given: str, taken: str) -> None:
    settings = read(environment, **SECRETS, REDIS_URL=URLS["REDIS_URL"], DATABASE_URL=given)
    assert settings.database_url == taken
    assert settings.sqlalchemy_url == taken.replace("postgresql://", "postgresql+asyncpg://")


@pytest.mark.parametrize("url", ["", "hunter2", "mysql://u:hunter2@h/d", "postgresql:/hunter2", "sqlite:///hunter2"])
def test_malformed_database_url_is_refused_without_its_password(environment: pytest.MonkeyPatch, url: str) -> None:
    message = refusal(environment, **SECRETS, REDIS_URL=URLS["REDIS_URL"], DATABASE_URL=url)
    assert "database_url" in message
    assert "must look like postgresql://user:password@host:port/database" in message
    assert "hunter2" not in message


@pytest.mark.parametrize("url", ["", "hunter2", "http://:hunter2@h", "redis:/hunter2"])
def test_malformed_redis_url_is_refused_without_its_password(environment: pytest.MonkeyPatch, url: str) -> None:
    message = refusal(environment, **SECRETS, DATABASE_URL=URLS["DATABASE_URL"], REDIS_URL=url)
    assert "redis_url" in message
    assert "must look like redis://:password@host:port/0" in message
    assert "hunter2" not in message


def test_missing_urls_are_named_by_the_command(environment: pytest.MonkeyPatch) -> None:
    result = CliRunner().invoke(command, ["migrate"])
    assert result.exit_code == 2
    assert "DATABASE_URL: Field required" in result.output
    assert "REDIS_URL: Field required" in result.output
    for name, value in URLS.items():
        environment.setenv(name, value)
    result = CliRunner().invoke(command, ["migrate"])
    assert result.exit_code == 2
    assert "SECRET_KEY must be set outside development" in result.output
    assert "hunter2" not in result.output


@pytest.mark.parametrize(
    ("variable", "field", "given", "taken"),
    [
        ("FRONTEND_ORIGINS", "frontend_origins", "", []),
        ("FRONTEND_ORIGINS", "frontend_origins", "https://a.example", ["https://a.example"]),
        ("FRONTEND_ORIGINS", "frontend_origins", " https://a.example ,https://b.example,", ["https://a.example", "https://b.example"]),
        ("READYZ_REQUIRES", "readyz_requires", "postgres", ["postgres"]),
        ("READYZ_REQUIRES", "readyz_requires", "postgres, redis", ["postgres", "redis"]),
    ],
)  # fmt: skip
def test_lists_are_comma_separated(
    environment: pytest.MonkeyPatch, variable: str, field: str, given: str, taken: list[str]
) -> None:
    assert getattr(read(environment, **URLS, **SECRETS, **{variable: given}), field) == taken


def test_several_encryption_keys_are_taken_in_order(environment: pytest.MonkeyPatch) -> None:
    keys = [Fernet.generate_key().decode() for _ in range(3)]
    settings = read(environment, **URLS, SECRET_KEY=SECRETS["SECRET_KEY"], ENCRYPTION_KEYS=", ".join(keys))
    assert [key.get_secret_value() for key in settings.encryption_keys] == keys


@pytest.mark.parametrize(
    "variables",
    [
        {"READYZ_REQUIRES": "postgres,kafka"},
        {"DB_POOL_SIZE": "0"},
        {"DB_POOL_TIMEOUT_SECONDS": "0"},
        {"PORT": "65536"},
        {"ENVIRONMENT": "staging"},
        {"LOG_LEVEL": "LOUD"},
        {"IDEMPOTENCY_KEY_HOURS": "23"},
        {"CASHBACK_ROUNDING": "up"},
    ],
)
def test_values_out_of_range_are_refused(environment: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    message = refusal(environment, **URLS, **SECRETS, **variables)
    assert all(name.lower() in message for name in variables)


PROVIDER = {"PAYOUT_HTTP_URL": "https://pay.example/v1", "PAYOUT_HTTP_TOKEN": "t0ken"}
WEBHOOK_SECRET = f"whsec_{base64.b64encode(bytes(range(24))).decode()}"


def test_payout_settings_are_taken_as_people_write_them(environment: pytest.MonkeyPatch) -> None:
    settings = read(
        environment,
        **URLS,
        **SECRETS,
        **PROVIDER,
        PAYOUT_DEBTOR_NAME=" Cashback Ltd ",
        PAYOUT_DEBTOR_IBAN="de89 3704 0044 0532 0130 00",
        PAYOUT_DEBTOR_BIC="cobadeffxxx",
        PAYOUT_CALLBACK_SECRETS=f"{WEBHOOK_SECRET}, {WEBHOOK_SECRET}",
    )
    assert settings.payout_debtor_name == "Cashback Ltd"
    assert settings.payout_debtor_iban == "DE89370400440532013000"
    assert settings.payout_debtor_bic == "COBADEFFXXX"
    assert [secret.get_secret_value() for secret in settings.payout_callback_secrets] == [WEBHOOK_SECRET] * 2
    assert "t0ken" not in repr(settings)
    assert WEBHOOK_SECRET not in repr(settings)


def test_empty_payout_settings_are_none(environment: pytest.MonkeyPatch) -> None:
    names = ("DEBTOR_NAME", "DEBTOR_IBAN", "DEBTOR_BIC", "HTTP_URL", "HTTP_TOKEN", "CALLBACK_SECRETS")
    settings = read(environment, **URLS, **SECRETS, **{f"PAYOUT_{name}": "" for name in names})
    assert [getattr(settings, f"payout_{name.lower()}") for name in names] == [None] * 5 + [[]]


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"PAYOUT_DEBTOR_IBAN": "DE89370400440532013001"}, "must be a whole IBAN"),
        ({"PAYOUT_DEBTOR_IBAN": "hunter2"}, "must be a whole IBAN"),
        ({"PAYOUT_DEBTOR_BIC": "hunter2"}, "must be a BIC of 8 or 11 characters"),
        ({"PAYOUT_DEBTOR_NAME": "x" * 71}, "payout_debtor_name"),
        ({**PROVIDER, "PAYOUT_HTTP_URL": "http://pay.example"}, "PAYOUT_HTTP_URL must begin with https://"),
        ({**PROVIDER, "PAYOUT_HTTP_URL": "pay.example"}, "PAYOUT_HTTP_URL must begin with https://"),
        ({**PROVIDER, "PAYOUT_HTTP_TOKEN": ""}, "PAYOUT_HTTP_URL needs PAYOUT_HTTP_TOKEN beside it"),
        ({"PAYOUT_HTTP_TIMEOUT_SECONDS": "0"}, "payout_http_timeout_seconds"),
        ({"PAYOUT_HTTP_TIMEOUT_SECONDS": "61"}, "payout_http_timeout_seconds"),
        ({"PAYOUT_CALLBACK_SECRETS": "hunter2"}, "must be Standard Webhooks secrets"),
        ({"PAYOUT_CALLBACK_SECRETS": "whsec_aGk="}, "must be Standard Webhooks secrets"),
        ({"PAYOUT_CALLBACK_SECRETS": f"{WEBHOOK_SECRET},whsec_é"}, "must be Standard Webhooks secrets"),
    ],
)
def test_payout_settings_that_cannot_work_are_refused(
    environment: pytest.MonkeyPatch, variables: dict[str, str], message: str
) -> None:
    refused = refusal(environment, **URLS, **SECRETS, **variables)
    assert message in refused
    assert "hunter2" not in refused


def test_every_setting_is_described_and_nothing_changes_later(environment: pytest.MonkeyPatch) -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []
    settings: Any = read(environment, **URLS, **SECRETS)
    with pytest.raises(ValidationError):
        settings.port = 1


def test_connection_budget_counts_every_process_of_the_host(environment: pytest.MonkeyPatch) -> None:
    settings = read(
        environment,
        **URLS,
        **SECRETS,
        WEB_CONCURRENCY="4",
        DB_POOL_SIZE="10",
        DB_READ_POOL_SIZE="4",
        DB_MAX_OVERFLOW="5",
        JOB_WORKER_PROCESSES="2",
        DB_WORKER_POOL_SIZE="3",
    )
    assert settings.connections_per_api_process == 15 + 4
    assert settings.connection_budget == 4 * 19 + 2 * 2 * 3


@pytest.mark.parametrize(
    "key",
    [
        "s" * 64,
        "abcdefgh" * 8,
        "0123456789abcdef" * 4,
        "change-me-change-me-please-0123456789",
        "CHANGEME_0f8fad5bd9cb469fa16570867728950e",
        "your-secret-here-0f8fad5bd9cb469fa1657086",
        "this is the example of the tutorial 2024!",
        "development-only-secret-key-0123456789abcdeX",
        "1212121212121212121212121212121213",
    ],
)
def test_a_secret_that_others_know_is_refused_outside_development(environment: pytest.MonkeyPatch, key: str) -> None:
    message = refusal(environment, **URLS, ENCRYPTION_KEYS=SECRETS["ENCRYPTION_KEYS"], SECRET_KEY=key)
    assert "SECRET_KEY is a placeholder or easy to guess; make one with: openssl rand -hex 32" in message
    assert key not in message
    assert read(environment, ENVIRONMENT="development").secret_key.get_secret_value() == key


@pytest.mark.parametrize("length", [16, 32, 64])
def test_secrets_made_as_told_are_taken(environment: pytest.MonkeyPatch, length: int) -> None:
    for _ in range(200):
        assert not is_weak(secrets.token_hex(length))
        assert not weak_key(Fernet.generate_key().decode())


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"ENCRYPTION_KEYS": base64.urlsafe_b64encode(bytes(32)).decode()}, "ENCRYPTION_KEYS has one that is easy"),
        ({"PAYOUT_CALLBACK_SECRETS": f"whsec_{base64.b64encode(bytes(24)).decode()}"}, "PAYOUT_CALLBACK_SECRETS has"),
        ({"DATABASE_URL": "postgresql://postgres:postgres@db/cashback"}, "DATABASE_URL has a password"),
        ({"DATABASE_URL": "postgresql://cashback:Change%6De@db/cashback"}, "DATABASE_URL has a password"),
        ({"REDIS_URL": "redis://:password@redis:6379/0"}, "REDIS_URL has a password"),
        ({"LOG_LEVEL": "DEBUG"}, "LOG_LEVEL=DEBUG"),
        ({"PUBLIC_URL": "http://api.shop.net"}, "PUBLIC_URL must begin with https://"),
        ({"FRONTEND_ORIGINS": "https://shop.net,http://localhost:3000"}, "FRONTEND_ORIGINS must all begin with https"),
        ({"ALLOW_PRIVATE_FEEDS": "true"}, "ALLOW_PRIVATE_FEEDS lets"),
        ({"ALLOW_PRIVATE_ENDPOINTS": "true"}, "ALLOW_PRIVATE_ENDPOINTS lets"),
    ],
)
def test_what_only_development_may_is_refused_elsewhere(
    environment: pytest.MonkeyPatch, variables: dict[str, str], message: str
) -> None:
    refused = refusal(environment, **{**URLS, **SECRETS, **variables})
    assert message in refused
    assert read(environment, ENVIRONMENT="development").environment is Environment.DEVELOPMENT


def test_all_that_is_wrong_is_said_at_once(environment: pytest.MonkeyPatch) -> None:
    message = refusal(environment, **{**URLS, **SECRETS, "LOG_LEVEL": "DEBUG", "ALLOW_PRIVATE_FEEDS": "1"})
    assert "LOG_LEVEL" in message
    assert "ALLOW_PRIVATE_FEEDS" in message


@pytest.mark.parametrize("origin", ["*", "https://*.shop.net", "https://shop.net/", "shop.net", "null", "https://a@b"])
def test_an_origin_that_is_none_is_refused_everywhere(environment: pytest.MonkeyPatch, origin: str) -> None:
    message = refusal(environment, ENVIRONMENT="development", **URLS, FRONTEND_ORIGINS=origin)
    assert "must be origins as https://shop.example" in message


@pytest.mark.parametrize("proxies", ["*", "proxy.internal", "10.0.0.0/33", "10.0.0.1/8", "10.0.0.1,*"])
def test_proxies_are_named_by_address(environment: pytest.MonkeyPatch, proxies: str) -> None:
    assert "must be addresses or CIDRs" in refusal(environment, **URLS, **SECRETS, FORWARDED_ALLOW_IPS=proxies)


def test_proxies_of_both_kinds_are_taken_and_none_as_well(environment: pytest.MonkeyPatch) -> None:
    settings = read(environment, **URLS, **SECRETS, FORWARDED_ALLOW_IPS="10.1.0.0/16, ::1 ,fd00::/8")
    assert settings.forwarded_allow_ips == ["10.1.0.0/16", "::1", "fd00::/8"]
    assert read(environment, FORWARDED_ALLOW_IPS="").forwarded_allow_ips == []
    assert read(environment, PUBLIC_URL="").public_url is None


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"SMTP_URL": "mail.example"}, "SMTP_URL must look like"),
        ({"SMTP_URL": "smtp://mail.example?tls=off"}, "SMTP_URL may say tls=off in development only"),
        ({"SMS_HTTP_URL": "http://sms.example"}, "SMS_HTTP_URL must begin with https://"),
        ({"SMS_HTTP_URL": "https://sms.example"}, "SMS_HTTP_URL needs SMS_HTTP_TOKEN beside it"),
        ({"MAILBOX_DIR": "mailbox"}, "MAILBOX_DIR is for development"),
    ],
)
def test_settings_that_would_leak_messages_are_refused(
    environment: pytest.MonkeyPatch, variables: dict[str, str], said: str
) -> None:
    assert said in refusal(environment, **URLS, **SECRETS, **variables)


def test_several_hosts_are_a_primary_and_its_standbys(environment: pytest.MonkeyPatch) -> None:
    settings = read(environment, **SECRETS, **URLS | {"DATABASE_URL": "postgresql://u:p,x@a:5433,b/cashback?ssl=on"})
    assert settings.sqlalchemy_url == (
        "postgresql+asyncpg://u:p,x@/cashback?host=a:5433&host=b:5432&target_session_attrs=primary&ssl=on"
    )


@pytest.mark.parametrize("url", ["redis+sentinel://:p@a,b", "redis+sentinel://:p@a/name/x", "redis+sentinel:///name"])
def test_sentinels_need_the_name_of_what_they_watch(environment: pytest.MonkeyPatch, url: str) -> None:
    assert "must look like redis+sentinel://" in refusal(environment, **SECRETS, **URLS | {"REDIS_URL": url})


def test_empty_replica_is_none(environment: pytest.MonkeyPatch) -> None:
    assert read(environment, **SECRETS, **URLS, DATABASE_REPLICA_URL="").database_replica_url is None
    assert "must look like postgresql://" in refusal(environment, DATABASE_REPLICA_URL="mysql://a/b")
