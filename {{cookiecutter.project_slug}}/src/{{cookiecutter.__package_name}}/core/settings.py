"""Settings and configuration files.

Settings come from the environment (`ML_LAKE=s3://bucket/lake`), from `.env`, or from `config/settings.toml`, in this
order. `load_dotenv` sets the other variables of `.env`, such as secrets, in the environment, where libraries look for
them. The acceptance criteria are in `config/acceptance.toml`.
"""

import os
import tomllib
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypeVar

from dotenv import dotenv_values
from pydantic import AwareDatetime, BaseModel, Field, HttpUrl, SecretStr, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource
from pydantic_settings.exceptions import SettingsError

from {{cookiecutter.__package_name}}.core.errors import InputError

M = TypeVar("M", bound=BaseModel)
PREFIX = "ML_"
UTF_8 = "utf-8-sig"  # with or without a byte-order mark


class TomlSource(TomlConfigSettingsSource):
    """A TOML file with or without a byte-order mark."""

    def _read_file(self, file_path: Any) -> dict[str, Any]:  # noqa: ANN401 - as in its base
        return _read_toml(file_path)


class Settings(BaseSettings):
    """The settings; relative paths start at the project's folder."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_file_encoding=UTF_8, extra="forbid")

    lake: str = Field(
        default="data/lake", min_length=1, description="lake: a folder or an object storage URL (s3://...)"
    )
    inbox: Path = Field(
        default=Path("data/inbox"), description="folder of arriving batches, with a subfolder per table"
    )
    archive: Path = Field(default=Path("data/archive"), description="folder of ingested batches")
    quarantine: Path = Field(
        default=Path("data/quarantine"), description="folder of invalid rows and rejected batches, with the reasons"
    )
    reports: Path = Field(default=Path("reports"), description="folder of plots, reports and predictions")
    table_history_days: int = Field(default=365, gt=6, description="days for which old table versions stay readable")
    tracking: str = Field(
        default="mlruns", min_length=1, description="MLflow: a folder with a SQLite file, or the URL of a server"
    )
    webhook: HttpUrl | None = Field(
        default=None, description="URL to which an event is posted as JSON if a person must act"
    )
    clock: Literal["wall", "data"] = Field(
        default="wall", description="source of the current time: the wall clock, or the time of the newest label"
    )
    start: AwareDatetime | None = Field(
        default=None, description="for data of the past: until when the first run collects; later runs take --now"
    )
    now: AwareDatetime | None = Field(default=None, description="current time for reproduced runs; overrides the clock")
    tables: dict[str, int] = Field(default={}, description="table versions to read for reproduced runs")
    log_format: Literal["text", "json"] = Field(
        default="text", description="format of log lines: the message, or JSON with time, level and request id"
    )
    serve_api_key: SecretStr | None = Field(
        default=None, min_length=8, description="key that clients send in the header X-API-Key to get predictions"
    )
    serve_cors_origins: list[str] = Field(
        default=[], description="origins of web pages that may call the service, as a JSON list"
    )
    serve_root_path: str | None = Field(
        default=None, pattern="^/.*[^/]$", description="path under which a proxy offers the service, such as /late"
    )
    serve_access_log: bool = Field(default=False, description="whether each request for predictions is logged")
    serve_max_rows: int = Field(default=10_000, gt=0, description="maximum number of rows per request to the service")
    serve_max_body_bytes: int = Field(default=5_000_000, gt=0, description="maximum size of a request body in bytes")
    serve_max_queued_rows: int = Field(default=50_000, gt=0, description="maximum number of queued rows")
    serve_max_age_days: float = Field(default=7, ge=0, description="maximum age of a row's time of prediction in days")
    serve_refresh_seconds: float = Field(
        default=5, gt=0, description="seconds between checks for a new champion and new batches"
    )
    serve_log_flush_seconds: float = Field(default=10, gt=0, description="seconds between appends to the request log")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the signature is pydantic's
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The sources by priority: arguments, environment, `.env`, `config/settings.toml`."""
        return init_settings, env_settings, dotenv_settings, TomlSource(settings_cls)


FIELDS = frozenset(Settings.model_fields)


def project_root() -> Path:
    """The project's folder: the nearest parent of the current directory with `config/params.toml`.

    Raises:
        InputError: There is no such folder.
    """
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "config" / "params.toml").is_file():
            return folder
    raise InputError(f"no config/params.toml in {here} or above: run this inside the project's folder")


def load_dotenv(root: Path) -> None:
    """Set the variables of the project's `.env` that are not settings (`AWS_...`, `MLFLOW_...`) in the environment.

    Variables that are set already keep their values, and empty ones are left out.
    """
    for name, value in dotenv_values(root / ".env", encoding=UTF_8).items():
        if value and not name.upper().startswith(PREFIX):
            os.environ.setdefault(name, value)


def load_settings(root: Path) -> Settings:
    """Read the settings of the project in this folder.

    Raises:
        InputError: A setting is unknown or has an invalid value.
    """
    dotenv, file = root / ".env", root / "config" / "settings.toml"

    class _Here(Settings):
        model_config = SettingsConfigDict(env_file=dotenv, dotenv_filtering="match_prefix", toml_file=file)

    try:
        if unknown := [name for name in os.environ if name.upper().startswith(PREFIX) and _setting(name) not in FIELDS]:
            raise InputError(
                f"settings: {_unknown(unknown[0].upper(), {f'{PREFIX}{name.upper()}' for name in FIELDS})}"
            )
        return _Here()
    except (ValidationError, SettingsError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(
            f"settings (ML_... in the environment, .env, config/settings.toml): {_reason(error, Settings)}"
        ) from error


def load_config(path: Path, model: type[M]) -> M:
    """Load a file of `config/`; the defaults if the file doesn't exist.

    Raises:
        InputError: The file is not valid TOML, or has an unknown key or an invalid value.
    """
    try:
        return model.model_validate(_read_toml(path))
    except (ValidationError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: {_reason(error, model)}") from error


def _read_toml(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text(encoding=UTF_8)) if path.is_file() else {}


def _setting(variable: str) -> str:
    return variable[len(PREFIX) :].lower()


def _reason(error: Exception, model: type[BaseModel]) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    reasons = []
    for part in error.errors():
        *outer, name = map(str, part["loc"])
        if part["type"] == "extra_forbidden":
            reasons.append(".".join([*outer, _unknown(name.removeprefix(PREFIX.lower()), set(_names(model)))]))
        else:
            reasons.append(f"{'.'.join([*outer, name])}: {part['msg']}")
    return "; ".join(reasons)


def _names(model: type[BaseModel]) -> Iterator[str]:
    """The names of all fields, also those of models in fields."""
    for name, field in model.model_fields.items():
        yield name
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _names(field.annotation)


def _unknown(name: str, known: set[str]) -> str:
    """That a name is unknown, and the nearest known one."""
    nearest = get_close_matches(name, sorted(known - {name}), n=1, cutoff=0)
    return f"{name} is unknown: did you mean {nearest[0]}?" if nearest else f"{name} is unknown"
