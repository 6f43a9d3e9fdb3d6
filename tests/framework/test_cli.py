"""The console script: what it prints where, its exit statuses, and the one line where something is wrong."""

import json
import logging
import os
import re
import runpy
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib import metadata
from pathlib import Path
from threading import Thread

import click
import polars as pl
import pytest
from click.testing import CliRunner, Result
from polars.exceptions import PanicException, PolarsError

import problems
from my_ml_project import shared
from my_ml_project.cli import cli
from my_ml_project.core import NAME, PACKAGE, command_line
from my_ml_project.core.contracts.data_dictionary import data_dictionary
from my_ml_project.core.errors import InputError, Rejected
from my_ml_project.core.models import training
from my_ml_project.core.store.registry import CHALLENGER
from my_ml_project.core.workspace import Workspace
from my_ml_project.production import gate, ingest, lifecycle
from problems import AHEAD, PROBLEM, START, arrived

PARCELS = "parcels.parquet"
FOLDER = Path(__file__).parent  # of the module console
Command = Callable[..., "subprocess.CompletedProcess[str]"]
COMMANDS = dict(cli.walk())
WRITING = {"init", "run", "ingest", "data erase", "labels import", "train", "promote", "rollback"}


@pytest.fixture(autouse=True)
def _of_the_tiny_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let commands find the tiny problem where the project's own is."""
    monkeypatch.setattr(shared, "PROBLEM", PROBLEM)


def asked(*arguments: str) -> Result:
    """The console script in this process."""
    return CliRunner().invoke(cli, arguments, prog_name=NAME)


def complaint(result: Result, status: int = 2) -> str:
    """The one line of a command that failed, without the script's name; nothing else was printed."""
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == status
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"{NAME}: ")
    return line.removeprefix(f"{NAME}: ")


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., object]]:
    """The module run as a script, in this process: its exit status."""

    def run(*arguments: str) -> object:
        monkeypatch.setattr(sys, "argv", ["x", *arguments])
        try:
            runpy.run_module(f"{PACKAGE}.__main__", run_name="__main__")
        except SystemExit as left:
            return left.code
        return 0

    log = logging.getLogger(PACKAGE)
    level, interrupt = log.level, signal.getsignal(signal.SIGINT)
    log.setLevel(logging.NOTSET)
    yield run
    log.setLevel(level)
    signal.signal(signal.SIGINT, interrupt)


# help


def test_help_imports_nothing_heavy() -> None:
    code = f"""
import sys
from click.testing import CliRunner
from {PACKAGE}.cli import cli
for words in ([], *(name.split() for name, _ in cli.walk())):
    assert CliRunner().invoke(cli, [*words, "--help"]).exit_code == 0, words
print(*sorted(set(name.partition(".")[0] for name in sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert {"click", PACKAGE} <= loaded
    heavy = (
        "optuna sklearn mlflow polars pydantic narwhals numpy deltalake onnxruntime onnx skl2onnx matplotlib sqlalchemy"
    )
    assert not loaded & set(heavy.split())


def test_help_shows_the_commands_by_group_in_the_order_of_their_use() -> None:
    for option in ("--help", "-h"):
        result = asked(option)
        assert result.exit_code == 0
        assert result.stdout.startswith(f"Usage: {NAME} [OPTIONS] [COMMAND] [ARGS]...")
        lines = result.stdout.splitlines()
        groups = ("Daily:", "Data:", "Model:", "Predictions:", "Research:")
        names = (line if line in groups else re.split(r"\s{2,}", line.strip())[0] for line in lines)
        assert [name for name in names if name in groups or name in COMMANDS] == [
            *("Daily:", "run", "status", "monitor"),
            *("Data:", "check", "ingest", "data dictionary", "data erase", "init", "labels export", "labels import"),
            *("Model:", "train", "gate", "promote", "rollback", "simulate"),
            *("Predictions:", "predict", "explain", "serve"),
            *("Research:", "runs", "reproduce", "tune", "report"),
        ]
        for command in COMMANDS.values():
            assert str(command.help) in " ".join(result.stdout.split())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str) -> None:
    result = asked(*name.split(), "--help")
    assert result.exit_code == 0
    assert result.stdout.startswith(f"Usage: {NAME} {name} ")
    told = " ".join(result.stdout.split())
    assert str(COMMANDS[name].help) in told
    assert "--json Print one JSON object on stdout." in told


def test_the_version_is_that_of_the_project() -> None:
    answer = asked("--version")
    assert (answer.exit_code, answer.output) == (0, f"{NAME}, version {metadata.version(NAME)}\n")


def test_the_commands_that_write_run_alone() -> None:
    assert {name for name, command in COMMANDS.items() if command.writes} == WRITING


def test_arguments_come_in_the_order_of_the_source() -> None:
    assert asked("check", "--help").stdout.startswith(f"Usage: {NAME} check [OPTIONS] FILE\n")
    assert asked("ingest", "--help").stdout.startswith(f"Usage: {NAME} ingest [OPTIONS] [FILE]\n")
    assert asked("explain", "--help").stdout.startswith(f"Usage: {NAME} explain [OPTIONS] KEY\n")
    told = asked("predict", "--help").stdout
    assert told.index("--out FILE") < told.index("--now TIME") < told.index("--json")


# what is printed where


def test_without_a_command_the_status_is_told_to_people(trained: Workspace) -> None:
    result = asked()
    assert result.exit_code == 0
    assert result.stdout == ""
    assert result.stderr.startswith("predicts   arrivals.late (binary)\nchampion   version 1, ")
    assert result.stderr == asked("status").stderr
    assert trained.lake.version("releases") == 0


@pytest.mark.parametrize(
    ("arguments", "status", "keys"),
    [
        (("status",), 0, {"champion", "labels_until", "next"}),
        (("check", "march.parquet"), 0, {"table", "accepted", "rejected"}),
        (("check", "some.csv"), 1, {"table", "accepted", "rejected"}),
        (("ingest", "march.parquet"), 0, {"batches"}),
        (("labels", "export", "--n", "2", "--now", "2024-04-01"), 0, {"tasks", "unlabelled", "interface"}),
        (("labels", "import", "missing.json"), 2, {"error"}),
        (("gate", "--version", "1"), 1, {"version", "checks"}),
        (("promote", "--version", "1", "--now", "2024-04-01"), 1, {"verdict", "release"}),
        (("rollback",), 1, {"error"}),
        (("predict", PARCELS, "--now", "2024-04-01"), 0, {"rows", "out", "version"}),
        (("predict", "some.csv", "--out", "out.csv"), 1, {"rows", "out", "invalid"}),
        (("predict", "missing.csv"), 2, {"error"}),
        (("explain", "1000", "--now", "2024-04-01"), 0, {"raw", "features", "contributions"}),
        (("run", "--now", "2024-04-01"), 0, {"as_of", "ingested", "next_due"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_json_is_one_object_on_stdout(
    trained: Workspace, arguments: tuple[str, ...], status: int, keys: set[str]
) -> None:
    if arguments[0] == "promote":
        (trained.root / "config" / "acceptance.toml").write_text("[at_least]\nauc = 0.99\n")
    march = arrived("parcels", START - AHEAD)
    march.write_parquet(PARCELS)
    march.write_parquet("march.parquet")
    bent = march.with_row_index().head(200)
    bent = bent.with_columns(pl.col("parcel") + 1_000_000, distance=pl.when(index=7).then(1).otherwise("distance"))
    bent.drop("index").write_csv("some.csv")
    result = asked(*arguments, "--json")
    assert result.exit_code == status, result.output
    (line,) = result.stdout.splitlines()
    told = json.loads(line)
    assert isinstance(told, dict)
    assert keys <= set(told)
    assert line.isascii()
    if "error" in told:
        assert result.stderr == f"{NAME}: {told['error']}\n"


def test_json_is_ascii_whatever_is_in_it() -> None:
    assert command_line.json({"name": "Zürich ☃"}) == r'{"name":"Z\u00fcrich \u2603"}'


# exit statuses


@dataclass(frozen=True)
class Answer:
    ok: bool


@pytest.mark.parametrize(("answer", "status"), [(Answer(ok=True), 0), (Answer(ok=False), 1), ("no ok", 0)])
def test_the_answer_decides_on_the_exit_status(
    empty: Workspace, monkeypatch: pytest.MonkeyPatch, answer: object, status: int
) -> None:
    assert empty.root == Path.cwd()
    monkeypatch.setattr(
        lifecycle, "run", lambda _, **options: answer if options == {"now": START, "dirty": False} else None
    )
    result = asked("run", "--now", "2024-04-01")
    assert (result.exit_code, result.stdout, result.stderr) == (status, "", f"{answer}\n")


@pytest.mark.parametrize(("error", "status"), [(InputError("it is bad"), 2), (Rejected("it is bad"), 1)])
def test_the_error_decides_on_the_exit_status(
    empty: Workspace, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(lifecycle, "run", fail)
    assert complaint(asked("run"), status) == "it is bad"
    with empty.exclusive_lock():
        pass


def test_the_status_neither_imports_mlflow_nor_asks_it(trained: Workspace) -> None:
    assert trained.root == Path.cwd()
    code = "import sys; sys.modules['mlflow'] = None; from console import main; main()"
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        server = f"http://127.0.0.1:{silent.getsockname()[1]}"
        for tracking, told in (("mlruns", False), (server, True)):
            env = os.environ | {"PYTHONPATH": str(FOLDER), "ML_TRACKING": tracking}
            line = [sys.executable, "-c", code, "status"]
            done = subprocess.run(line, env=env, capture_output=True, encoding="utf-8", check=True, timeout=20)
            assert "champion   version 1, " in done.stderr
            assert (f"MLflow at {server} is shared, but the lake" in done.stderr) == told


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ("LAKE", "in the lake s4://a/b can't be used: Unknown scheme: s4; see the setting ML_LAKE and the"),
        ("TRACKING", "ML_TRACKING s4://a/b has the unknown scheme s4: a server has https://, a database "),
    ],
)
def test_a_url_of_an_unknown_scheme_is_one_line(
    trained: Workspace, monkeypatch: pytest.MonkeyPatch, setting: str, line: str
) -> None:
    assert trained.root == Path.cwd()
    monkeypatch.setenv(f"ML_{setting}", "s4://a/b")
    for command in ("status", "run"):
        assert line in complaint(asked(command))


def test_a_missing_driver_of_a_database_is_one_line_with_its_package(
    trained: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert trained.root == Path.cwd()
    monkeypatch.setitem(sys.modules, "psycopg", None)
    monkeypatch.setenv("ML_TRACKING", "postgresql+psycopg://me@127.0.0.1:1/runs")
    line = 'psycopg is not installed, and this command needs it: uv add "psycopg[binary]"'
    assert complaint(asked("runs")) == line


def test_a_library_that_is_not_installed_is_one_line_and_a_module_of_ones_own_is_not(
    empty: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert empty.root == Path.cwd()
    for name, told in (("onnx", True), (f"{PACKAGE}.gone", False)):
        missing = ModuleNotFoundError(f"No module named {name!r}", name=name)

        def fail(*_: object, error: Exception = missing, **__: object) -> None:
            raise error

        monkeypatch.setattr(lifecycle, "run", fail)
        result = asked("run")
        if told:
            assert complaint(result) == "onnx is not installed, and this command needs it: uv sync"
        else:
            assert result.exception is missing


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (PolarsError("gone: x\nand more"), "gone: x"),
        (PanicException("gone: x\nand more"), "gone: x"),
        (OSError("\ngone: x\nand more"), "gone: x"),
        (PolarsError(), "PolarsError"),
    ],
)
def test_a_table_whose_files_are_gone_is_one_line(
    empty: Workspace, monkeypatch: pytest.MonkeyPatch, error: BaseException, reason: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(lifecycle, "run", fail)
    assert (
        complaint(asked("run"))
        == f"the project or its tables in {empty.root / 'data' / 'lake'} can't be read or written: {reason}"
    )


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2024-04-01", START),
        ("2024-04-01T12:30", datetime(2024, 4, 1, 12, 30, tzinfo=UTC)),
        ("2024-04-01T12:30:15", datetime(2024, 4, 1, 12, 30, 15, tzinfo=UTC)),
    ],
)
def test_times_are_utc(empty: Workspace, monkeypatch: pytest.MonkeyPatch, text: str, moment: datetime) -> None:
    assert empty.root == Path.cwd()
    given: list[datetime] = []
    monkeypatch.setattr(ingest, "ingest", lambda *_, **options: given.append(options["now"]))
    assert asked("ingest", "--now", text).exit_code == 0
    assert given == [moment]
    assert given[0].utcoffset() is not None


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("run", "--when", "now"), "--when"),
        (("run", "--now", "tomorrow"), "tomorrow"),
        (("gate", "--version", "first"), "first"),
        (("fly",), "fly"),
        (("labels",), "Missing command"),
        (("labels", "fly"), "'fly'"),
        (("check",), "FILE"),
        (("explain",), "KEY"),
        (("status", "more"), "more"),
    ],
)
def test_a_wrong_usage_is_one_line_with_the_way_to_the_help(
    script: Callable[..., object], capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], named: str
) -> None:
    assert script(*arguments) == 2
    told = capsys.readouterr()
    assert told.out == ""
    (line,) = told.err.splitlines()
    assert line.startswith(f"{NAME}: ")
    assert named in line
    assert line.endswith(f"See {NAME} --help" if named == "fly" else f"See {NAME} {arguments[0]} --help")


# one line that names the thing and the way out


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("explain", "99999999"), "parcels has no row with parcel 99999999"),
        (
            ("explain", "1/2"),
            "parcels has no row with such a key: column parcel has 1 values that are no int, as '1/2'",
        ),
        (("check", "missing.parquet"), "missing.parquet can't be read: No such file or directory"),
        (("ingest", "missing.parquet"), "missing.parquet can't be read: No such file or directory"),
        (("predict", "missing.csv"), "missing.csv can't be read: No such file or directory"),
        (("check", "README"), "README ends in '': batches are .csv, .tsv, .parquet, .arrow, .feather, .jsonl, .ndjson"),
        (
            ("check", PARCELS, "--table", "trains"),
            "there is no table 'trains': tables are parcels, traffic, arrivals",
        ),
        (("gate", "--version", "9"), "there is no version 9"),
        (("promote", "--version", "0"), "there is no version 0"),
    ],
)
def test_bad_input_is_one_line(trained: Workspace, arguments: tuple[str, ...], line: str) -> None:
    before = trained.lake.version("collections"), trained.lake.read("parcels", {}).collect()["parcel"].max()
    Path("README").write_text("words")
    arrived("parcels", START).write_parquet(PARCELS)
    assert complaint(asked(*arguments)) == line
    assert before == (trained.lake.version("collections"), trained.lake.read("parcels", {}).collect()["parcel"].max())


@pytest.mark.parametrize("command", ["run", "status", "explain", "predict"])
def test_an_unreadable_lake_is_one_line(trained: Workspace, command: str) -> None:
    for log in (trained.root / "data" / "lake" / "releases" / "_delta_log").glob("*.json"):
        log.write_text("{broken")
    for log in (trained.root / "data" / "lake" / "arrivals" / "_delta_log").glob("*.json"):
        log.write_text("{broken")
    arrived("parcels", START).write_parquet(PARCELS)
    words = {"explain": ["1000"], "predict": [PARCELS]}.get(command, [])
    told = complaint(asked(command, *words))
    assert told.startswith(("table arrivals in the lake ", "table releases in the lake "))
    assert f"{trained.root / 'data' / 'lake'} can't be used: " in told


@pytest.mark.parametrize("arguments", [("monitor",), ("predict", "rows.parquet")], ids=" ".join)
def test_a_data_file_that_is_cut_off_is_one_line(
    trained: Workspace, command: Command, arguments: tuple[str, ...]
) -> None:
    trained.lake.read("parcels", {}).select(trained.problem.schema.names).head(5).sink_parquet("rows.parquet")
    for file in trained.root.glob("data/lake/traffic/*.parquet"):
        file.write_bytes(file.read_bytes()[:200])
    done = command(*arguments)
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert re.fullmatch(
        rf"{NAME}: table traffic: its file .+\.parquet is gone or damaged: restore it from a backup", last
    )
    assert "Traceback" not in done.stderr


@pytest.mark.usefixtures("trained")
@pytest.mark.parametrize(
    "arguments", [("status",), ("status", "--json"), ("--help",), ("train", "--wrong")], ids=" ".join
)
@pytest.mark.parametrize("closed", ["stdout", "stderr", "both"])
def test_output_that_cannot_be_written_is_one_line(arguments: tuple[str, ...], closed: str) -> None:
    """The streams are opened for reading, so that writing fails on every system, as on a full disk."""
    with Path(os.devnull).open("rb") as unwritable:
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        streams |= dict.fromkeys(streams if closed == "both" else [closed], unwritable.fileno())
        line = [sys.executable, "-m", "console", *arguments]
        around = os.environ | {"PYTHONPATH": str(FOLDER)}
        done = subprocess.run(
            line, env=around, encoding="utf-8", check=False, stdout=streams["stdout"], stderr=streams["stderr"]
        )
    said = done.stderr or ""
    assert "Traceback" not in said
    assert "Exception ignored" not in said
    if closed == "stdout" and arguments[-1] in {"--json", "--help"}:
        assert (done.returncode, said) == (2, f"{NAME}: the output can't be written: Bad file descriptor\n")


@pytest.mark.skipif(sys.platform == "win32", reason="a closed pipe has another error there")
@pytest.mark.usefixtures("trained")
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_pipe_that_is_closed_is_one_line(stream: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    line, around = [sys.executable, "-m", "console", "status"], os.environ | {"PYTHONPATH": str(FOLDER)}
    line += ["--json"] if stream == "stdout" else []
    out, err = (writing if stream == name else subprocess.PIPE for name in ("stdout", "stderr"))
    done = subprocess.run(line, env=around, encoding="utf-8", check=False, stdout=out, stderr=err)
    os.close(writing)
    expected = f"{NAME}: the output can't be written: Broken pipe\n" if stream == "stdout" else None
    assert (done.returncode, done.stderr) == (2, expected)


@pytest.mark.usefixtures("trained")
def test_work_goes_on_where_its_progress_cannot_be_written() -> None:
    line, around = (
        [sys.executable, "-m", "console", "run", "--now", "2024-04-01", "--json"],
        {"PYTHONPATH": str(FOLDER)},
    )
    with Path(os.devnull).open("rb") as unwritable:
        done = subprocess.run(line, env=os.environ | around, stdout=subprocess.PIPE, stderr=unwritable, check=False)
    assert json.loads(done.stdout)["champion"] == 1


def test_a_data_file_with_other_bytes_is_one_line(trained: Workspace) -> None:
    (file,) = trained.root.glob("data/lake/traffic/*.parquet")
    file.write_bytes(bytes(file.stat().st_size))
    assert complaint(asked("monitor")) == (
        f"table traffic: its file {file} is gone or damaged: restore it from a backup"
    )


@pytest.mark.parametrize(
    "commands",
    [
        ("status", "predict rows.parquet"),
        pytest.param(("monitor", "runs", "train", "gate", "run", "tune --trials 1"), marks=pytest.mark.slow),
    ],
    ids=len,
)
def test_no_command_writes_outside_of_the_project_or_asks_another_host(
    trained: Workspace, command: Command, tmp_path: Path, commands: tuple[str, ...]
) -> None:
    trained.lake.read("parcels", {}).select(trained.problem.schema.names).head(5).sink_parquet("rows.parquet")
    home, asked_for = tmp_path / "home", tmp_path / "asked"
    home.mkdir()
    (home / "sitecustomize.py").write_text(AUDIT.replace("FILE", asked_for.as_posix()), encoding="utf-8")
    variables = {name: str(home) for name in ("HOME", "USERPROFILE", "APPDATA", "LOCALAPPDATA")}
    around = variables | {"PYTHONPATH": os.pathsep.join([str(home), str(FOLDER)]), "PYTHONDONTWRITEBYTECODE": "1"}
    around |= {"MPLCONFIGDIR": str(tmp_path / "matplotlib")}  # a cache of fonts, beside which it has nothing to tell
    for words in commands:
        done = command(*words.split(), env={"XDG_CACHE_HOME": "", "XDG_CONFIG_HOME": "", "CI": ""} | around)
        assert "Traceback" not in done.stderr, done.stderr
    assert [path.relative_to(home).as_posix() for path in home.rglob("*") if path.is_file()] == ["sitecustomize.py"]
    assert set(asked_for.read_text(encoding="utf-8").split() if asked_for.exists() else []) <= {
        "127.0.0.1",
        "localhost",
    }


AUDIT = """
import sys

def note(event, arguments):
    if event in {"socket.getaddrinfo", "socket.gethostbyname"}:
        with open("FILE", "a", encoding="utf-8") as file:
            print(arguments[0], file=file)

sys.addaudithook(note)
"""


@pytest.mark.parametrize("name", ["a [b]^"] if os.name == "nt" else ["a [b]^", "a?b|"])
def test_a_project_lives_in_any_folder(empty: Workspace, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    root = empty.root.rename(empty.root.with_name(name))
    monkeypatch.chdir(root)
    assert asked("run", "--now", f"{START:%Y-%m-%d}").exit_code == 0
    status = json.loads(asked("status", "--json").stdout)
    assert (status["champion"], status["mismatch"]) == (1, "")
    arrived("parcels", START, START - AHEAD).write_parquet("rows.parquet")
    assert asked("predict", "rows.parquet", "--out", "answers.csv", "--now", "2024-04-01").exit_code == 0
    assert pl.read_csv("answers.csv", glob=False).height
    assert [path.name for path in root.parent.iterdir()] == [name], "nothing is written beside it"


def test_a_lake_that_is_a_file_is_one_line(empty: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("lake").write_text("a file")
    monkeypatch.setenv("ML_LAKE", "lake")
    assert complaint(asked("status")).startswith(f"table releases in the lake {empty.root / 'lake'} can't be used: ")


def test_a_wrong_setting_is_one_line(empty: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    assert empty.root == Path.cwd()
    monkeypatch.setenv("ML_CLOCK", "sun")
    told = complaint(asked("status"))
    assert told.startswith("settings (ML_... in the environment, .env, config/settings.toml): clock: ")


@pytest.mark.parametrize("variable", ["ML_LAEK", "ml_lak"])
@pytest.mark.parametrize("place", ["environment", ".env", "config/settings.toml"])
def test_an_unknown_setting_is_one_line_with_the_nearest_one(
    empty: Workspace, monkeypatch: pytest.MonkeyPatch, place: str, variable: str
) -> None:
    name = variable.lower().removeprefix("ml_")
    line, nearest = (f"{variable}=x", "lake") if place == ".env" else (f'{name} = "x"', "lake")
    if place == "environment":
        monkeypatch.setenv(variable, "x")
        name, nearest = variable.upper(), "ML_LAKE"
    else:
        (empty.root / place).write_text(line, encoding="utf-8-sig")
    for command in ("status", "run"):
        told = complaint(asked(command))
        assert told.startswith("settings"), told
        assert told.endswith(f": {name} is unknown: did you mean {nearest}?")


@pytest.mark.parametrize("name", ["params", "acceptance"])
def test_an_unknown_key_is_one_line_with_the_nearest_one_whatever_the_file_begins_with(
    trained: Workspace, name: str
) -> None:
    path = trained.root / "config" / f"{name}.toml"
    text = path.read_text(encoding="utf-8")
    path.write_text(text, encoding="utf-8-sig")
    assert asked("train", "--as-of", "2024-04-01").exit_code == 0, "a byte-order mark is read over"
    path.write_text({"params": "sede = 1\n", "acceptance": "windows = 1\n"}[name] + text, encoding="utf-8-sig")
    known = {"params": "sede is unknown: did you mean seed?", "acceptance": "windows is unknown: did you mean window?"}
    assert complaint(asked("train", "--as-of", "2024-04-01")) == f"{path}: {known[name]}"


@pytest.mark.parametrize(
    ("column", "reason"),
    [
        ("Unnamed: 0", "column Unnamed: 0 is an index of pandas: write the file with index=False"),
        ("__index_level_0__", "column __index_level_0__ is an index of pandas: write the file with index=False"),
        ("city", "column city occurs more than once"),
        ("", ""),
    ],
    ids=["CSV of pandas", "Parquet of pandas", "a column twice", "a byte-order mark"],
)
@pytest.mark.usefixtures("trained")
def test_what_tools_write_is_taken_or_named(column: str, reason: str) -> None:
    head, *lines = arrived("parcels", START + AHEAD, START).write_csv().splitlines()
    more = [f"{head},{column}", *(f"{line},x" for line in lines)] if column else [head, *lines]
    Path("more.csv").write_text("\n".join(more), encoding="utf-8-sig")
    done = asked("check", "more.csv", "--table", "parcels")
    assert (done.exit_code, reason in done.stderr) == (1 if reason else 0, True), done.stderr


@pytest.mark.usefixtures("trained")
def test_a_categorical_of_pandas_is_text() -> None:
    arrived("parcels", START + AHEAD, START).cast({"courier": pl.Categorical}).write_parquet(PARCELS)
    done = asked("check", PARCELS, "--table", "parcels")
    assert done.exit_code == 0, done.stderr


@pytest.mark.parametrize("blank", ["", "  ", "\t"])
@pytest.mark.parametrize("kind", ["csv", "parquet", "jsonl"])
def test_blank_text_is_missing_in_batches_and_predictions(trained: Workspace, kind: str, blank: str) -> None:
    rows = arrived("parcels", START + AHEAD, START).with_columns(
        courier=pl.when(pl.int_range(pl.len()) > 0).then("courier").otherwise(pl.lit(blank))
    )
    rows = rows.cast({"weight": pl.String}).with_columns(weight=pl.lit(blank)) if kind == "csv" else rows
    file = trained.root / f"more.{kind}"
    {
        "csv": lambda: rows.write_csv(file, quote_style="always"),
        "parquet": lambda: rows.write_parquet(file),
        "jsonl": lambda: rows.cast({"due": pl.String, "ordered": pl.String}).write_ndjson(file),
    }[kind]()
    checked = asked("check", file.name, "--table", "parcels")
    assert (checked.exit_code, "courier is not null (1)" in checked.stderr) == (1, True), checked.stderr
    predicted = asked("predict", file.name, "--out", "answers.parquet", "--now", "2024-04-01")
    answers = pl.read_parquet("answers.parquet")
    assert (predicted.exit_code, answers["error"].drop_nulls().to_list()) == (1, ["courier is not null"]), (
        predicted.stderr
    )
    assert answers["probability"].null_count() == 1


NOTHING = {
    "monitor": "champion",
    "labels export": "champion, which margin needs,",
    "train": "label in table arrivals",
    "gate": "challenger",
    "promote": "challenger",
    "rollback": "champion",
    "simulate": "label in table arrivals",
    "predict x.csv": "champion",
    "explain 1": "champion",
    "reproduce": "run",
    "reproduce abc": "run",
    "tune": "label in table arrivals",
    "report --html pages": "champion",
}
FIRST = {"run", "status", "check", "ingest", "data dictionary", "data erase", "init", "labels import", "serve", "runs"}


def test_each_command_needs_something_or_comes_first() -> None:
    needing = {name for name in COMMANDS if any(line.startswith(name) for line in NOTHING)}
    assert needing | FIRST == set(COMMANDS)
    assert not needing & (FIRST - {"runs"}), "run is the beginning of runs"


@pytest.mark.parametrize("line", NOTHING)
def test_in_a_fresh_clone_a_command_says_what_there_is_none_of(empty: Workspace, line: str) -> None:
    told = complaint(asked(*line.split()), status=1)
    assert told == f"there is no {NOTHING[line]} yet: call run, or set ML_LAKE and ML_TRACKING to the team's"
    assert not (empty.root / "data" / "lake").exists()


def test_in_a_fresh_clone_the_status_says_what_to_do_next(empty: Workspace) -> None:
    done = asked("status")
    assert (done.exit_code, done.stderr.splitlines()[-1].split()) == (0, ["next", "run"])
    assert (asked("runs").exit_code, asked("runs").stderr) == (0, "no runs yet: call run or an experiment\n")
    assert not (empty.root / "data" / "lake").exists()


@pytest.mark.parametrize("command", ["gate", "promote"])
def test_without_a_challenger_the_champion_is_not_judged_against_itself(trained: Workspace, command: str) -> None:
    before = trained.lake.version("releases"), trained.lake.version("decisions")
    told = complaint(asked(command), status=1)
    assert told == "there is no challenger: version 1 is released already; train another one first"
    assert before == (trained.lake.version("releases"), trained.lake.version("decisions"))


def test_outside_of_a_project_one_line_says_where_to_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for words in ((), ("status",), ("run",)):
        told = complaint(asked(*words))
        assert told == f"no config/params.toml in {tmp_path} or above: run this inside the project's folder"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", COMMANDS)
def test_while_a_command_writes_only_those_that_read_work(
    empty: Workspace, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """That holds for another process too: the lock is the operating system's."""
    monkeypatch.setattr(COMMANDS[name], "callback", lambda *_, **__: "done")
    needed = {"check": "x.csv", "predict": "x.csv", "explain": "1", "data erase": "1 --yes", "labels import": "x.json"}
    needed["init"] = "x.csv --target y"
    words = needed[name].split() if name in needed else []
    with empty.exclusive_lock():
        result = asked(*name.split(), *words)
    if name in WRITING:
        lock = empty.root / "data" / ".lock"
        line = f"another command of this project is running and holds the lock {lock}: try again when it has finished"
        assert complaint(result) == line
    else:
        assert (result.exit_code, result.stderr) == (0, "done\n")
    assert asked(*name.split(), *words).exit_code == 0


def test_a_server_that_does_not_answer_is_one_line(trained: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
    monkeypatch.setenv("ML_TRACKING", address)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    before = trained.lake.version("releases")
    for command in ("run", "gate", "promote"):
        options = [] if command == "gate" else ["--now", "2024-04-01"]
        told = complaint(asked(command, *options))
        assert told.startswith(f"MLflow at {address} failed: [")
        assert told.endswith("refused; see the setting ML_TRACKING") or sys.platform == "win32"
    assert asked("explain", "1000").exit_code == 0
    assert trained.lake.version("releases") == before


class Refusal(BaseHTTPRequestHandler):
    """Answers each request with an error."""

    status, body = HTTPStatus.FORBIDDEN, b""

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    do_POST = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


class Overload(Refusal):
    status = HTTPStatus.SERVICE_UNAVAILABLE


class Denial(Refusal):
    body = b'<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code><Message>not your bucket</Message></Error>'


class DenialInJson(Refusal):
    body = b'{\n "error": {"code": 403, "message": "not your bucket"}}'


@contextmanager
def answering(handler: type[Refusal]) -> Iterator[str]:
    """The address of a server, without its scheme."""
    server = HTTPServer(("127.0.0.1", 0), handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("handler", "cause"),
    [
        (Refusal, "403 Forbidden"),
        (Denial, "403 Forbidden: not your bucket"),
        (DenialInJson, "403 Forbidden"),
    ],
)
def test_an_object_storage_that_refuses_is_one_line_with_its_reason_and_the_setting(
    empty: Workspace, command: Command, handler: type[Refusal], cause: str
) -> None:
    assert empty.root == Path.cwd()
    around = {"ML_LAKE": "s3://bucket/lake", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    around |= {"AWS_REGION": "x", "AWS_ALLOW_HTTP": "true", "AWS_EC2_METADATA_DISABLED": "true"}
    with answering(handler) as server:
        done = command("status", env=around | {"AWS_ENDPOINT_URL": f"http://{server}"})
    assert (done.returncode, done.stderr) == (
        2,
        (
            f"{NAME}: table releases in the lake s3://bucket/lake can't be used: Generic S3 error: {cause}; "
            "see the setting ML_LAKE and the credentials in the environment or .env\n"
        ),
    )


@pytest.mark.parametrize(
    ("scheme", "handler", "cause"),
    [
        ("http", Refusal, "failed with error code 403"),
        ("http", Overload, "too many 503 error responses"),
        ("https", Refusal, "SSL"),
        ("http", None, "Name or service not known"),
    ],
    ids=["forbidden", "overload", "TLS", "DNS"],
)
@pytest.mark.usefixtures("trained")
def test_training_says_why_tracking_fails_before_it_fits(
    monkeypatch: pytest.MonkeyPatch,
    scheme: str,
    handler: type[Refusal] | None,
    cause: str,
) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    def fit(*_: object, **__: object) -> None:
        pytest.fail("it fits first")

    if not handler:
        monkeypatch.setattr(socket, "getaddrinfo", unknown)
    monkeypatch.setattr(training, "fit", fit)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1" if handler is Overload else "0")
    with answering(handler or Refusal) as server:
        address = f"{scheme}://{server}"
        monkeypatch.setenv("ML_TRACKING", address)
        told = complaint(asked("train", "--as-of", "2024-04-01"))
    assert told.startswith(f"MLflow at {address} failed: ")
    assert cause in told
    assert "Max retries" not in told
    assert told.endswith("; see the setting ML_TRACKING")


def test_without_git_a_challenger_is_trained_and_its_commit_is_empty(
    tracked, trained: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    (trained.root / "config" / "params.toml").write_text("seed = 3\n")
    monkeypatch.setenv("PATH", str(trained.root / "nothing"))
    result = asked("train", "--as-of", "2024-04-01", "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["version"] == 2
    assert tracked.tags(trained.registry, told["run_id"])["commit"] == ""
    assert tracked.tags(trained.registry, told["run_id"])["as_of"] == START.isoformat()
    assert asked("run", "--now", "2024-04-01").exit_code == 0
    judged = trained.registry.version_by_alias(CHALLENGER)
    assert judged is not None
    assert tracked.version_tags(trained.registry, judged).get("verdict") == "rejected"
    assert asked("gate").exit_code == 1
    assert gate.challenger(trained).number == 2


# as a process


def test_the_module_is_the_console_script(
    empty: Workspace, script: Callable[..., object], capsys: pytest.CaptureFixture[str]
) -> None:
    assert empty.root == Path.cwd()
    assert script("status", "--json") == 0
    assert json.loads(capsys.readouterr().out)["next"] == "run"
    assert logging.getLogger(PACKAGE).level == logging.INFO
    assert script("--help") == 0
    assert capsys.readouterr().out.startswith(f"Usage: {NAME} ")


def test_what_is_stopped_says_how_to_go_on(
    empty: Workspace,
    script: Callable[..., object],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(lifecycle, "run", stop)
    assert script("run") == 1
    told = capsys.readouterr()
    assert (told.out, told.err.strip()) == ("", f"{NAME}: stopped; call it again to resume")
    with empty.exclusive_lock():
        pass


def test_progress_goes_to_stderr_and_the_answer_to_stdout(
    trained: Workspace, command: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    done = command("run", "--now", "2024-04-01", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["champion"] == 1
    assert done.stderr.splitlines() == [
        "collect   since 2024-04-01 00:00",
        "ingest    the inbox",
        "monitor   the champion and the data",
        "predict   upcoming rows",
    ]
    assert trained.lake.version("releases") == 0


@pytest.mark.usefixtures("trained")
def test_progress_is_json_by_a_setting(command: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = command("run", "--now", "2024-04-01", "--json", env={"ML_LOG_FORMAT": "json"})
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["message"].split()[0] for line in lines] == ["collect", "ingest", "monitor", "predict"]
    assert {line["level"] for line in lines} == {"INFO"}


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
def test_an_interrupted_run_ends_without_a_traceback_and_the_next_one_works(empty: Workspace) -> None:
    line = [sys.executable, "-m", "console", "run", "--now", "2024-04-01"]
    around = os.environ | {"PYTHONPATH": str(Path(problems.__file__).parent)}
    with subprocess.Popen(line, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=around) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "collect   since the beginning\n"
        process.send_signal(signal.SIGINT)
        told, answer = process.stderr.read(), process.communicate()[0]
    assert process.returncode == 1
    assert "Traceback" not in told
    assert told.splitlines()[-1] == f"{NAME}: stopped; call it again to resume"
    assert answer == ""
    assert lifecycle.collect_and_ingest(empty, START).ok
    observed = empty.lake.read("traffic", {}).collect()["observed"]
    assert sorted(observed) == sorted(arrived("traffic", START)["observed"])
    with empty.exclusive_lock():
        pass


def test_a_function_becomes_a_command(empty: Workspace) -> None:
    @cli.command(section="Mine")
    @click.option("--until", help="Until when.")
    def bring(workspace: Workspace, *, until: str) -> str:
        """Bring it in."""
        return f"{workspace.root.name} until {until}"

    try:
        assert asked("bring", "--until", "noon").stderr == "project until noon\n"
        assert asked("bring", "--until", "noon", "--json").stdout == '"project until noon"\n'
        assert re.search(r"^Mine:\n  bring +Bring it in\.$", asked("--help").stdout, re.MULTILINE)
        assert asked("bring", "--help").stdout.startswith(f"Usage: {NAME} bring [OPTIONS]\n\n  Bring it in.\n")
    finally:
        cli.commands.pop("bring")
    assert not (empty.root / "data" / ".lock").exists()


def test_a_command_finds_secrets_of_dotenv_in_the_environment(
    empty: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", os.environ.copy())
    (empty.root / ".env").write_text("AWS_SECRET_ACCESS_KEY=ours\n")
    monkeypatch.setattr(lifecycle, "run", lambda *_, **__: os.environ["AWS_SECRET_ACCESS_KEY"])
    assert asked("run").stderr == "ours\n"


def test_the_data_dictionary_is_written_beside_the_pages(empty: Workspace) -> None:
    page = empty.root / "docs" / "data-dictionary.md"
    told = json.loads(asked("data", "dictionary", "--json").stdout)
    assert told == {"file": str(page), "tables": ["parcels", "traffic", "arrivals"]}
    assert page.read_text(encoding="utf-8").endswith(data_dictionary(empty.problem.tables))
