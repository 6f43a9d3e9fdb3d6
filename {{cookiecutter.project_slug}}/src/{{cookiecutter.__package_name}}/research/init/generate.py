"""The command `init`: from a table to a project, or one line that says why not; nothing is written before."""

import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import narwhals as nw
import polars as pl
from threadpoolctl import threadpool_limits

from {{cookiecutter.__package_name}}.core import NAME, PACKAGE
from {{cookiecutter.__package_name}}.core.contracts.sample_data import sample
from {{cookiecutter.__package_name}}.core.contracts.schema import Task, schema_of
from {{cookiecutter.__package_name}}.core.contracts.validation import (
    VIOLATIONS,
    ContractViolation,
    conform,
    with_violations,
)
from {{cookiecutter.__package_name}}.core.errors import InputError, summarize
from {{cookiecutter.__package_name}}.core.models.predictor import model_inputs
from {{cookiecutter.__package_name}}.core.workspace import SOURCE, Workspace
from {{cookiecutter.__package_name}}.research.init import choose, write
from {{cookiecutter.__package_name}}.research.init.profile import Profile, Request, profile, translation
from {{cookiecutter.__package_name}}.research.init.source import Source, read_source, time_formats

SHARED, CONFIG = Path("src", PACKAGE, "shared"), Path("config")
EXPERIMENTS = Path("src", PACKAGE, "research", "experiments")
EXAMPLE = (
    Path("data", "example"),
    Path("docs", "from-idea-to-champion.md"),
    EXPERIMENTS / "first_look.py",
    EXPERIMENTS / "new_feature.py",
)
RUFF = (("check", "--fix-only"), ("format",), ("check", "--add-noqa"), ("format",))


@dataclass(frozen=True)
class InitReport:
    """What `init` found and wrote.

    Attributes:
        task: The task.
        columns: A line for each column.
        notes: What is to be known about the rows.
        questions: What the table does not tell, with the option that does.
        files: The files that it wrote or would write.
        removed: The files and folders that it removed or would remove.
        written: Whether it wrote them.
        before: The folder that the state of the project was moved to, if there was any.
    """

    task: Task
    columns: tuple[str, ...]
    notes: tuple[str, ...]
    questions: tuple[str, ...]
    files: tuple[str, ...]
    removed: tuple[str, ...]
    written: bool
    before: str | None = None

    def __str__(self) -> str:
        """The report as text."""
        lines = [f"task: {self.task}", *(f"  {line}" for line in self.columns), *self.notes]
        lines += [f"question: {question}" for question in self.questions]
        would = "" if self.written else "would be "
        lines += [f"{would}written: {', '.join(self.files)}", f"{would}removed: {', '.join(self.removed) or 'nothing'}"]
        lines += [f"moved: the state of the project, to {self.before}"] if self.before else []
        if not self.written:
            return "\n".join([*lines, "nothing is written: leave out --dry-run"])
        commit = 'git add --all && git commit --message "Replace the example by our own data"'
        return "\n".join([*lines, "next:", f"  {commit}", f"  uv run {NAME} run"])


def init(
    workspace: Workspace,
    table: Path,
    request: Request,
    *,
    missing: Sequence[str],
    dry_run: bool,
) -> InitReport:
    """Replace the example with the problem of a table.

    Raises:
        InputError: The table or the project is not fit for it; nothing is written.
    """
    root = workspace.root
    _validate_project(workspace, table)
    source = read_source(table, missing=missing)
    columns = profile(source, request)
    task = _task(columns)
    inside = [file.relative_to(table) if table.is_dir() else Path(file.name) for file in source.files]
    names = write.names_of(table.resolve().name, inside)
    with TemporaryDirectory() as folder:
        stage = Path(folder)
        _write_modules(stage, root, source, columns, task, names)
        files = _trial(stage, columns, task)
        entity = runpy.run_path(str(stage / SHARED / "contract.py"))["ENTITY"]
        for path, text in write.pages(root, entity, columns, task, names).items():
            (stage / path).parent.mkdir(exist_ok=True)
            (stage / path).write_text(text, encoding="utf-8", newline="\n")
        _run_tool(stage, "mdformat", "--compact-tables", ".")
        files |= {
            path.relative_to(stage): path.read_text(encoding="utf-8")
            for kind in ("*.py", "*.md")
            for path in stage.rglob(kind)
        }
    removed = [path for path in EXAMPLE if (root / path).exists()]
    before = None if dry_run else _replace(workspace, dict(zip(source.files, inside, strict=True)), removed, files)
    return InitReport(
        task,
        tuple(map(_line, columns)),
        tuple(_notes(source, columns)),
        tuple(_questions(columns)),
        tuple(sorted(path.as_posix() for path in files)),
        tuple(path.as_posix() for path in removed),
        not dry_run,
        before,
    )


def _validate_project(workspace: Workspace, table: Path) -> None:
    """Refuse a project whose state could not be restored.

    Raises:
        InputError: There are changes that are not committed, or tables in a lake that other projects may use.
    """
    lake = workspace.settings.lake
    if "://" in lake and any(workspace.lake.version(name) >= 0 for name in ("collections", "decisions", "releases")):
        raise InputError(f"the lake {lake} has tables, which init can't move: set ML_LAKE to an empty one")
    if not shutil.which("git"):
        return
    line = ["git", "status", "--porcelain", "-z", "--untracked-files=all", "--", "."]
    done = subprocess.run(line, cwd=workspace.root, capture_output=True, encoding="utf-8", check=False)  # noqa: S603
    top = subprocess.run(
        ["git", "rev-parse", "--show-toplevel"],  # noqa: S607
        cwd=workspace.root,
        capture_output=True,
        encoding="utf-8",
        check=False,
    ).stdout.strip()
    changed = [Path(top, entry[3:]).resolve() for entry in done.stdout.split("\0") if entry]
    own = table.resolve()
    if others := [path for path in changed if path != own and own not in path.parents]:
        raise InputError(f"the project has changes that are not committed, such as {others[0].name}: commit them first")


def _task(columns: Sequence[Profile]) -> Task:
    target = next(column for column in columns if column.role == "target")
    return {bool: Task.BINARY, str: Task.MULTICLASS}.get(target.kind, Task.REGRESSION)


def _write_modules(
    stage: Path, root: Path, source: Source, columns: Sequence[Profile], task: Task, names: write.Names
) -> None:
    """Write the modules of the problem into a folder, in the format of the project."""
    shared, tests = stage / SHARED, stage / "tests" / "shared"
    shared.mkdir(parents=True)
    tests.mkdir(parents=True)
    shutil.copy(root / "pyproject.toml", stage)
    (shared / "contract.py").write_text(write.contract(columns, names), encoding="utf-8")
    table = runpy.run_path(str(shared / "contract.py"))["ENTITY"]
    told = translation(source, {column.source: column.name for column in columns}, table)
    example = _in_words_of_the_source(source, columns, sample(table, 1))
    modules = {
        shared / "__init__.py": write.problem(),
        shared / "features.py": write.features(columns),
        shared / "model.py": write.model(columns, task),
        shared / "collect.py": write.collect(told, names),
        tests / "test_problem.py": write.tests(example, names),
    }
    for path, text in modules.items():
        path.write_text(text, encoding="utf-8")
    for command in RUFF:
        _run_tool(stage, "ruff", *command, "--config", f"lint.isort.known-first-party=['{PACKAGE}']", "--quiet", ".")


def _run_tool(folder: Path, *command: str) -> None:
    subprocess.run([sys.executable, "-m", *command], cwd=folder, capture_output=True, check=False)  # noqa: S603


def _in_words_of_the_source(source: Source, columns: Sequence[Profile], row: pl.DataFrame) -> dict[str, list[Any]]:
    """A generated row as the source would write it."""
    found: dict[str, list[Any]] = {}
    for column in columns:
        value = row[column.name][0]
        if column.source in source.words:
            value = source.words[column.source][not value]
        elif formats := source.dates.get(column.source):
            value = value.strftime(formats[0]) if formats[0] != "epoch" else int(value.timestamp())
        elif column.kind in {int, float} and source.rows.schema[column.source] == pl.String:
            value = str(value).replace(".", source.decimal)
        elif isinstance(value, datetime):
            value = value.isoformat()
        found[column.source] = [value if isinstance(value, int | float | str) else str(value)]
    return found


def _trial(stage: Path, columns: Sequence[Profile], task: Task) -> dict[Path, str]:
    """Run the modules on the rows, choose the parameters, and return the files of the configuration.

    Raises:
        InputError: The rows violate their contract, or nothing can be learned from them.
    """
    contract, features, model = (
        runpy.run_path(str(stage / SHARED / f"{name}.py")) for name in ("contract", "features", "model")
    )
    schema = schema_of(contract["ENTITY"])
    try:
        rows = conform(pl.DataFrame([column.values for column in columns]), schema)
    except ContractViolation as violation:
        raise InputError(f"no contract describes the table: {violation}") from violation
    invalid = with_violations(rows, schema).filter(pl.col(VIOLATIONS).list.len() > 0)
    if len(invalid):
        raise InputError(f"{len(invalid)} rows have no place in a contract: {', '.join(invalid[VIOLATIONS][0])}")
    labelled = rows.filter(pl.col(schema.target or "").is_not_null())
    labelled = labelled.sort(schema.event_time, maintain_order=True) if schema.event_time else labelled
    days = write.window_days(labelled[schema.event_time]) if schema.event_time else 0
    asked = nw.from_native(labelled.drop(schema.excluded_columns).lazy())
    built = features["build"](asked, {}).collect().to_native()
    if days:  # the parameters are chosen before the window
        time = pl.col(schema.event_time or "")
        before = labelled.select(time.max() - time >= timedelta(days=days)).to_series()
        labelled, built = labelled.filter(before), built.filter(before)
    texts = {name: built.schema[name] == pl.String for name in features["FEATURES"]}
    if not texts:
        raise InputError("no column can be a feature: give a table with columns that say something about the target")
    categories = [name for name, text in texts.items() if text]
    labels = labelled[schema.target or ""]
    if task is not Task.REGRESSION:
        labels = labels.rank("dense").cast(pl.Int64) - 1
    try:
        with threadpool_limits(1):  # so few rows take longer in several threads
            chosen, loss, dummy = choose.choose(
                lambda given: model["estimator"](model["Parameters"](**given), categories),
                model_inputs(built, texts),
                labels.to_numpy(),
                task,
                in_order=schema.event_time is not None,
            )
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:  # models raise anything
        raise InputError(f"no model can be fitted on the table: {summarize(error)}") from error
    return {
        CONFIG / "acceptance.toml": write.acceptance(columns, task, days, loss, dummy),
        CONFIG / "params.toml": write.parameters(chosen),
        CONFIG / "settings.toml": write.settings(columns),
    }


def _line(column: Profile) -> str:
    values = f"{len(column.levels)} categories" if column.levels else ""
    low, high = (column.values.min(), column.values.max()) if column.kind not in {str, bool} else (None, None)
    values = values or (f"{low!s} to {high!s}" if low is not None else "")
    missing = f"{column.null_share:.1%} missing" if column.null_share else ""
    role = "excluded, it " + column.reason if column.role == "excluded" else column.role or "feature"
    name = column.name if column.name == column.source else f"{column.source!r} as {column.name}"
    facts = ", ".join(filter(None, [column.kind.__name__, values, missing]))
    return f"{name}: {facts}: {role}{', key' if column.is_key and column.role != 'key' else ''}"


def _notes(source: Source, columns: Sequence[Profile]) -> Iterator[str]:
    if source.missing:
        yield f"missing values are written as {', '.join(map(repr, source.missing))}"
    if twice := int(source.rows.is_duplicated().sum() - source.rows.filter(source.rows.is_duplicated()).n_unique()):
        yield f"{twice} rows repeat another one"
    target = next(column for column in columns if column.role == "target")
    if unlabelled := target.values.null_count():
        yield f"{unlabelled} rows have no {target.source!r}: they are not trained on"
    if words := source.words.get(target.source):
        yield f"{target.name} is true for {words[0]!r} and false for {words[1]!r}"


def _questions(columns: Sequence[Profile]) -> Iterator[str]:
    times = [column for column in columns if column.kind.__name__ in {"date", "datetime"}]
    if times and not any(column.role == "time" for column in columns):
        yield f"when does a row's event happen? --time {times[0].source!r} evaluates on the newest rows"
    elif not any(column.role == "time" for column in columns):
        yield from _questions_of_numbers(columns)
    if any(column.role == "time" for column in columns) and not any(column.role == "available" for column in columns):
        yield "when is a label known? --available-at COLUMN; without it, at the time of its row"
    if not any(column.is_key for column in columns):
        yield "what identifies a row? --key COLUMN; without it, explain finds no row"
    for column in columns:
        if column.leak and column.role == "excluded":
            yield f"is {column.source!r} known before the prediction? --keep {column.source!r}; it {column.leak}"
    yield "which columns are known only after the prediction? --exclude COLUMN"


def _questions_of_numbers(columns: Sequence[Profile]) -> Iterator[str]:
    """Whether numbers are times: years, or numbers by which the rows are sorted."""
    numbers = [column for column in columns if column.kind in {int, float} and column.role in {"", "key", "excluded"}]
    for column in numbers:
        values = column.values.drop_nulls()
        if column.kind is int and values.n_unique() > 2 and any(time_formats(values)):
            yield f"is {column.source!r} the time of a row's event? Then add --time {column.source!r}"
        elif values.n_unique() > len(values) / 20 and (values.is_sorted() or values.is_sorted(descending=True)):
            yield f"is {column.source!r}, which sorts the rows, a time? Write it as dates, and add --time"


def _replace(
    workspace: Workspace, source: Mapping[Path, Path], removed: Sequence[Path], files: Mapping[Path, str]
) -> str | None:
    """Move the state of the project away, remove the example, and write the files; return where the state is."""
    root, settings = workspace.root, workspace.settings
    data = root / "data"
    data.mkdir(exist_ok=True)
    before = data / f"before-init-{datetime.now(UTC):%Y%m%dT%H%M%S}"
    with TemporaryDirectory(dir=data) as folder:
        copies = Path(folder, "source")
        for file, inside in source.items():
            (copies / inside).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, copies / inside)
        folders = (settings.inbox, settings.archive, settings.quarantine, settings.reports, SOURCE)
        for state in (settings.lake, settings.tracking, *(path.as_posix() for path in folders)):
            if "://" not in state and (root / state).exists():
                before.mkdir(exist_ok=True)
                shutil.move(root / state, before / Path(state).name)
        shutil.move(copies, root / SOURCE)
    for path in removed:
        shutil.rmtree(root / path) if (root / path).is_dir() else (root / path).unlink()
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, encoding="utf-8", newline="\n")
    return before.relative_to(root).as_posix() if before.exists() else None
