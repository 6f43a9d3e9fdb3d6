"""Erasing rows: gone from tables, their past, files, examples and evidence, and they don't come back."""

import contextlib
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from unittest.mock import patch

import polars as pl
import pytest
from click.testing import CliRunner

from my_ml_project import shared
from my_ml_project.cli import cli
from my_ml_project.core import datasets
from my_ml_project.core.errors import InputError, Rejected, atomic_write
from my_ml_project.core.store import erasures
from my_ml_project.core.store.files import READABLE, read_file
from my_ml_project.core.store.lake import Lake
from my_ml_project.core.store.releases import Release
from my_ml_project.core.workspace import Workspace, open_workspace
from my_ml_project.production import ingest, lifecycle, promote
from my_ml_project.production.erasure import deletion
from my_ml_project.production.erasure import erase as erasing
from my_ml_project.research.reproduce import reproduce
from problems import PROBLEM


def champion(workspace: Workspace) -> Release:
    release = workspace.releases.champion()
    assert release
    return release


@pytest.fixture
def examples(trained: Workspace) -> pl.DataFrame:
    """The keys of two golden requests, whose rows are in the evidence too."""
    key = trained.problem.schema.key
    return pl.DataFrame(champion(trained).golden.requests[:2]).select(key)


def written(keys: pl.DataFrame) -> tuple[str, ...]:
    return tuple("/".join(map(str, row)) for row in keys.rows())


def holding(folder: Path, keys: pl.DataFrame) -> list[Path]:
    """The Parquet files of a folder that have a row with one of the keys."""
    found = []
    for path in sorted(folder.rglob("*.parquet")):
        rows = pl.read_parquet(path, hive_partitioning=False)
        if set(keys.columns) <= set(rows.columns) and len(rows.join(keys, on=keys.columns, how="semi")):
            found.append(path)
    return found


def test_a_row_is_gone_from_every_table_file_example_and_evidence(trained: Workspace, examples: pl.DataFrame) -> None:
    kept = [trained.path(name) for name in ("data/lake", "data/archive")]
    assert all(holding(folder, examples) for folder in kept)
    assert not list(trained.path("mlruns").rglob("*.parquet")), "MLflow is given no rows"
    release, as_of = champion(trained), trained.now()
    before = datasets.training_set(trained.problem, trained.lake, as_of=as_of)
    done = erasing.erase(trained, written(examples))
    assert (done.keys, done.candidates, done.champion) == (2, 1, 1)
    assert done.tables[trained.problem.schema.name] == 2
    left = [path for folder in kept for path in holding(folder, examples)]
    assert [str(path) for path in left if path.parent.name != "erasures"] == []
    after = datasets.training_set(open_workspace(PROBLEM, root=trained.root).problem, trained.lake, as_of=as_of)
    assert after.select(trained.problem.schema.key).equals(
        before.join(examples, on=examples.columns, how="anti", maintain_order="left").select(trained.problem.schema.key)
    )
    shorter = champion(trained)
    assert shorter.golden.requests == release.golden.requests[2:]
    assert shorter.golden.predictions == release.golden.predictions[2:]
    assert shorter.onnx == release.onnx
    shorter.check()
    candidate = trained.candidates.read(release.run_id)
    assert len(candidate.holdout) == release.metrics["window_rows"] - 2
    assert candidate.holdout.join(examples, on=examples.columns, how="semi").is_empty()
    newest = trained.candidates.newest()
    assert newest is not None
    assert newest.model_dump().items() <= candidate.model_dump().items()


def test_a_key_that_no_table_has_is_refused(trained: Workspace) -> None:
    with pytest.raises(InputError, match=r"^no table has the key 999999999: nothing is erased$"):
        erasing.erase(trained, ("1000", "999999999"))
    assert trained.lake.version("erasures") == -1


@pytest.mark.parametrize(("answer", "erased"), [("y\n", True), ("n\n", False), ("", False)])
def test_an_erasure_is_confirmed_first(
    trained: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    answer: str,
    erased: bool,  # noqa: FBT001 - a row of the table
) -> None:
    monkeypatch.setattr(shared, "PROBLEM", PROBLEM)
    done = CliRunner().invoke(cli, ["data", "erase", "1000"], input=answer)
    assert (done.exit_code == 0, trained.lake.version("erasures") >= 0) == (erased, erased)
    assert erased or "not confirmed, so nothing was erased: --yes confirms" in done.stderr


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_a_row_is_gone_from_a_file_whatever_its_name(trained: Workspace, suffix: str) -> None:
    schema = trained.problem.schema
    rows, file = trained.lake.read(schema.name, {}).select(schema.names).head(3).collect(), Path(f"a [b]{suffix}")
    rows.write_csv(file) if suffix == ".csv" else rows.write_parquet(file)
    assert erasures.purge(file, trained.problem, rows.head(1).select(schema.key))
    assert len(pl.read_csv(file, glob=False) if suffix == ".csv" else pl.read_parquet(file, glob=False)) == 2


def test_what_was_erased_does_not_come_back_with_a_batch(trained: Workspace, examples: pl.DataFrame) -> None:
    schema = trained.problem.schema
    again = trained.lake.scan(schema).select(schema.names).join(examples.lazy(), on=schema.key, how="semi").collect()
    other = again.with_columns(pl.col(name) + 1_000_000 for name in schema.key)
    erasing.erase(trained, written(examples))
    file = trained.root / "again.parquet"
    pl.concat([again, other]).write_parquet(file)
    (batch,) = ingest.ingest(trained, file, table=schema.name, now=trained.now()).batches
    assert batch.accepted + batch.invalid == 2
    assert trained.lake.scan(schema).join(examples.lazy(), on=schema.key, how="semi").collect().is_empty()


def test_what_was_erased_does_not_come_back_into_the_archive(trained: Workspace, examples: pl.DataFrame) -> None:
    schema = trained.problem.schema
    again = trained.lake.scan(schema).select(schema.names).join(examples.lazy(), on=schema.key, how="semi").collect()
    other = again.with_columns(pl.col(name) + 1_000_000 for name in schema.key)
    erasing.erase(trained, written(examples))
    inbox, archive = trained.path(trained.settings.inbox), trained.path(trained.settings.archive)
    for name, rows in (("both", pl.concat([again, other])), ("gone", again)):
        (inbox / schema.name).mkdir(parents=True, exist_ok=True)
        rows.write_parquet(inbox / schema.name / f"{name}.parquet")
    ingest.ingest_inbox(trained, now=trained.now())
    kept = {path.name.partition("-")[0]: pl.read_parquet(path) for path in (archive / schema.name).glob("*-*.parquet")}
    assert holding(archive, examples) == []
    assert kept["both"].sort(schema.key).equals(other.sort(schema.key))
    assert "gone" not in kept
    assert not list((inbox / schema.name).iterdir())
    assert not list(ingest.lost_batches(trained, now=trained.now()))


def test_what_was_erased_does_not_come_back_into_quarantine(trained: Workspace, examples: pl.DataFrame) -> None:
    schema = trained.problem.schema
    again = trained.lake.scan(schema).select(schema.names).join(examples.lazy(), on=schema.key, how="semi").collect()
    other = again.with_columns(pl.col(name) + 1_000_000 for name in schema.key).with_columns(pl.lit(1).alias("unknown"))
    erasing.erase(trained, written(examples))
    file = trained.root / "again.parquet"
    pl.concat([again, other], how="diagonal_relaxed").write_parquet(file)
    (batch,) = ingest.ingest(trained, file, table=schema.name, now=trained.now()).batches
    assert batch.rejected
    kept = pl.read_parquet(trained.path(batch.quarantine or "") / "again.parquet")
    assert kept[schema.key[0]].to_list() == other[schema.key[0]].to_list()


def test_no_byte_of_it_is_left_below_the_lake_and_others_go_on(tmp_path: Path) -> None:
    lake, other = Lake(str(tmp_path)), Lake(str(tmp_path))
    for batch, name in enumerate(("Alice", "Bob")):
        lake.append("people", pl.DataFrame({"name": [name]}), batch=str(batch))
        assert other.version("people") >= 0
    (tmp_path / "people" / "left.parquet").write_bytes(b"Alice, by a killed append")
    os.utime(tmp_path / "people" / "left.parquet", (0, 0))
    assert deletion.delete(lake, "people", pl.DataFrame({"name": ["Alice"]})) == 1
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path for path in files if b"Alice" in path.read_bytes()] == []
    assert not other.append("people", pl.DataFrame({"name": ["Bob"]}), batch="1"), "batches are still known"
    assert other.append("people", pl.DataFrame({"name": ["Dora"]}), batch="2")
    assert sorted(lake.read("people", {}).collect()["name"]) == ["Bob", "Dora"]


def test_replays_and_drafts_are_gone_too(trained: Workspace, examples: pl.DataFrame) -> None:
    replay = trained.path("data/simulations/2024-03-01T0000-abc/archive/traffic")
    replay.mkdir(parents=True)
    with (
        contextlib.suppress(KeyboardInterrupt),
        patch.object(Path, "unlink"),  # as a killed process leaves it
        atomic_write(trained.path(trained.settings.reports) / "predicted.csv") as draft,
    ):
        examples.write_csv(draft)
        raise KeyboardInterrupt
    assert f"reports/{draft.name}" in erasing.erase(trained, written(examples)).files
    assert not trained.path("data/simulations").exists()
    assert not draft.exists()


def test_erasing_twice_is_erasing_once(trained: Workspace, examples: pl.DataFrame) -> None:
    erasing.erase(trained, written(examples))
    versions = {name: trained.lake.version(name) for name in ("candidates", "erasures", "releases")}
    again = erasing.erase(trained, written(examples))
    assert (again.tables, again.files, again.candidates) == ({}, (), 0)
    assert {name: trained.lake.version(name) for name in versions} == versions


def test_a_rollback_is_possible_after_it_though_the_tables_of_then_are_gone(
    trained: Workspace, examples: pl.DataFrame
) -> None:
    again = champion(trained).model_copy(update={"number": 2, "version": 2, "reason": "promoted"})
    trained.releases.append(again)
    erasing.erase(trained, written(examples))
    assert promote.rollback(trained).version == 1
    sheet = (trained.path(trained.settings.reports) / "data-sheet.md").read_text(encoding="utf-8")
    assert "is no longer readable" in sheet


def test_it_goes_on_where_it_was_stopped_before_the_releases(
    trained: Workspace, examples: pl.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(deletion, "replace", stopped)
        with pytest.raises(KeyboardInterrupt):
            erasing.erase(trained, written(examples))
    erasing.erase(trained, written(examples))
    release = champion(trained)
    assert len(release.golden.requests) == 18


def test_files_outside_the_project_are_written_anew_too(
    trained: Workspace, examples: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    examples.write_parquet(elsewhere / "kept.parquet")
    monkeypatch.setenv("ML_REPORTS", str(elsewhere))
    done = erasing.erase(open_workspace(PROBLEM, root=trained.root), written(examples))
    assert (elsewhere / "kept.parquet").as_posix() in done.files
    assert not (elsewhere / "kept.parquet").exists()


def test_the_next_run_goes_on_without_the_rows(trained: Workspace, examples: pl.DataFrame) -> None:
    erasing.erase(trained, written(examples))
    done = lifecycle.run(trained, now=trained.now() + timedelta(days=1))
    assert done.ok, str(done)
    assert (
        trained.lake.scan(trained.problem.labels)
        .join(examples.lazy(), on=examples.columns, how="semi")
        .collect()
        .is_empty()
    )


def test_a_run_from_before_says_why_it_cannot_be_equal(trained: Workspace, examples: pl.DataFrame) -> None:
    run = trained.registry.runs()[0]
    with trained.registry.reopen(run.id) as open_run:
        for name, value in (("commit", "a" * 40), ("dirty", "false")):
            open_run.client.set_tag(open_run.id, name, value)
    erasing.erase(trained, written(examples))
    with pytest.raises(Rejected, match=r"2 rows were erased since run \w+: it is no longer reproducible"):
        reproduce(trained, run.id)


def test_files_are_written_anew_and_one_that_cannot_be_read_is_named(
    trained: Workspace, examples: pl.DataFrame
) -> None:
    key = trained.problem.schema.key
    inbox, reports = trained.path(trained.settings.inbox), trained.path(trained.settings.reports)
    for folder in (inbox, reports):
        folder.mkdir(exist_ok=True)
    others = examples.with_columns(pl.col(key) + 1_000_000)
    rows = pl.concat([examples, others]).with_columns(pl.lit("x").alias("other"))
    rows.cast(pl.String).write_csv(reports / "predicted.csv")
    pl.DataFrame({"other": ["x"]}).write_parquet(inbox / "foreign.parquet")
    (inbox / "broken.parquet").write_bytes(b"PAR1")
    done = erasing.erase(trained, written(examples))
    assert pl.read_csv(reports / "predicted.csv").select(key).equals(others)
    assert "reports/predicted.csv" in done.files
    assert pl.read_parquet(inbox / "foreign.parquet").height == 1
    assert (inbox / "broken.parquet").read_bytes() == b"PAR1"
    (line,) = done.unchecked
    assert "broken.parquet can't be read as parquet: " in line
    assert not done.ok
    assert not list(trained.root.rglob("*.part"))


WRITERS: dict[str, Callable[[pl.DataFrame, Path], object]] = {
    ".parquet": pl.DataFrame.write_parquet,
    ".csv": lambda rows, path: rows.write_csv(path, separator=";"),
    ".tsv": lambda rows, path: rows.write_csv(path, separator="\t"),
    ".arrow": pl.DataFrame.write_ipc,
    ".feather": pl.DataFrame.write_ipc,
    ".jsonl": pl.DataFrame.write_ndjson,
    ".ndjson": pl.DataFrame.write_ndjson,
}


@pytest.mark.parametrize("suffix", READABLE)
def test_a_file_of_every_format_loses_the_rows_in_the_words_of_its_source(
    trained: Workspace, examples: pl.DataFrame, suffix: str
) -> None:
    def read(_: str, rows: pl.DataFrame) -> pl.DataFrame:
        return rows.rename({"Nr.": "parcel"}, strict=False).with_columns(
            pl.col("parcel").cast(pl.String).str.strip_prefix("#")
        )

    rows = pl.DataFrame({"Nr.": [f"#{number}" for number in (*examples["parcel"], 1_000_000)], "name": [*"abc"]})
    folders = ("inbox/parcels", "archive/parcels", "quarantine/parcels/x", "source")
    paths = [trained.root / "data" / folder / f"file{suffix}" for folder in folders]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        WRITERS[suffix](rows, path)
        os.utime(path, (1_000_000_000, 1_000_000_000))
    done = erasing.erase(replace(trained, problem=replace(trained.problem, read=read)), written(examples))
    assert done.ok, str(done)
    assert set(done.files) >= {path.relative_to(trained.root).as_posix() for path in paths}
    assert all(read_file(path)[1].equals(rows.tail(1)) for path in paths)
    assert {path.stat().st_mtime for path in paths} == {1_000_000_000}, "they are not collected again"


def test_a_batch_of_erased_rows_alone_is_not_lost(trained: Workspace) -> None:
    (path,) = trained.path(trained.settings.archive).glob("parcels/*.parquet")
    only = path.with_name("only.parquet")
    rows = pl.read_parquet(path).with_columns(parcel=pl.lit(1_000_000)).head(1)
    rows.write_parquet(only)
    lifecycle_batch = ingest.ingest_file(trained, only, now=trained.now())
    only.rename(only.with_name(f"only-{lifecycle_batch.id[:8]}.parquet"))
    assert erasing.erase(trained, ("1000000",)).ok
    assert not list(ingest.lost_batches(trained, now=trained.now()))


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("data/inbox/parcels.xlsx", "PK", "can't be searched for erased rows: delete it"),
        ("data/inbox/parcels.csv.part", "parcel", "can't be searched for erased rows: delete it"),
        (
            "data/quarantine/parcels/x/parcels.csv",
            "number\n1\n",
            "can't be checked for erased rows: it lacks parcel; delete it",
        ),
        ("data/archive/parcels/parcels.parquet", "PAR1", "can't be read as parquet: "),
        ("reports/tasks.json", '[{"parcel": KEY}]', "contains KEY: delete it"),
        ("data/before-init-20260101T000000/x", "", "has the data from before init: delete it"),
    ],
)
def test_a_file_that_may_still_have_the_rows_is_named(
    trained: Workspace, monkeypatch: pytest.MonkeyPatch, name: str, content: str, reason: str
) -> None:
    monkeypatch.setattr(shared, "PROBLEM", PROBLEM)
    (trained.root / name).parent.mkdir(parents=True, exist_ok=True)
    (trained.root / name).write_text(content.replace("KEY", "1000"), encoding="utf-8")
    done = CliRunner().invoke(cli, ["data", "erase", "--yes", "1000"])
    assert done.exit_code == 1
    assert reason.replace("KEY", "1000") in done.stderr.splitlines()[-1]
    for other in ("reports/1.json", "reports/plot.png", "data/inbox/.hidden", "data/quarantine/parcels/x/reasons.json"):
        (trained.root / other).parent.mkdir(parents=True, exist_ok=True)
        (trained.root / other).write_text("{10001, 1, 21000}", encoding="utf-8")
    (trained.root / name).unlink()
    shutil.rmtree(trained.root / "data/before-init-20260101T000000", ignore_errors=True)
    assert CliRunner().invoke(cli, ["data", "erase", "--yes", "1000"]).exit_code == 0


@pytest.mark.parametrize("key", ["no number", "1/2", "/"])
def test_a_key_that_none_can_be_is_bad_input_and_nothing_is_recorded(trained: Workspace, key: str) -> None:
    with pytest.raises(InputError, match=r"^parcels has no row with such a key: |^the key of parcels is parcel, not "):
        erasing.erase(trained, (key,))
    assert trained.lake.version("erasures") == -1


def test_versions_from_then_on_can_be_read(trained: Workspace, examples: pl.DataFrame) -> None:
    erasing.erase(trained, written(examples))
    name = trained.problem.schema.name
    version = trained.lake.version(name)
    read = Lake(trained.lake.url).scan(trained.problem.schema, version=version).collect()
    assert read.join(examples, on=examples.columns, how="semi").is_empty()
    assert len(read) > 0
