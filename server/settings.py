"""Every environment variable, with its type, its default and its unit. An unsafe combination refuses to start."""

from __future__ import annotations

import os
import secrets
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from server.lease import Timing
from server.options import Options
from services.errors import GalleyError

RELEASE = "0.1.0"
Seconds = Annotated[float, Field(gt=0, le=86_400)]


class SettingsError(GalleyError):
    """The environment asks for something that cannot be or is not safe."""

    slug, title = "settings", "The settings do not fit"


class Settings(BaseSettings):
    """The settings of one process. Each secret is also read from the file named by `<NAME>_FILE`."""

    model_config = SettingsConfigDict(
        env_file=None, extra="ignore", str_strip_whitespace=True, hide_input_in_errors=True
    )

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 8000
    base_url: str = (
        ""  # how people reach this site, e.g. https://galley.example.org; empty: the address it listens on
    )
    environment: Literal["development", "production"] = "development"
    role: Literal["all", "web", "executor"] = "all"
    data_dir: Path = Path("data")
    public_tenant: str = "demo"

    database_url: SecretStr = SecretStr("")  # empty: the embedded PostgreSQL
    direct_database_url: SecretStr = SecretStr("")  # round a pooler in database_url; empty: there is none
    migrate_database_url: SecretStr = SecretStr("")  # may create roles; empty: one of the two above
    galley_web_password: SecretStr = SecretStr("")  # `migrate` gives it to the role galley_web
    web_connections: Annotated[int, Field(ge=2, le=500)] = 20
    engine_connections: Annotated[int, Field(ge=2, le=100)] = 7

    openai_base_url: str = ""  # all three empty: the embedded model
    openai_api_key: SecretStr = SecretStr("")
    openai_model: str = ""
    llm_concurrency: Annotated[int, Field(ge=1, le=1000)] = 32

    secret_key: SecretStr = SecretStr("")  # at least 32 characters; signs cursors
    allowed_origins: Annotated[tuple[str, ...], NoDecode] = ()  # comma separated
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = "INFO"
    log_format: Literal["auto", "json", "text"] = "auto"  # auto: text on a terminal

    history_retention_days: Annotated[int, Field(ge=0, le=36_500)] = 90  # 0 keeps ended tasks for ever

    executor_slots: Annotated[int, Field(ge=1, le=10_000)] = 200
    worker_processes: Annotated[int, Field(ge=1, le=100)] = 2
    lease_seconds: Seconds = 20
    heartbeat_seconds: Seconds = 4
    rescue_seconds: Seconds = 5
    listen_probe_seconds: Seconds = 4
    grace_seconds: Seconds = 5
    drain_seconds: Annotated[float, Field(ge=0, le=86_400)] = 5
    poll_seconds: Seconds = 1  # the longest pause between two looks for work; the shortest is 0.05
    listen: bool = True  # False: no LISTEN, everything works by polling

    @field_validator("allowed_origins", mode="before")
    @classmethod
    def _split_origins(cls, value: Any) -> Any:
        return (
            tuple(part.strip() for part in value.split(",") if part.strip())
            if isinstance(value, str)
            else value
        )

    @model_validator(mode="after")
    def _refuse_unsafe(self) -> Settings:
        if self.heartbeat_seconds * 3 > self.lease_seconds:
            raise ValueError(
                f"LEASE_SECONDS={self.lease_seconds} must be at least three times HEARTBEAT_SECONDS={self.heartbeat_seconds}"
            )
        if self.secret_key.get_secret_value() and len(self.secret_key.get_secret_value()) < 32:
            raise ValueError(
                "SECRET_KEY must have at least 32 characters; make one with: python -c 'import secrets; print(secrets.token_urlsafe(32))'"
            )
        if self.environment == "production":
            if not self.secret_key.get_secret_value():
                raise ValueError(
                    "SECRET_KEY is required in production: other replicas and the next start must read what this one signed"
                )
            if "*" in self.allowed_origins:
                raise ValueError("ALLOWED_ORIGINS must not be * in production")
        if bool(self.openai_base_url or self.openai_api_key.get_secret_value()) and not self.openai_model:
            raise ValueError("OPENAI_MODEL is required when OPENAI_BASE_URL or OPENAI_API_KEY is set")
        return self

    @property
    def embedded_database(self) -> bool:
        """Whether this process brings its own PostgreSQL."""
        return not self.database_url.get_secret_value()

    @property
    def embedded_model(self) -> bool:
        """Whether this process brings its own model."""
        return not (self.openai_base_url or self.openai_api_key.get_secret_value())

    @property
    def executor_options(self) -> Options:
        """How this process's executor behaves."""
        return Options(
            slots=self.executor_slots,
            poll_min=timedelta(seconds=min(0.05, self.poll_seconds)),
            poll_max=timedelta(seconds=self.poll_seconds),
            grace=timedelta(seconds=self.grace_seconds),
            drain=timedelta(seconds=self.drain_seconds),
            timing=Timing(
                lease=timedelta(seconds=self.lease_seconds),
                heartbeat=timedelta(seconds=self.heartbeat_seconds),
            ),
            release=RELEASE,
            worker_processes=self.worker_processes,
        )

    def secret(self) -> bytes:
        """Return the key that signs. In development one is made and kept in DATA_DIR, so that a restart reads its own marks."""
        if key := self.secret_key.get_secret_value():
            return key.encode()
        path = self.data_dir / "secret_key"
        try:
            self.data_dir.mkdir(parents=True, exist_ok=True)
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(secrets.token_urlsafe(32))
        except FileExistsError:
            pass
        except OSError as exc:
            raise SettingsError(
                f"the folder DATA_DIR={self.data_dir} cannot be written to: {exc.strerror}"
            ) from exc
        return path.read_bytes()


def read() -> Settings:
    """Read the environment. Raises: SettingsError with one sentence for each fault."""
    try:
        return Settings(**_from_files())
    except ValidationError as exc:
        faults = []
        for error in exc.errors():
            name = "_".join(str(part) for part in error["loc"]).upper()
            message = error["msg"].removeprefix("Value error, ")
            faults.append(f"{name}: {message}" if name else message)
        raise SettingsError("; ".join(faults)) from exc


def _from_files() -> dict[str, Any]:
    """Return the secrets given as files, by setting name. Raises: SettingsError for one that cannot be read."""
    found: dict[str, Any] = {}
    for name, field in Settings.model_fields.items():
        path = os.environ.get(f"{name.upper()}_FILE")
        if path and field.annotation is SecretStr:
            try:
                found[name] = Path(path).read_text(encoding="utf-8").strip()
            except OSError as exc:
                raise SettingsError(f"{name.upper()}_FILE={path} cannot be read: {exc.strerror}") from exc
    return found
