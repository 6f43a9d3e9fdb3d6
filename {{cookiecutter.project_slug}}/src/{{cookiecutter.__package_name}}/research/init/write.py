"""The files of a problem, as a person would write them."""

import math
import re
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

import polars as pl

from {{cookiecutter.__package_name}}.core import NAME, PACKAGE
from {{cookiecutter.__package_name}}.core.contracts.data_dictionary import HEAD, data_dictionary
from {{cookiecutter.__package_name}}.core.contracts.schema import Table, Task
from {{cookiecutter.__package_name}}.core.contracts.translation import Translation
from {{cookiecutter.__package_name}}.core.errors import InputError
from {{cookiecutter.__package_name}}.research.init.profile import Profile, identifier

TEMPLATES = tomllib.loads(Path(__file__).with_name("templates.toml").read_text(encoding="utf-8"))
PARTS = {
    "decimal_year": "nw.col({name!r}).dt.year() + nw.col({name!r}).dt.ordinal_day() / 366",
    "month": "nw.col({name!r}).dt.month()",
    "weekday": "nw.col({name!r}).dt.weekday() % 7",
    "day": "nw.col({name!r}).dt.ordinal_day()",
    "days_from_midsummer": "(nw.col({name!r}).dt.ordinal_day() - 197).abs()",
    "hour": "nw.col({name!r}).dt.hour()",
}  # features of a time
MAX_SLICES = 10  # of a column
MANY_GAPS = 0.05  # a share of missing values that the model card names


@dataclass(frozen=True)
class Names:
    """The names of the problem: of the source, the table, its class, and its first file in the project."""

    source: str
    table: str
    cls: str
    file: str


def names_of(source: str, files: Sequence[Path]) -> Names:
    """The names of the problem of a file or folder with these files in `data/source`."""
    table = identifier(source.partition(".")[0], {"data"}) if source else "rows"
    cls = "".join(part.capitalize() for part in table.split("_")) or "Row"
    cls = f"{cls}Row" if cls in {"Table", "Field", "Category", "Key", "Target", "Nulls", "Translation", "Path"} else cls
    return Names(source, table, cls, (Path("data", "source") / files[0]).as_posix())


def contract(columns: Sequence[Profile], names: Names) -> str:
    """The module of the contract."""
    fields = "\n".join(_field(column) for column in columns)
    roles = ("AvailableAt", "Category", "EventTime", "Excluded", "Key", "Nulls", "Personal", "Target")
    target = next(column.name for column in columns if column.role == "target")
    text = _filled(
        TEMPLATES["contract"],
        source=names.source,
        target=target,
        table=repr(names.table),
        cls=names.cls,
        fields=fields,
        roles=", ".join([*(role for role in roles if f"{role}(" in fields), "Table"]),
    )
    return text if "dt." in fields else text.replace("import datetime as dt\n", "")


ROLES = {
    "key": "",
    "time": "EventTime()",
    "available": "AvailableAt()",
    "target": "Target({words})",
    "personal": "Personal()",
}


def _field(column: Profile) -> str:
    kind = {"date": "dt.date", "datetime": "dt.datetime"}.get(column.kind.__name__, column.kind.__name__)
    optional = column.null_share > 0
    settings = [
        f"{name}={value:g}" if value < 10**6 else f"{name}={value:_}" for name, value in column.limits().items()
    ]
    if column.source != column.name:
        settings.append(f"description={_plain(column.source)!r}")
    if column.kind is str and not column.levels:
        examples = column.values.drop_nulls().unique(maintain_order=True).head(3).to_list()
        settings += [f"examples={examples!r}"] if column.is_many else []
    parts = [f"{kind} | None" if optional else kind]
    parts += [f"Field({', '.join(settings)})"] if settings else []
    parts += ["Key()"] if column.is_key else []
    if column.role == "excluded":
        parts.append(f"Excluded({column.reason!r})")
    elif column.role:
        parts += filter(None, [ROLES[column.role].format(words=", ".join(map(repr, column.words)))])
    if column.levels:
        parts.append(f"Category({column.levels!r}{'' if column.role == 'target' else ', open=True'})")
    if optional and not column.role:
        parts.append(f"Nulls(at_most={min(1.0, round(column.null_share + 0.15, 1)):g})")
    return f"    {column.name}: " + (f"Annotated[{', '.join(parts)}]" if len(parts) > 1 else parts[0])


def _plain(text: str) -> str:
    return " ".join(text.replace("|", "/").split())


def features(columns: Sequence[Profile]) -> str:
    """The module of the features."""
    chosen: list[str] = []
    derived: dict[str, str] = {}
    names = {column.name for column in columns}
    for column in columns:
        if column.role in {"", "time"} and column.kind.__name__ in {"date", "datetime"}:
            for part in _parts(column):
                name = identifier(f"{column.name}_{part}", {*names, *derived})
                derived[name] = PARTS[part].format(name=column.name)
        elif not column.role or (column.role == "key" and (column.levels or column.is_many)):
            chosen.append(column.name)
    text = _filled(
        TEMPLATES["features"],
        features=repr((*chosen, *derived)),
        derived=f".with_columns({', '.join(f'{name}={value}' for name, value in derived.items())})" if derived else "",
    )
    return text if derived else text.replace("import narwhals as nw\n\n", "")


def _parts(column: Profile) -> Iterable[str]:
    """The parts of a time that vary."""
    for part in PARTS:
        if part == "hour" and column.kind.__name__ == "date":
            continue
        method = {"day": "ordinal_day", "days_from_midsummer": "ordinal_day", "decimal_year": "date"}.get(part, part)
        if getattr(column.values.dt, method)().n_unique() > 1:
            yield part


def model(columns: Sequence[Profile], task: Task) -> str:
    """The module of the model."""
    many = tuple(column.name for column in columns if column.is_many)
    regression, by_mean = task is Task.REGRESSION, bool(many) and task is not Task.MULTICLASS
    folds = "KFold" if regression else "StratifiedKFold"
    encoders = Template(TEMPLATES["one_hot_or_mean"] if by_mean else TEMPLATES["one_hot"]).substitute(
        Folds=folds, target_type=', target_type="continuous"' if regression else ""
    )
    text = _filled(
        TEMPLATES["model"],
        kind="Regressor" if regression else "Classifier",
        Linear="Ridge" if regression else "LogisticRegression",
        linear="Ridge(alpha=1 / parameters.linear_strength)"
        if regression
        else "LogisticRegression(C=parameters.linear_strength, max_iter=1000)",
        folds_import=f"from sklearn.model_selection import {folds}" if by_mean else "",
        encoder_import=", TargetEncoder" if by_mean else "",
        many=f"MANY = {many!r}  # categories of many values, encoded by the mean of the target\n" if by_mean else "",
        encoders=encoders.rstrip(),
        options="" if regression else ', voting="soft", flatten_transform=False',
    )
    return text.replace("\n\nfrom sklearn.pipeline", "\nfrom sklearn.pipeline")


def collect(translation: Translation, names: Names) -> str:
    """The module of the source."""
    told = {name: value for name, value in vars(translation).items() if name != "table"}
    told = {name: value for name, value in told.items() if value and (name, value) != ("decimal", ".")}
    settings = ", ".join([f"table={names.cls}", *(f"{name}={value!r}" for name, value in told.items())])
    return _filled(TEMPLATES["collect"], cls=names.cls, translation=settings)


def tests(example: dict[str, list[Any]], names: Names) -> str:
    """The module of the tests."""
    return _filled(TEMPLATES["tests"], cls=names.cls, example=repr(example))


def parameters(chosen: dict[str, Any]) -> str:
    """The file of the parameters."""
    lines = [
        f"{name} = {value:g}" if isinstance(value, int) else f"{name} = {float(value)!r}"
        for name, value in chosen.items()
    ]
    return "\n".join(["# Yours: the parameters of the model, read by shared/model.py.", *lines, "seed = 0", ""])


def pages(root: Path, table: type[Table], columns: Sequence[Profile], task: Task, names: Names) -> dict[Path, str]:
    """The pages of the problem: dictionary, model card and data sheet, and those where the example stands."""
    target = next(column for column in columns if column.role == "target")
    facts = {
        "target": target.source,
        "task": str(task),
        "source": names.source,
        "rows": f"{len(target.values):,}",
        "columns": str(len(columns)),
        "limitations": _limitations(columns),
        "file": names.file,
    }
    found = {
        Path(name): (root / name).read_text(encoding="utf-8")
        for name in ("README.md", "AGENTS.md")
        if (root / name).is_file()
    }
    for edit in TEMPLATES["edits"]:
        if (path := Path(edit["file"])) in found:
            pieces = re.split(edit["from"], found[path], flags=re.DOTALL)
            found[path] = _filled(edit["to"], **facts).join(pieces)
    docs = Path("docs")
    return found | {
        docs / "model-card.md": _filled(TEMPLATES["model_card"], **facts),
        docs / "data-sheet.md": _filled(TEMPLATES["data_sheet"], **facts),
        docs / "data-dictionary.md": f"{HEAD}{data_dictionary((table,))}",
    }


def _limitations(columns: Sequence[Profile]) -> str:
    out = [f"- `{column.name}` is no feature: it {column.reason}." for column in columns if column.role == "excluded"]
    out += [f"- `{column.name}` looks personal and is no feature." for column in columns if column.role == "personal"]
    gaps = [column for column in columns if not column.role and column.null_share > MANY_GAPS]
    out += [f"- `{column.name}` is missing in {column.null_share:.0%} of rows." for column in gaps]
    return "\n".join(out or ["- Say here where the model is known to be wrong."])


def window_days(times: pl.Series) -> int:
    """The days of the window that has the newest fifth of these times, or as near to it as they allow.

    Raises:
        InputError: No window of whole days leaves enough rows on both sides.
    """
    times = times.drop_nulls()
    age = (pl.col(times.name).max() - pl.col(times.name)).dt.total_days()
    shortest = times.to_frame().select(days=age + 1)  # windows that have the row
    windows = shortest.group_by("days").len().sort("days").with_columns(share=pl.col("len").cum_sum() / len(times))
    few = _min_rows(times) / len(times)
    found = windows.filter(pl.col("share").is_between(few, 1 - few)).sort((pl.col("share") - 0.2).abs())
    if found.is_empty():
        raise InputError(
            f"{times.name!r} has no day with {_min_rows(times)} labelled rows before it and since: leave out --time"
        )
    return int(found["days"][0])


def _min_rows(labels: pl.Series) -> int:
    return min(50, max(10, labels.count() // 20))


def acceptance(columns: Sequence[Profile], task: Task, days: int, loss: float, dummy: float) -> str:
    """The file of the acceptance criteria.

    Args:
        columns: The columns.
        task: The task.
        days: The days of the window, 0 if rows have no time.
        loss: The loss of the model on folds.
        dummy: The loss of a constant prediction there.
    """
    labels = next(column.values for column in columns if column.role == "target")
    times = (column.values.unique().sort() for column in columns if column.role == "time")
    gaps = (each.diff().dt.total_hours().median() for each in times)
    gap = max((math.ceil(hours / 24) for hours in gaps if isinstance(hours, int | float)), default=0)
    window = f"days = {days} # the newest fifth of the rows" if days else "share = 0.2 # of the rows: they have no time"
    limit = (loss + dummy) / 2 if loss < dummy else 1.02 * dummy
    allow = ", ".join(f'"{column.name}"' for column in columns if column.leak and not column.role)
    slices = next((column.name for column in columns if not column.role and 1 < len(column.levels) <= MAX_SLICES), "")
    return _filled(
        TEMPLATES["acceptance"],
        window=window,
        min_rows=str(_min_rows(labels)),
        every_days=str(max(28, gap)),
        window_days=str(max(7, gap)),
        metric="rmse" if task is Task.REGRESSION else "log_loss",
        limit=f"{limit**0.5 if task is Task.REGRESSION else limit:.3g}",
        leaks=f"\n[leaks]\nallow = [{allow}]\n" if allow else "",
        slices=f'\n[slices]\ncolumns = ["{slices}"]\nmin_rows = {max(20, labels.count() // 100)}\n' if slices else "",
    )


def settings(columns: Sequence[Profile]) -> str:
    """The file of the settings."""
    return _filled(TEMPLATES["settings"], clock="data" if any(column.role == "time" for column in columns) else "wall")


def problem() -> str:
    """The module that assembles the problem."""
    return _filled(TEMPLATES["init"])


def _filled(template: str, **values: str) -> str:
    return Template(template).substitute(package=PACKAGE, name=NAME, **values)
