"""Every setting of the service, read once from the environment when an application or a worker is built.

Nothing reads settings at import. Units are part of the name. A secret has a default in development only.
"""

import base64
import re
from enum import StrEnum
from functools import cached_property
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from schwifty import BIC, IBAN
from schwifty.exceptions import SchwiftyException

from app.refusals import known_password, refused_doors, refused_secrets

DEVELOPMENT_SECRET_KEY = "development-only-secret-key-0123456789abcdef"  # noqa: S105 - refused outside development
# A Fernet key is 32 bytes in URL-safe base64; this one only ever protects demo data.
DEVELOPMENT_ENCRYPTION_KEY = "ZGV2ZWxvcG1lbnQtb25seS1lbmNyeXB0aW9uLWtleSE="


def sqlalchemy_url(url: str) -> str:
    """Return a URL as SQLAlchemy and asyncpg take it: `postgresql://user:password@a:5432,b:5432/database` too.

    Of several hosts the one that takes writes is wanted, unless `target_session_attrs` says something else.
    """
    rest = url.partition("://")[2]
    authority, slash, tail = rest.partition("/")
    credentials, at, hosts = authority.rpartition("@")
    if "," not in hosts:
        return f"postgresql+asyncpg://{rest}"
    database, _, query = tail.partition("?")
    wanted = [f"host={host if ':' in host else f'{host}:5432'}" for host in hosts.split(",")]
    if "target_session_attrs=" not in query:
        wanted.append("target_session_attrs=primary")
    return f"postgresql+asyncpg://{credentials}{at}{slash}{database}?{'&'.join([*wanted, *filter(None, [query])])}"


class Environment(StrEnum):
    """Where the service runs. Development relaxes what production must never relax."""

    DEVELOPMENT = "development"
    PRODUCTION = "production"


class Provider(BaseModel):
    """An external OpenID provider whose ID tokens are taken."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # Exactly as the provider writes it into `iss`.
    issuer: str = Field(pattern=r"^https?://[^\s?#]+$")
    # Our client ids there: whom its tokens must be for.
    audiences: list[str] = Field(min_length=1)
    # Where its keys are; without it, as its discovery document says.
    jwks_url: str | None = Field(None, pattern=r"^https?://\S+$")
    # Never one with a shared secret.
    algorithms: list[Literal["RS256", "RS384", "RS512", "PS256", "ES256", "ES384", "EdDSA"]] = ["RS256", "ES256"]
    # Firebase and Cognito pass none on; their tokens are good once all the same.
    requires_nonce: bool = True


class Settings(BaseSettings):
    """All settings. The variable's name is the field's name in upper case."""

    model_config = SettingsConfigDict(
        env_file=".env",
        env_file_encoding="utf-8",
        extra="ignore",
        frozen=True,
        # A refusal ends up in a log, and what it refuses may be a URL with a password.
        hide_input_in_errors=True,
    )

    environment: Environment = Field(Environment.PRODUCTION, description="`development` allows default secrets.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Lowest level that is logged.")

    # Servers
    database_url: str = Field(
        description="PostgreSQL 15 or newer, as `postgresql://user:password@host:port/database`; several hosts, comma"
        " separated, are a primary and its standbys."
    )
    database_replica_url: str | None = Field(
        None, description="A read replica of it, for the catalogue and the report; the primary where it is away."
    )
    database_replica_max_lag_seconds: float = Field(
        5.0, gt=0, description="A replica that is further behind is not read."
    )
    redis_url: str = Field(
        description="Redis 6.2 or newer, as `redis://:password@host:port/0`, or by its Sentinels, as"
        " `redis+sentinel://:password@host:port,host:port/name/0`."
    )
    startup_wait_seconds: float = Field(
        60.0, ge=0, description="How long a worker waits at its start for PostgreSQL and for its schema, then exits."
    )
    host: str = Field("127.0.0.1", description="Address the API listens on.")
    port: int = Field(8000, ge=0, le=65535, description="Port the API listens on.")
    web_concurrency: int = Field(1, ge=1, le=256, description="API processes (uvicorn workers) on this host.")
    job_worker_processes: int = Field(2, ge=0, description="Job worker processes, counted in the connection budget.")

    # Database pool, per process
    db_pool_size: int = Field(20, ge=1, description="Connections kept open per API process.")
    db_max_overflow: int = Field(10, ge=0, description="Connections opened beyond the pool under load, per process.")
    db_read_pool_size: int = Field(
        6,
        ge=1,
        description="Connections opened for hot reads (catalogue, wallet, orders) per API process, beside these.",
    )
    db_pool_recycle_seconds: int = Field(1800, ge=-1, description="A connection older than this is replaced.")
    db_pool_timeout_seconds: float = Field(2.0, gt=0, description="Longest wait for a connection, then 503.")
    db_pool_ping_after_idle_seconds: float = Field(
        5.0,
        ge=0,
        description="A connection idle for longer is tested before use, so that a dead one is not handed out.",
    )
    db_statement_timeout_seconds: float = Field(10.0, gt=0, description="The server cancels a longer statement.")
    db_lock_timeout_seconds: float = Field(5.0, gt=0, description="The server gives up waiting for a lock.")
    db_idle_in_transaction_timeout_seconds: float = Field(
        30.0, gt=0, description="The server ends an idle transaction."
    )
    db_worker_pool_size: int = Field(5, ge=1, description="Connections kept open per job worker process.")
    db_transaction_pooling: bool = Field(
        False,  # noqa: FBT003 - pydantic's own signature
        description="The URLs lead to a pooler in transaction mode: no prepared statements, no settings by connection.",
    )

    # Secrets
    secret_key: SecretStr = Field(
        SecretStr(DEVELOPMENT_SECRET_KEY),
        description="Keys derived hashes, and signs access tokens until the first rotation; 32 characters or more.",
    )
    encryption_keys: Annotated[list[SecretStr], NoDecode] = Field(
        [SecretStr(DEVELOPMENT_ENCRYPTION_KEY)],
        description="Fernet keys, comma separated; the first encrypts, all decrypt (rotation).",
    )

    # HTTP
    frontend_origins: Annotated[list[str], NoDecode] = Field(
        [], description="Origins that browsers may call from, comma separated, as `https://shop.example`."
    )
    public_url: str | None = Field(None, description="Base of `redirect_url`; default: the request's own base URL.")
    max_body_bytes: int = Field(1_048_576, ge=1024, description="Largest request body.")
    max_webhook_body_bytes: int = Field(262_144, ge=1024, description="Largest webhook body.")
    body_timeout_seconds: float = Field(20.0, gt=0, description="Longest time for a request's body to arrive.")
    max_concurrent_requests: int = Field(
        400, ge=1, description="Requests in progress per process, beyond which others get 503 at once."
    )
    rate_limit_factor: float = Field(
        1.0, ge=0, description="Widens the limits of all requests by class and caller; 0 lifts them. Not money's."
    )
    forwarded_allow_ips: Annotated[list[str], NoDecode] = Field(
        ["127.0.0.1"],
        description="Proxies whose `X-Forwarded-For` and `-Proto` are believed: addresses and CIDRs, comma separated.",
    )
    hsts_seconds: int = Field(
        31_536_000, ge=0, description="How long browsers shall insist on https, told on https; 0 does not tell."
    )
    readyz_requires: Annotated[list[Literal["postgres", "redis"]], NoDecode] = Field(
        ["postgres", "redis"], description="Dependencies that `/readyz` asks, comma separated."
    )
    readyz_timeout_seconds: float = Field(1.0, gt=0, description="Deadline for each dependency of `/readyz`.")
    shutdown_grace_seconds: int = Field(8, ge=1, description="Time that running requests and jobs get on SIGTERM.")

    catalogue_cache_bytes: int = Field(
        16_777_216, ge=0, description="Memory per API process for finished answers of the catalogue; 0 keeps none."
    )

    # Identity
    access_token_seconds: int = Field(900, ge=60, description="Life of an access token.")
    token_issuer: str = Field(
        "cashback",
        min_length=1,
        description="`iss` of access tokens; the API's public address where others verify them.",
    )
    signing_key_days: int = Field(90, ge=1, description="Age at which the key that signs access tokens is replaced.")
    refresh_token_seconds: int = Field(30 * 86_400, ge=3600, description="Life of a refresh token.")
    refresh_grace_seconds: int = Field(
        10, ge=0, le=60, description="How long a used refresh token still leads to its successor; 0: not at all."
    )
    session_max_seconds: int = Field(
        180 * 86_400, ge=3600, description="Longest life of a session, however often it is refreshed."
    )
    password_hash_concurrency: int = Field(2, ge=1, description="argon2id computations at the same time per process.")

    identity_providers: list[Provider] = Field(
        [],
        description='OpenID providers to sign in with, as JSON: `[{"issuer": "https://...", "audiences": ["..."]}]`.',
    )

    # Messages to customers
    smtp_url: SecretStr | None = Field(
        None,
        description="Mail server, as `smtp://user:password@host:587` (STARTTLS) or `smtps://...:465`; else mails wait.",
    )
    mail_from: str = Field("Cashback <no-reply@localhost>", description="Sender of mails.")
    frontend_url: str | None = Field(
        None, description="Base of links in mails, as `https://shop.example/account`; without it they hold bare tokens."
    )
    sms_http_url: str | None = Field(None, description="Where text messages are posted to; https outside development.")
    sms_http_token: SecretStr | None = Field(None, description="Bearer token for that gateway.")
    mailbox_dir: Path | None = Field(None, description="Folder that gets messages in development.")

    # Rules
    click_lifetime_days: int = Field(45, ge=1, description="How long after a click a sale still counts for it.")
    idempotency_key_hours: int = Field(24, ge=24, description="How long an Idempotency-Key is remembered.")
    cashback_rounding: Literal["half_even", "floor"] = Field("half_even", description="Rounding of computed cashback.")
    exchange_rate_max_age_days: int = Field(
        7, ge=0, description="How long an exchange rate holds after its day, unless a newer one comes."
    )
    claim_sla_days: int = Field(5, ge=1, description="Days in which a claim for missing cashback is to be decided.")
    claim_max_open: int = Field(10, ge=1, description="Most claims of one customer that wait for a decision.")
    claim_max_age_days: int = Field(180, ge=1, description="How long after an order it can be claimed.")
    claim_match_score: int = Field(
        85,
        ge=1,
        le=100,
        description="From this score of 100 on, a claim and an orphan are matched for staff to confirm.",
    )
    export_days: int = Field(7, ge=1, le=90, description="How long an export of a customer's data can be downloaded.")
    four_eyes_limits: Annotated[dict[str, int], NoDecode] = Field(
        {},
        description="What one member of staff may move by hand, in minor units by currency, as `PKR:5000000,EUR:20000`;"
        " above it another person confirms. A currency that is missing has no limit.",
    )
    proposal_days: int = Field(7, ge=1, le=90, description="How long what one person proposes waits for another.")
    webhook_raw_keep_months: int | None = Field(
        None, ge=3, le=600, description="Whole months for which raw webhook events can be replayed; empty: for ever."
    )
    click_keep_months: int | None = Field(
        None, ge=3, le=600, description="Whole months for which clicks without an order are kept; empty: for ever."
    )
    webhook_max_tries: int = Field(5, ge=1, description="Tries of an event that fails in processing, then `dead`.")

    # Payouts
    payout_debtor_name: str | None = Field(
        None, max_length=70, description="Our name in bank files; without it and the IBAN there is no pain.001."
    )
    payout_debtor_iban: str | None = Field(None, description="The account that bank files pay from.")
    payout_debtor_bic: str | None = Field(None, description="Its bank's BIC, where the bank wants one in the file.")
    payout_http_url: str | None = Field(
        None, description="Base address of the HTTP payout provider; https outside development."
    )
    payout_http_token: SecretStr | None = Field(None, description="Bearer token for that provider.")
    payout_http_timeout_seconds: float = Field(
        10.0, gt=0, le=60, description="Longest wait for one answer of that provider."
    )
    payout_callback_secrets: Annotated[list[SecretStr], NoDecode] = Field(
        [],
        description="Standard Webhooks secrets of that provider's callbacks, comma separated; all verify (rotation).",
    )

    # Feeds
    allow_private_feeds: bool = Field(False, description="Let feed URLs point at private and loopback addresses.")  # noqa: FBT003 - pydantic's own signature
    feed_timeout_seconds: float = Field(30.0, gt=0, description="Longest silence of a feed's server.")
    feed_max_seconds: int = Field(1800, ge=1, description="Longest time for one whole sync.")
    feed_max_bytes: int = Field(2 * 1024**3, ge=1024, description="Largest feed, after decompression.")
    feed_max_rows: int = Field(2_000_000, ge=1, description="Most rows in one feed.")
    sweep_interval_seconds: int = Field(15, ge=1, le=30, description="How often forgotten work is looked for.")

    # Notifications
    allow_private_endpoints: bool = Field(False, description="Let notifications go to private and loopback addresses.")  # noqa: FBT003 - pydantic's own signature
    notification_timeout_seconds: float = Field(15.0, gt=0, description="Longest wait for an endpoint's answer.")

    # Metrics
    prometheus_multiproc_dir: str | None = Field(None, description="Folder that processes share their metrics in.")
    worker_metrics_port: int | None = Field(None, description="A job worker serves its own `/metrics` on this port.")

    @field_validator(
        "frontend_origins",
        "forwarded_allow_ips",
        "readyz_requires",
        "encryption_keys",
        "payout_callback_secrets",
        mode="before",
    )
    @classmethod
    def _split_commas(cls, value: object) -> object:
        if isinstance(value, str):
            return [part.strip() for part in value.split(",") if part.strip()]
        return value

    @field_validator("four_eyes_limits", mode="before")
    @classmethod
    def _limits(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        limits: dict[str, int] = {}
        for part in filter(None, (part.strip() for part in value.split(","))):
            currency, _, amount = part.partition(":")
            if not (len(currency) == 3 and currency.isascii() and currency.isupper() and amount.isdecimal()):
                raise ValueError("must look like PKR:5000000,EUR:20000")
            limits[currency] = int(amount)
        return limits

    @field_validator("database_url", "database_replica_url")
    @classmethod
    def _database_scheme(cls, value: str | None) -> str | None:
        if value is None:
            return None
        scheme, separator, rest = value.partition("://")
        if not separator or scheme.split("+")[0] not in {"postgres", "postgresql"}:
            raise ValueError("must look like postgresql://user:password@host:port/database")
        return f"postgresql://{rest}"

    @field_validator("frontend_origins")
    @classmethod
    def _origins(cls, value: list[str]) -> list[str]:
        for origin in value:
            if not re.fullmatch(r"https?://[^/?#*@\s]+", origin):
                raise ValueError("must be origins as https://shop.example, without a path; and no *")
        return value

    @field_validator("forwarded_allow_ips")
    @classmethod
    def _addresses(cls, value: list[str]) -> list[str]:
        try:
            return [str(ip_network(item)) if "/" in item else str(ip_address(item)) for item in value]
        except ValueError:
            raise ValueError("must be addresses or CIDRs of proxies, as 10.0.0.7 or 10.1.0.0/16; not *") from None

    @field_validator("redis_url")
    @classmethod
    def _redis_scheme(cls, value: str) -> str:
        if value.startswith("redis+sentinel://"):
            parts = urlsplit(value)
            name, _, number = parts.path.removeprefix("/").partition("/")
            if not name or not (number or "0").isdecimal() or not parts.netloc.rpartition("@")[2]:
                raise ValueError("must look like redis+sentinel://:password@host:port,host:port/name/0")
        elif not value.startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("must look like redis://:password@host:port/0")
        return value

    @field_validator(
        "database_replica_url",
        "public_url",
        "click_keep_months",
        "webhook_raw_keep_months",
        "payout_debtor_name",
        "payout_debtor_iban",
        "payout_debtor_bic",
        "payout_http_url",
        "payout_http_token",
        "smtp_url",
        "frontend_url",
        "sms_http_url",
        "sms_http_token",
        "mailbox_dir",
        mode="before",
    )
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        return (value.strip() or None) if isinstance(value, str) else value

    @field_validator("payout_debtor_iban")
    @classmethod
    def _iban(cls, value: str | None) -> str | None:
        try:
            return None if value is None else str(IBAN(value).compact)
        except SchwiftyException:
            raise ValueError("must be a whole IBAN, its check digits included") from None

    @field_validator("payout_debtor_bic")
    @classmethod
    def _bic(cls, value: str | None) -> str | None:
        try:
            return None if value is None else str(BIC(value).compact)
        except SchwiftyException:
            raise ValueError("must be a BIC of 8 or 11 characters") from None

    @field_validator("payout_callback_secrets")
    @classmethod
    def _webhook_secrets(cls, value: list[SecretStr]) -> list[SecretStr]:
        for secret in value:
            try:
                size = len(base64.b64decode(secret.get_secret_value().removeprefix("whsec_"), validate=True))
            except ValueError:
                size = 0
            if size < 24:
                raise ValueError("must be Standard Webhooks secrets: whsec_ and 24 or more bytes in base64")
        return value

    @field_validator("encryption_keys")
    @classmethod
    def _fernet_keys(cls, value: list[SecretStr]) -> list[SecretStr]:
        try:
            sizes = {len(base64.urlsafe_b64decode(key.get_secret_value())) for key in value}
        except ValueError:  # binascii's, and that of characters beyond ASCII
            sizes = set()
        if sizes != {32}:
            raise ValueError("must be one or more Fernet keys, comma separated; make one with: cashback new-key")
        return value

    @model_validator(mode="after")
    def _refuse_default_secrets(self) -> Self:
        if len(self.secret_key.get_secret_value()) < 32:
            raise ValueError("SECRET_KEY must have 32 characters or more; make one with: openssl rand -hex 32")
        if self.environment is Environment.DEVELOPMENT:
            return self
        if self.secret_key.get_secret_value() == DEVELOPMENT_SECRET_KEY:
            raise ValueError("SECRET_KEY must be set outside development; make one with: openssl rand -hex 32")
        if DEVELOPMENT_ENCRYPTION_KEY in [key.get_secret_value() for key in self.encryption_keys]:
            raise ValueError("ENCRYPTION_KEYS must be set outside development; make one with: cashback new-key")
        return self

    @model_validator(mode="after")
    def _refuse_what_development_only_may(self) -> Self:
        if self.environment is Environment.DEVELOPMENT:
            return self
        refused = [
            *refused_secrets(
                secret_key=self.secret_key,
                encryption_keys=self.encryption_keys,
                callback_secrets=self.payout_callback_secrets,
            ),
            *refused_doors(
                log_level=self.log_level,
                public_url=self.public_url,
                frontend_origins=self.frontend_origins,
                allow_private_feeds=self.allow_private_feeds,
                allow_private_endpoints=self.allow_private_endpoints,
            ),
        ]
        refused += [
            f"{name.upper()} has a password that everybody tries first; set another on the server"
            for name in ("database_url", "database_replica_url", "redis_url")
            if known_password(getattr(self, name) or "")
        ]
        if refused:
            raise ValueError("; ".join(refused) + " (ENVIRONMENT=development takes them)")
        return self

    @model_validator(mode="after")
    def _refuse_half_a_provider(self) -> Self:
        if self.payout_http_url is None:
            return self
        schemes = ("http://", "https://") if self.environment is Environment.DEVELOPMENT else ("https://",)
        if not self.payout_http_url.startswith(schemes):
            raise ValueError("PAYOUT_HTTP_URL must begin with https:// (in development http:// too)")
        if self.payout_http_token is None:
            raise ValueError("PAYOUT_HTTP_URL needs PAYOUT_HTTP_TOKEN beside it")
        return self

    @model_validator(mode="after")
    def _refuse_providers_without_tls(self) -> Self:
        if self.environment is Environment.DEVELOPMENT:
            return self
        for provider in self.identity_providers:
            if not all(url.startswith("https://") for url in (provider.issuer, provider.jwks_url or "https://")):
                raise ValueError("IDENTITY_PROVIDERS must all begin with https://")
        return self

    @model_validator(mode="after")
    def _refuse_leaky_messages(self) -> Self:
        development = self.environment is Environment.DEVELOPMENT
        if self.smtp_url is not None:
            url = self.smtp_url.get_secret_value()
            if not url.startswith(("smtp://", "smtps://")):
                raise ValueError("SMTP_URL must look like smtp://user:password@host:587 or smtps://...")
            if url.endswith("?tls=off") and not development:
                raise ValueError("SMTP_URL may say tls=off in development only")
        if self.sms_http_url is not None:
            if not self.sms_http_url.startswith(("http://", "https://") if development else ("https://",)):
                raise ValueError("SMS_HTTP_URL must begin with https:// (in development http:// too)")
            if self.sms_http_token is None:
                raise ValueError("SMS_HTTP_URL needs SMS_HTTP_TOKEN beside it")
        if self.mailbox_dir is not None and not development:
            raise ValueError("MAILBOX_DIR is for development: the messages in it hold tokens")
        return self

    def needs_second_person(self, amount_minor: int, currency: str) -> bool:
        """Whether an amount is more than one member of staff, or a rule alone, may move."""
        limit = self.four_eyes_limits.get(currency)
        return limit is not None and amount_minor > limit

    @cached_property
    def sqlalchemy_url(self) -> str:
        """The database URL as SQLAlchemy and its driver take it."""
        return sqlalchemy_url(self.database_url)

    @property
    def connections_per_api_process(self) -> int:
        """Most PostgreSQL connections one API process may hold."""
        return self.db_pool_size + self.db_max_overflow + self.db_read_pool_size

    @property
    def connection_budget(self) -> int:
        """Most PostgreSQL connections this host's processes may hold together."""
        return (
            self.web_concurrency * self.connections_per_api_process
            # A job worker's pool may overflow by its size, and a sync holds one raw connection for COPY.
            + self.job_worker_processes * 2 * self.db_worker_pool_size
        )
