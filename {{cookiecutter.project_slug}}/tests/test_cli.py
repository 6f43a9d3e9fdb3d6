"""The console script: what it shows, what it prints where, its exit statuses, and how it says no."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import polars as pl
import pytest
from click.testing import CliRunner, Result

from {{cookiecutter.__package_name}} import cli
from {{cookiecutter.__package_name}}.shared.contract import SUBJECT, TABLES
from {{cookiecutter.__package_name}}.shared.registry import CHALLENGER
from {{cookiecutter.__package_name}}.shared.schema import schema_of
from {{cookiecutter.__package_name}}.shared.settings import Acceptance
from {{cookiecutter.__package_name}}.shared.workspace import Workspace

Command = Callable[..., subprocess.CompletedProcess[str]]

HEAVY = ("sklearn", "mlflow", "polars", "narwhals", "deltalake", "onnxruntime", "pydantic", "matplotlib")
SUBJECTS = SUBJECT.table


def asked(*arguments: str) -> Result:
    """What the console script does with these arguments, in this process."""
    return CliRunner().invoke(cli.cli, [str(argument) for argument in arguments], prog_name=cli.NAME)


def example(table: str = SUBJECTS, month: str = "2013-05") -> str:
    return f"data/example/{table}/{month}.parquet"


def said_no(result: Result | subprocess.CompletedProcess[str], status: int, *words: str) -> None:
    """Hold an answer to be one line of the script's own, with these words, and this exit status."""
    code = result.exit_code if isinstance(result, Result) else result.returncode
    lines = result.stderr.splitlines()
    assert code == status, result.stderr
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith(f"{cli.NAME}: ")
    for word in words:
        assert word in lines[0]
    assert result.stdout == ""


# --- help


def test_help_comes_without_a_heavy_library(tmp_path: Path) -> None:
    program = f"""
import sys
from {cli.PACKAGE} import cli
for arguments in ([], *([name] for name in cli.COMMANDS)):
    cli.cli([*arguments, "--help"], standalone_mode=False)
print(sorted(set({HEAVY!r}) & set(sys.modules)))
"""
    line = [sys.executable, "-c", program]
    done = subprocess.run(line, capture_output=True, encoding="utf-8", check=True, cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "[]"


def test_help_shows_each_command_in_its_group_in_the_order_of_use() -> None:
    shown = asked("--help")
    assert shown.exit_code == 0
    lines = [line.split() for line in shown.stdout.partition("Daily:")[2].splitlines()]
    words = ["Daily:", *(line[0] for line in lines if line)]
    groups = ("Daily", "Data", "Model", "Answers")
    assert {row.group for row in cli.COMMANDS.values()} == set(groups)
    expected = [[f"{group}:", *(name for name, row in cli.COMMANDS.items() if row.group == group)] for group in groups]
    assert words == sum(expected, [])
    for row in cli.COMMANDS.values():
        assert row.help in " ".join(shown.stdout.split())


@pytest.mark.parametrize("name", cli.COMMANDS)
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_each_command_has_help_with_its_parameters(name: str, flag: str) -> None:
    shown = asked(name, flag)
    text = " ".join(shown.stdout.split())
    assert shown.exit_code == 0
    assert text.startswith(f"Usage: {cli.NAME} {name} ")
    assert cli.COMMANDS[name].help in text
    command = cli.cli.commands[name]
    for parameter in command.params:
        assert (parameter.opts[0] if isinstance(parameter, click.Option) else parameter.name.upper()) in text
        assert not isinstance(parameter, click.Option) or str(parameter.help) in text
    assert "--json One JSON object on stdout." in text


@pytest.mark.parametrize(("name", "row"), cli.COMMANDS.items())
def test_each_command_calls_a_function_that_takes_its_parameters(name: str, row: cli.Command) -> None:
    module, _, function = row.call.partition(":")
    work = getattr(import_module(f"{cli.PACKAGE}.production.{module}"), function)
    taken = {parameter.name for parameter in cli.cli.commands[name].params} - {"as_json"}
    assert taken == set(work.__annotations__) - {"workspace", "return"}


def test_commands_that_write_run_alone_and_the_others_do_not() -> None:
    writing = {name for name, row in cli.COMMANDS.items() if row.writes}
    assert writing == {"run", "ingest", "train", "promote", "rollback"}


# --- answers


def test_without_a_command_it_says_where_the_project_stands(trained: Workspace) -> None:
    assert trained.root == Path.cwd()
    bare, status = asked(), asked("status")
    assert bare.exit_code == status.exit_code == 0
    assert bare.stderr == status.stderr
    assert "champion   version 1" in bare.stderr
    assert bare.stdout == ""


@pytest.mark.usefixtures("trained")
@pytest.mark.parametrize(
    ("arguments", "status", "keys"),
    [
        (["status"], 0, {"champion", "batches", "next"}),
        (["check", example()], 0, {"table", "accepted", "breaches"}),
        (["ingest"], 0, {"batches"}),
        (["gate"], 1, {"version", "champion", "checks"}),
        (["promote"], 1, {"verdict", "release", "rows"}),
        (["predict", example()], 0, {"rows", "version", "out"}),
        (["explain", "1"], 0, {"raw", "features", "contributions"}),
        (["rollback"], 1, {"error"}),
        (["explain", "0"], 2, {"error"}),
        (["check", "nothing.csv"], 2, {"error"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_json_is_one_object_on_stdout_and_text_is_on_stderr(arguments: list[str], status: int, keys: set[str]) -> None:
    if arguments == ["explain", "1"]:
        arguments = ["explain", str(pl.read_parquet(example())["leg"][0])]
    as_json, as_text = asked(*arguments, "--json"), asked(*arguments)
    assert as_json.exit_code == as_text.exit_code == status
    (line,) = as_json.stdout.splitlines()
    assert line.isascii()
    answer = json.loads(line)
    assert keys <= set(answer)
    assert as_text.stdout == ""
    assert as_text.stderr.strip()
    if "error" in keys:
        assert as_json.stderr == as_text.stderr == f"{cli.NAME}: {answer['error']}\n"
    else:
        assert as_json.stderr == ""


def test_what_libraries_say_stays_off_stdout(trained: Workspace, command: Command) -> None:
    (trained.root / "config" / "params.toml").write_text("max_iter = 3\n")
    done = command("train", "--json")
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert json.loads(line)["version"] == 2
    assert done.stderr.splitlines() == [done.stderr.rstrip("\n")], "one line of progress"
    assert done.stderr.startswith("train     ")


def test_a_batch_that_a_person_must_look_at_is_a_no(trained: Workspace) -> None:
    bad = trained.root / "bad.parquet"
    rows = pl.read_parquet(example())
    rows.drop(rows.columns[-1]).write_parquet(bad)
    said = asked("ingest", "bad.parquet", "--table", SUBJECTS)
    assert said.exit_code == 1
    assert f"{SUBJECTS}/bad.parquet breaks the contract: column {rows.columns[-1]} is missing" in said.stderr
    assert asked("check", "bad.parquet", "--table", SUBJECTS).exit_code == 1
    assert asked("ingest", example()).exit_code == 0


def test_times_are_in_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    read = cli.Moment(["%Y-%m-%d", "%Y-%m-%dT%H:%M"])
    assert read.convert("2013-04-01", None, None) == datetime(2013, 4, 1, tzinfo=UTC)
    assert read.convert("2013-04-01T05:30", None, None) == datetime(2013, 4, 1, 5, 30, tzinfo=UTC)


def test_a_time_that_is_given_is_the_time(trained: Workspace) -> None:
    early = json.loads(asked("explain", str(pl.read_parquet(example())["leg"][0]), "--now", "2013-03-01", "--json").stdout)
    assert early["predicted_at"] == "2013-03-01T00:00:00+00:00"
    said_no(asked("train", "--as-of", "2012-12-31T23:59"), 1, "no labelled rows as of 2012-12-31 23:59")
    assert trained.registry.version(2) is None


# --- no


@pytest.mark.usefixtures("empty")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "--bogus"], ["--bogus", "run --help"]),
        (["bogus"], ["bogus", "--help"]),
        (["run", "--now", "yesterday"], ["--now", "yesterday", "%Y-%m-%d", "run --help"]),
        (["gate", "--version", "x"], ["--version", "'x'", "gate --help"]),
        (["explain"], ["KEY", "explain --help"]),
        (["check", "a.csv", "b.csv"], ["b.csv", "check --help"]),
    ],
    ids=" ".join,
)
def test_a_wrong_option_is_one_line(arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        cli.main(arguments)
    out, err = capsys.readouterr()
    said_no(subprocess.CompletedProcess(arguments, int(str(exited.value.code)), out, err), 2, *words)


@pytest.mark.usefixtures("empty")
@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["check", "nothing.parquet"], 2, ["nothing.parquet can't be read: No such file"]),
        (["check", "config"], 2, ["config can't be read"]),
        (["check", "config/params.toml"], 2, ["config/params.toml ends in '.toml': batches are .parquet or .csv"]),
        (["ingest", example(), "--table", "nope"], 2, ["no table 'nope'", *(table.table for table in TABLES)]),
        (["gate"], 2, ["there is no challenger: train one first"]),
        (["gate", "--version", "7"], 2, ["there is no version 7"]),
        (["promote"], 2, ["there is no challenger: train one first"]),
        (["rollback"], 1, ["there is no version before the champion's to go back to"]),
        (["predict", example()], 1, ["there is no champion yet: run, or train and promote, first"]),
        (["explain", "1"], 1, ["there is no champion yet: run, or train and promote, first"]),
        (["train", "--as-of", "2013-02-01"], 1, ["no labelled rows as of 2013-02-01 00:00: ingest"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_fresh_project_says_what_is_missing(arguments: list[str], status: int, words: list[str]) -> None:
    said_no(asked(*arguments), status, *words)


@pytest.mark.usefixtures("trained")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["explain", "0"], [SUBJECTS, "no row with", " 0"]),
        (["explain", "x"], [SUBJECTS, "no row with", " x"]),
        (["gate", "--version", "7"], ["there is no version 7"]),
        (["predict", "nothing.csv"], ["nothing.csv can't be read"]),
    ],
    ids=" ".join,
)
def test_what_there_is_not_is_named(arguments: list[str], words: list[str]) -> None:
    said_no(asked(*arguments), 2, *words)


def test_outside_of_a_project_it_says_where_to_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    said_no(asked("status"), 2, "no config/params.toml in", str(tmp_path), "inside the project's folder")


def test_a_folder_within_the_project_is_in_the_project(trained: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trained.root / "data" / "example")
    assert "champion   version 1" in asked("status").stderr


@pytest.mark.parametrize(
    ("file", "content", "arguments", "words"),
    [
        ("config/settings.toml", "bogus = 1", ["status"], ["config/settings.toml", "bogus"]),
        ("config/settings.toml", "lake = [", ["status"], ["config/settings.toml", "Invalid value"]),
        ("config/settings.toml", 'clock = "never"', ["status"], ["clock", "'wall' or 'data'"]),
        (".env", "ML_BOGUS=1", ["status"], [".env", "bogus"]),
        ("config/params.toml", "bogus = 1", ["train"], ["params.toml", "bogus"]),
        ("config/params.toml", "max_iter = 0", ["train"], ["params.toml", "max_iter", "greater than 0"]),
        ("config/acceptance.toml", "bogus = 1", ["gate"], ["acceptance.toml", "bogus"]),
        ("config/acceptance.toml", "[window]\ndays = 0", ["gate"], ["acceptance.toml", "window.days", "greater than 0"]),
        ("config/acceptance.toml", "\udcff", ["gate"], ["acceptance.toml", "utf-8"]),
    ],
)
def test_an_unknown_key_or_value_is_named(
    trained: Workspace, file: str, content: str, arguments: list[str], words: list[str]
) -> None:
    (trained.root / file).write_bytes(content.encode("utf-8", "surrogateescape"))
    said_no(asked(*arguments), 2, *words)


def test_settings_of_the_environment_come_first(trained: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ML_CLOCK", "never")
    said_no(asked("status"), 2, "ML_", "clock", "'wall' or 'data'")
    monkeypatch.setenv("ML_CLOCK", "wall")
    monkeypatch.setenv("ML_LAKE", "elsewhere")
    assert "champion   none" in asked("status").stderr
    assert not (trained.root / "elsewhere").exists()


def _log(lake: Path) -> None:
    for path in lake.glob(f"{SUBJECTS}/_delta_log/*.json"):
        path.write_text("{ not json")


def _file_removed(lake: Path) -> None:
    next(lake.glob(f"{SUBJECTS}/*.parquet")).unlink()


def _file_cut(lake: Path) -> None:
    for path in lake.glob(f"{SUBJECTS}/*.parquet"):
        path.write_bytes(path.read_bytes()[:100])


def _no_folder(lake: Path) -> None:
    shutil.rmtree(lake)
    lake.write_text("a file where the lake should be")


@pytest.mark.parametrize("spoil", [_log, _file_removed, _file_cut, _no_folder])
@pytest.mark.parametrize("arguments", [["explain", "1"], ["ingest", example()], ["run"]], ids=" ".join)
def test_an_unreadable_lake_is_named(trained: Workspace, arguments: list[str], spoil: Callable[[Path], None]) -> None:
    lake = trained.root / "data" / "lake"
    spoil(lake)
    said = asked(*arguments)
    if arguments == ["run"]:  # it says what it does meanwhile, and what it does not need it does not read
        assert said.exit_code in {0, 2}
        assert said.exception is None or isinstance(said.exception, SystemExit)
    else:
        said_no(said, 2, "data/lake", "table ")


def test_a_second_command_at_the_same_time_is_told_so(trained: Workspace) -> None:
    with trained.alone():
        for arguments in (["run"], ["ingest"], ["train"], ["promote"], ["rollback"]):
            said_no(asked(*arguments), 2, "another command", "data/.lock", "try again when it is done")
        assert asked("status").exit_code == 0
    assert asked("ingest").exit_code == 0


def test_without_git_a_run_has_no_commit(trained: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    (trained.root / "config" / "params.toml").write_text("max_iter = 3\n")
    monkeypatch.setenv("PATH", "")
    said = asked("train")
    assert said.exit_code == 0, said.stderr
    challenger = trained.registry.aliased(CHALLENGER)
    assert challenger is not None
    assert challenger.number == 2
    tags = trained.registry.tags(challenger.run_id)
    assert (tags["commit"], tags["dirty"]) == ("", "false")


def test_a_server_that_does_not_answer_is_named_and_nothing_is_left_half_done(
    trained: Workspace, command: Command
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # taken, and nobody listens
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
        said = command("promote", env={"ML_TRACKING": address})
    said_no(said, 2, f"MLflow at {address}", "ML_TRACKING")
    assert trained.lake.version("releases") == 0


def test_an_address_of_no_kind_is_named(trained: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ML_TRACKING", "bogus://nowhere")
    said_no(asked("gate"), 2, "MLflow at bogus://nowhere", "ML_TRACKING")
    assert trained.lake.version("releases") == 0


# --- as a program


def test_it_is_a_module_too(trained: Workspace, command: Command) -> None:
    os.chdir(trained.root)
    done = command("status")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == asked("status").stderr


def test_only_its_own_progress_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: dict[str, Any] = {}
    monkeypatch.setattr(cli, "cli", lambda *_, **options: shown.update(options))
    cli.main()
    assert shown["prog_name"] == cli.NAME == cli.PACKAGE.replace("_", "-")


def test_acceptance_has_a_default_for_each_key() -> None:
    assert Acceptance().confidence == pytest.approx(0.95)
    assert schema_of(SUBJECT).name == SUBJECTS
