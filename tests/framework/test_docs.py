"""The pages for people: their commands work, what they name is there, their example can be followed.

They are yours, and no update touches them: a page may lag behind the machinery, and what it names must be there.
"""

import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
import sqlalchemy
from pandas.testing import assert_frame_equal

import my_ml_project
from my_ml_project import cli
from my_ml_project.core import settings
from my_ml_project.core.contracts.data_dictionary import data_dictionary
from my_ml_project.core.contracts.validation import conform
from my_ml_project.core.errors import InputError
from my_ml_project.core.workspace import Workspace, open_workspace
from my_ml_project.shared import PROBLEM, contract
from my_ml_project.shared.collect import TIME

PROJECT = Path(my_ml_project.__file__).parents[2]
PACKAGE = my_ml_project.__name__
DOCS = PROJECT / "docs"
README, OWN, DICTIONARY = PROJECT / "README.md", DOCS / "your-own-data-by-hand.md", DOCS / "data-dictionary.md"
INIT = DOCS / "your-own-data.md"
IDEA = DOCS / "from-idea-to-champion.md"
PARTS = sorted((DOCS / "parts").glob("*.md"))
PAGES = [README, *sorted(DOCS.glob("*.md")), *sorted((DOCS / "guide").glob("*.md")), *PARTS]
SCRIPT = next(iter(tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]))

# Not run here: reason.
NOT_RUN = {
    "pip install uv": "the tests run in an environment that is made already",
    "uv run nox": "it runs these tests",
}
TAKEN_AWAY = "git rm -r --quiet "  # the copy is no repository: the test deletes them itself
ANSWERS_NO = frozenset({f"uv run {SCRIPT} check data/example/weather.parquet"})  # it is too long for a batch
GIT = ("git restore ", "git add ", "git commit ")  # are run where the copy is a repository


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path, kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", text_of(page), re.DOTALL | re.MULTILINE)


def commands(page: Path) -> list[str]:
    return [line for block in blocks(page, "bash") for line in block.splitlines()]


def files(page: Path) -> dict[str, str]:
    """The files that a page gives in full, by their path."""
    found = re.findall(r"^`([^`\n]+)`\n\n```(?:python|toml)\n(.*?)^```$", text_of(page), re.DOTALL | re.MULTILINE)
    return dict(found)


def arguments(line: str) -> list[str]:
    """What Python is given for a command of a page."""
    words = shlex.split(line)
    assert words[:2] == ["uv", "run"], f"a command that the test does not know how to run: {line}"
    match words[2:]:
        case [program, *rest] if program == SCRIPT:
            return ["-m", PACKAGE, *rest]
        case ["python", *rest]:
            return rest
        case other:
            return ["-m", *other]


def apart(line: str, folder: Path) -> tuple[int, str]:
    """Run a command in a process of its own, by the source of a copy: its exit status, and what it said."""
    env = os.environ | {"PYTHONPATH": str(folder / "src"), "PYTHONUTF8": "1"}
    done = subprocess.run(
        [sys.executable, *arguments(line)], cwd=folder, env=env, capture_output=True, encoding="utf-8", check=False
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[str], tuple[int, str]]:
    """Run a command in this process and folder, which saves the start of another: its exit status, what it said."""

    def run(line: str) -> tuple[int, str]:
        program, *rest = arguments(line)
        status: object = 0
        try:
            if program == "-m":
                monkeypatch.setattr(sys, "argv", rest)
                cli.main()
            else:
                monkeypatch.setattr(sys, "argv", [str(PROJECT / program), *rest])
                monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # is put back
                runpy.run_path(str(PROJECT / program), run_name="__main__")
        except SystemExit as end:
            status = end.code
        assert isinstance(status, int)
        return status, "".join(capsys.readouterr())

    return run


def follow(page: Path, run: Callable[[str], tuple[int, str]], *, no: frozenset[str] = frozenset()) -> dict[str, str]:
    """Run a page's commands in their order, of which some answer no; what each said."""
    said = {}
    for line in commands(page):
        if line not in NOT_RUN and not line.startswith(TAKEN_AWAY):
            status, said[line] = run(line)
            assert status == (line in no), f"{line}\n{said[line]}"
    return said


def shapes(lines: str) -> Iterator[str]:
    """Lines without their numbers, their spacing, and what is in brackets."""
    for line in lines.splitlines():
        yield " ".join(re.sub(r"[-+]?\d[\d.,:-]*", "N", re.sub(r"\([^()]*\)", "", line)).split())


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The project's source, configuration and tests, to change."""
    folder = tmp_path / "copy"
    for name in ("src", "config", "tests"):
        shutil.copytree(PROJECT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(PROJECT / "data" / "example", folder / "data" / "example")
    shutil.copy(PROJECT / "pyproject.toml", folder)
    return folder


# --- commands


def test_every_command_of_the_readme_does_what_it_says(
    flights_empty: Workspace, here: Callable[[str], tuple[int, str]]
) -> None:
    for table, time in TIME.items():
        example = Path("data", "example", f"{table}.parquet")
        rows = pl.read_parquet(PROJECT / example).filter(pl.col(time) < datetime(2013, 7, 28, tzinfo=UTC))
        rows.write_parquet(flights_empty.root / example)
    said = follow(README, here, no=ANSWERS_NO)
    shown = next(block for block in blocks(README, "text") if block.startswith("ingested"))
    dots = {"...": r"(?:.*\n)*"}  # any number of lines
    expected = "".join(dots.get(line, rf"{re.escape(line)}\n") for line in shapes(shown))
    assert re.fullmatch(expected, "\n".join([*shapes(said[f"uv run {SCRIPT} run"]), ""]))
    made = {path.name for path in (flights_empty.root / "reports").iterdir()}
    pages = {"model-card.md", "data-sheet.md"}
    drawn = {f"{name}.{kind}" for name in ("first-look", "baseline-fast") for kind in ("csv", "png")}
    assert made == {*(f"version-{n}.png" for n in (1, 2, 3)), "flights-predicted.parquet", *drawn, *pages}
    assert "warning  drift" in said[f"uv run {SCRIPT} monitor"]
    assert "version 2 is rejected" in said[f"uv run {SCRIPT} run --now 2013-06-29"]
    assert "version 3 is champion" in said[f"uv run {SCRIPT} run --now 2013-07-27"]
    assert "version 1 is champion again" in said[f"uv run {SCRIPT} rollback"]
    stages = [line.split("  ")[0].split()[0] for line in said[f"uv run {SCRIPT} explain 23791"].splitlines()]
    assert stages == ["raw", "contract", "predicted", "features", "prediction", "contributions", "outcome"]


def test_every_command_of_the_runbook_works_where_there_is_a_champion(
    flights: Workspace, here: Callable[[str], tuple[int, str]]
) -> None:
    gate, rollback = f"uv run {SCRIPT} gate", f"uv run {SCRIPT} rollback"
    said = follow(DOCS / "runbook.md", here, no=frozenset({gate, rollback}))
    assert "champion   version 1" in said[f"uv run {SCRIPT} status"]
    assert "there is no challenger: version 1 is released already" in said[gate]
    assert "there is no previous version" in said[rollback]
    assert [release.version for release in flights.releases.newest(9)] == [1]


@pytest.mark.parametrize("page", [page for page in PARTS if commands(page)], ids=lambda page: page.stem)
@pytest.mark.usefixtures("flights")
def test_every_command_of_a_parts_page_works_where_there_is_a_champion(
    page: Path, here: Callable[[str], tuple[int, str]]
) -> None:
    follow(page, here)


def test_every_page_with_commands_is_followed_and_what_is_not_run_has_a_reason() -> None:
    assert {page for page in PAGES if commands(page)} - {*PARTS} == {README, DOCS / "runbook.md", INIT, OWN, IDEA}
    written = {line for page in PAGES for line in commands(page)}
    assert set(NOT_RUN) <= written, "leftovers"
    assert all(NOT_RUN.values())
    assert {line for line in written if not line.startswith(("uv run ", TAKEN_AWAY, *GIT))} <= set(NOT_RUN)


# --- your own data


@pytest.mark.slow
def test_the_page_on_init_leads_to_a_champion_of_a_table(repository: Path) -> None:
    area = [20 + number * 7 % 120 for number in range(120)]
    rents = [12 * each + number * 13 % 700 for number, each in enumerate(area)]
    shutil.copy(PROJECT / ".gitignore", repository)
    assert git(repository, "commit", "--quiet", "--all", "--message", "second") == (0, "")
    pl.DataFrame({"Floor area": area, "rent": rents}).write_csv(repository / "flats.csv")

    def run(line: str) -> tuple[int, str]:
        return git(repository, *shlex.split(line)[1:]) if line.startswith("git ") else apart(line, repository)

    said = follow(INIT, run)
    assert "version 1 is champion" in said[f"uv run {SCRIPT} run"]
    predictions = pl.read_csv(repository / "reports" / "flats-predicted.csv")["prediction"]
    assert len(predictions.drop_nulls()) == len(area)


@pytest.mark.slow
def test_the_page_on_own_data_leads_to_a_champion_of_another_problem(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared, config = f"src/{PACKAGE}/shared", "config"
    given = files(OWN)
    assert set(given) == {
        "data/make_flats.py",
        *(f"{shared}/{name}.py" for name in ("contract", "features", "model", "collect")),
        "tests/shared/test_problem.py",
        *(f"{config}/{name}.toml" for name in ("params", "acceptance", "settings")),
    }
    for line in commands(OWN):
        if line.startswith(TAKEN_AWAY):
            path = copy / shlex.split(line)[-1]
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for name, content in given.items():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_text(content, encoding="utf-8", newline="\n")
    (copy / "docs").mkdir()
    said = follow(OWN, lambda line: apart(line, copy))
    lines = said[f"uv run {SCRIPT} run"].splitlines()
    shown = next(block for block in blocks(OWN, "text") if block.startswith("version")).splitlines()
    start = lines.index("version 1 passes")
    assert list(shapes("\n".join(lines[start : start + len(shown)]))) == list(shapes("\n".join(shown)))
    assert lines[-2] == "champion: version 1"
    assert "10 rows predicted by version 1" in said[f"uv run {SCRIPT} predict data/asked.csv"]
    assert (
        (copy / "reports" / "asked-predicted.csv")
        .read_text(encoding="utf-8")
        .startswith("floor_area,rooms,year_built,")
    )
    assert "## flats" in text_of(copy / "docs" / "data-dictionary.md")
    assert "## flights" not in text_of(copy / "docs" / "data-dictionary.md")
    told = said["uv run pytest"]  # the page's own tests, and all that a project keeps
    assert int(re.findall(r"(\d+) passed", told)[-1]) >= 20, told
    assert "skipped" not in told
    monkeypatch.chdir(copy)
    champion = open_workspace(PROBLEM, root=copy).releases.champion()
    assert champion is not None
    assert set(champion.features) == {"floor_area", "rooms", "age", "district"}


# --- from an idea to the champion


def changed(content: str, difference: str) -> str:
    """A file's content after the hunks of a difference, each of which fits in one place."""
    for hunk in re.split(r"^@@\n", difference, flags=re.MULTILINE):
        lines = hunk.splitlines(keepends=True)
        old, new = ("".join(line[1:] for line in lines if line[0] != other) for other in "+-")
        assert content.count(old) == 1, hunk
        content = content.replace(old, new)
    return content


def git(folder: Path, *arguments: str) -> tuple[int, str]:
    """Run Git by nobody's configuration: its exit status, and what it said."""
    me = ["-c", "user.name=me", "-c", "user.email=me@example.org", "-c", "core.autocrlf=false"]
    env = os.environ | {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    line = ["git", *me, *arguments]
    done = subprocess.run(line, cwd=folder, env=env, capture_output=True, encoding="utf-8", check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def repository(copy: Path) -> Path:
    """The copy with its pages, as a repository."""
    shutil.copytree(DOCS, copy / "docs")
    (copy / ".gitignore").write_text(".env\n/data/idea/\n__pycache__\n", encoding="utf-8")
    for arguments in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message", "first"]):
        assert git(copy, *arguments) == (0, "")
    return copy


@pytest.mark.slow
def test_an_idea_goes_from_a_cell_to_the_champion_as_its_page_says(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    statuses: list[tuple[str, int]] = []
    said = ""
    steps = re.findall(r"(?:^`([^`\n]+)`\n\n)?^```(\w+)\n(.*?)^```$", text_of(IDEA), re.DOTALL | re.MULTILINE)
    for path, kind, block in steps:
        file = repository / path
        if kind == "ini":
            file.write_text(block, encoding="utf-8", newline="\n")
        elif kind == "diff":
            file.write_text(changed(file.read_text(encoding="utf-8"), block), encoding="utf-8", newline="\n")
        elif kind == "bash":
            done = [
                (line, git(repository, *shlex.split(line)[1:]) if line.startswith(GIT) else apart(line, repository))
                for line in block.splitlines()
            ]
            statuses += [(line, status) for line, (status, _) in done]
            said = "\n".join(told for _, (_, told) in done)
        else:
            assert kind == "text"
            assert set(shapes(block)) <= set(shapes(said)), said
    asked = [f"uv run {SCRIPT} gate"] * 2
    assert [(line, status) for line, status in statuses if line in asked or status] == [(asked[0], 1), (asked[1], 0)]
    changes = git(repository, "diff", "--name-only", "HEAD^", "HEAD")[1].split()
    assert changes == [f"src/{PACKAGE}/shared/features.py", "tests/shared/test_problem.py"]
    monkeypatch.chdir(repository)
    champion = open_workspace(PROBLEM, root=repository).releases.champion()
    assert champion is not None
    assert (champion.version, "backlog" in champion.features) == (3, True)


# --- guides


def test_each_pair_of_blocks_of_pandas_and_narwhals_gives_equal_rows(tmp_path: Path) -> None:
    start, *sections = re.split(r"^## ", text_of(DOCS / "guide" / "narwhals.md"), flags=re.MULTILINE)
    (beginning,) = re.findall(r"^```python\n(.*?)^```$", start, re.DOTALL | re.MULTILINE)
    pairs = {
        each.splitlines()[0]: re.findall(r"^```python\n(.*?)^```$", each, re.DOTALL | re.MULTILINE) for each in sections
    }
    assert len([pair for pair in pairs.values() if pair]) >= 7
    for title, pair in pairs.items():
        (tmp_path / "pair.py").write_text("".join([beginning, *pair]), encoding="utf-8")
        names = runpy.run_path(str(tmp_path / "pair.py"))
        frames = [names["df"], names["rows"].collect().to_pandas()]
        key = "flight" if "flight" in frames[0] else "carrier"
        one, other = (frame.sort_values(key).reset_index(drop=True) for frame in frames)
        assert_frame_equal(one, other, check_dtype=False, obj=title)


def test_the_recipe_for_databases_collects_each_row_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ((path, code),) = files(DOCS / "guide" / "databases.md").items()
    assert path == f"src/{PACKAGE}/shared/collect.py"
    (tmp_path / "collect.py").write_text(code, encoding="utf-8")
    collect = runpy.run_path(str(tmp_path / "collect.py"))["collect"]
    monkeypatch.delenv("DATABASE_URL", raising=False)
    with pytest.raises(InputError, match="DATABASE_URL is not set"):
        collect(tmp_path, None, datetime.now(UTC), tmp_path)
    engine = sqlalchemy.create_engine(address := f"sqlite:///{(tmp_path / 'company.db').as_posix()}")
    stored = {}
    for name, schema in PROBLEM.schemas.items():
        rows = pl.read_parquet(PROJECT / "data" / "example" / f"{name}.parquet").head(300)
        entered = pl.datetime(2013, 1, 1) + pl.duration(hours=pl.int_range(len(rows)))
        stored[name] = conform(rows, schema)
        utc = [column.dt.replace_time_zone(None) for column in rows if column.dtype == pl.Datetime]
        rows.with_columns(*utc, entered_at=entered).write_database(name, engine)
    engine.dispose()
    monkeypatch.setenv("DATABASE_URL", address)
    first, last = datetime(2013, 1, 5, tzinfo=UTC), datetime(2014, 1, 1, tzinfo=UTC)
    for number, period in enumerate(((None, first), (first, last), (last, last))):
        paths = collect(tmp_path, *period, tmp_path / str(number))
        assert len(paths) == (0 if number == 2 else len(stored))
    for name, schema in PROBLEM.schemas.items():
        parts = [pl.read_parquet(path) for path in sorted(tmp_path.glob(f"*/{name}/*.parquet"))]
        assert len(parts[0]) == 97, "from midnight of the first to midnight of the fifth"
        assert pl.concat([conform(part, schema) for part in parts]).equals(stored[name])


# --- what pages say of the code


def test_the_data_dictionary_is_the_contracts() -> None:
    text = text_of(DICTIONARY)
    assert text.endswith(data_dictionary(contract.TABLES)), f"uv run {SCRIPT} data dictionary writes it again"


def test_the_readme_names_no_command_and_no_setting_that_there_is_not() -> None:
    sections = text_of(README).partition("\n## Commands\n")[2].partition("\n## What is where\n")[0]
    rows = re.findall(r"^\|.*`.*\|$", sections, re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"\| (?:`[\w ]+`, )?`([a-z]+(?: [a-z]+)?)[^`]*` \|", row)}
    assert len(named) > 10
    assert named <= dict(cli.cli.walk()).keys()
    assert {name.lower() for name in re.findall(r"`ML_([A-Z_]+)`", text_of(README))} <= set(
        settings.Settings.model_fields
    )


def test_the_example_of_an_environment_file_has_every_setting_with_its_default() -> None:
    lines = ["# Copy this file to .env, which is not in Git, and remove the # of what you set.", ""]
    for name, field in settings.Settings.model_fields.items():
        value = "" if field.default is None else field.default
        text = json.dumps(value) if isinstance(value, bool | list | dict) else str(value)
        lines += [f"# {field.description}", f"# ML_{name.upper()}={text}"]
    example = (PROJECT / ".env.example").read_text(encoding="utf-8")
    derived, _, secrets = example.partition("\n\n# Credentials")
    assert derived.splitlines() == lines
    names = re.findall(r"^# ([A-Z_]+)=", secrets, re.MULTILINE)
    assert {"AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_PASSWORD"} <= set(names)


def test_the_page_on_production_names_only_settings_that_there_are_and_all_of_the_service() -> None:
    page = text_of(DOCS / "production.md")
    named = {name.lower() for name in re.findall(r"`ML_([A-Z_]+)", page)}
    assert named <= set(settings.Settings.model_fields)
    assert named >= {
        "serve_api_key",
        "serve_cors_origins",
        "serve_root_path",
        "serve_access_log",
        "log_format",
        "webhook",
    }


def test_every_file_that_the_readme_shows_is_there() -> None:
    tree = next(block for block in blocks(README, "text") if block.startswith("src/"))
    folders: list[str] = []
    shown = []
    for line in tree.splitlines():
        name, depth = line.split()[0], (len(line) - len(line.lstrip())) // 2
        folders = [*folders[:depth], name]
        shown += [] if name == "..." else ["".join(folders)]
    assert shown
    assert [path for path in shown if not (PROJECT / path).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_and_every_path_of_the_project_on_a_page_leads_somewhere(page: Path) -> None:
    text = text_of(page)
    links = [page.parent / link for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", text)]
    named = re.findall(r"`((?:src|config|docs|tests|data/example)/[\w./-]+)`", text)
    shared = [f"src/{PACKAGE}/{path}" for path in re.findall(r"`(shared/\w+\.py)`", text)]
    assert [path for path in [*links, *(PROJECT / path for path in [*named, *shared])] if not path.exists()] == []
