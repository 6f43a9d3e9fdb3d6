"""One place for settings: where the project's state lives, and what its gate asks for.

Settings come from the environment (`ML_LAKE=s3://bucket/lake`), from `.env`, or from `config/settings.toml`, in this
order. `load_dotenv` sets the other variables of `.env`, such as secrets, in the environment, where libraries look for
them. What a model must reach stands in `config/acceptance.toml`.
"""

import os
import tomllib
from pathlib import Path
from typing import Literal, TypeVar

from dotenv import dotenv_values
from pydantic import AwareDatetime, BaseModel, Field, HttpUrl, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource
from pydantic_settings.exceptions import SettingsError

from {{cookiecutter.__package_name}}.core.errors import BadInput

M = TypeVar("M", bound=BaseModel)


class Settings(BaseSettings):
    """Where things are; relative paths start at the project's folder."""

    model_config = SettingsConfigDict(env_prefix="ML_", env_file_encoding="utf-8", extra="forbid")

    lake: str = Field(
        default="data/lake", min_length=1, description="tables: a folder or an object storage address (s3://...)"
    )
    inbox: Path = Field(default=Path("data/inbox"), description="where batches arrive, a folder a table")
    archive: Path = Field(default=Path("data/archive"), description="batches that went into the lake")
    quarantine: Path = Field(default=Path("data/quarantine"), description="what broke the contract, with reasons")
    reports: Path = Field(default=Path("reports"), description="pictures and predictions")
    keep_days: int = Field(default=365, gt=6, description="how long the tables can be read as they were")
    tracking: str = Field(
        default="mlruns", min_length=1, description="MLflow: a folder with a SQLite file, or a server's address"
    )
    webhook: HttpUrl | None = Field(
        default=None, description="address to which an event is posted as JSON when a person must act"
    )
    clock: Literal["wall", "data"] = Field(
        default="wall", description="what now is: the wall clock, or the newest value in the data"
    )
    now: AwareDatetime | None = Field(default=None, description="what now is, whatever the clock: for runs made again")
    tables: dict[str, int] = Field(default={}, description="versions of tables to read: for runs made again")
    serve_rows: int = Field(default=10_000, gt=0, description="most rows of a request to the service")
    serve_bytes: int = Field(default=5_000_000, gt=0, description="most bytes of one")
    serve_waiting: int = Field(default=50_000, gt=0, description="most rows that wait for an answer")
    serve_past_days: float = Field(default=7, ge=0, description="how long ago a row may have been due for prediction")
    serve_looks: float = Field(default=5, gt=0, description="seconds between looks for a new champion and new batches")
    serve_keeps: float = Field(default=10, gt=0, description="seconds between appends to the log of requests")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the signature is pydantic's
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then the environment, then `.env`, then `config/settings.toml`."""
        return init_settings, env_settings, dotenv_settings, TomlConfigSettingsSource(settings_cls)


def project_root() -> Path:
    """The project's folder: the nearest one, from here upwards, that has a `config` folder with parameters.

    Raises:
        BadInput: There is none.
    """
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "config" / "params.toml").is_file():
            return folder
    raise BadInput(f"no config/params.toml in {here} or above: run this inside the project's folder")


def load_dotenv(root: Path) -> None:
    """Set the variables of the project's `.env` that are not settings (`AWS_...`, `MLFLOW_...`) in the environment.

    Variables that are set already keep their values, and empty ones are left out.
    """
    for name, value in dotenv_values(root / ".env", encoding="utf-8").items():
        if value and not name.upper().startswith("ML_"):
            os.environ.setdefault(name, value)


def load_settings(root: Path) -> Settings:
    """Read the settings of the project in this folder.

    Raises:
        BadInput: A setting is unknown or has a value that it can't have.
    """
    dotenv, file = root / ".env", root / "config" / "settings.toml"

    class _Here(Settings):
        model_config = SettingsConfigDict(env_file=dotenv, dotenv_filtering="match_prefix", toml_file=file)

    try:
        return _Here()
    except (ValidationError, SettingsError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"settings (ML_... in the environment, .env, config/settings.toml): {_reason(error)}") from error


def load_config(path: Path, model: type[M]) -> M:
    """A file of `config/` as its model; a file that is not there gives the defaults.

    Raises:
        BadInput: The file is no TOML, or has an unknown key or a value that it can't have.
    """
    try:
        return model.model_validate(tomllib.loads(path.read_text(encoding="utf-8")) if path.is_file() else {})
    except (ValidationError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return "; ".join(f"{'.'.join(map(str, part['loc']))}: {part['msg']}" for part in error.errors())
    return str(error)
