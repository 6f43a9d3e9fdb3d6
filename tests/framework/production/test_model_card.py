"""Model card and data sheet: the figures are the run's and the tables', and nothing else of the pages is touched."""

import re
from pathlib import Path

import polars as pl
import pytest

from my_ml_project.core.contracts.schema import TARGET
from my_ml_project.core.store.releases import Release
from my_ml_project.core.workspace import Workspace
from my_ml_project.production import model_card, promote


def champion(workspace: Workspace) -> Release:
    release = workspace.releases.champion()
    assert release
    return release


def page(workspace: Workspace, name: str) -> str:
    return workspace.path(workspace.settings.reports / name).read_text(encoding="utf-8")


def table(text: str, first: str) -> list[list[str]]:
    """The rows of the table whose head begins like this."""
    lines = text[text.index(f"| {first}") :].partition("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if not line.startswith("| --")]


def test_every_mark_of_the_pages_is_filled_in_and_what_people_wrote_stays(trained: Workspace) -> None:
    for name in model_card.PAGES:
        written = (trained.root / "docs" / name).read_text(encoding="utf-8")
        between = [text for text in model_card.MARK.split(written)[::2] if text.strip()]
        assert len(between) > 2
        filled = page(trained, name)
        assert model_card.MARK.findall(filled) == []
        for text in between:
            assert text in filled


def test_the_figures_of_the_card_are_the_runs(tracked, trained: Workspace) -> None:
    release = champion(trained)
    metrics, tags = tracked.metrics(trained.registry, release.run_id), tracked.tags(trained.registry, release.run_id)
    card = page(trained, "model-card.md")
    head, *rows = table(card, " | model")
    assert head == ["", "model", "linear", "dummy"]
    shown = {(model, row[0]): float(value) for row in rows for model, value in zip(head[1:], row[1:], strict=True)}
    assert {name for _, name in shown} >= {"auc", "log_loss", "cost"}
    for (model, name), value in shown.items():
        assert value == pytest.approx(metrics[name if model == "model" else f"{model}.{name}"], abs=5e-5)
    assert f"| trained on | labels available by {tags['as_of'][:16].replace('T', ' ')} UTC |" in card
    assert f"| run | {release.run_id} |" in card
    assert f"{metrics['window_rows']:.0f} rows predicted" in card
    assert {row[0]: row[1] for row in table(card, "parameter")[1:]} == {
        k: str(v) for k, v in release.parameters.items()
    }


def test_the_slices_of_the_card_are_those_that_the_gate_asked_of(trained: Workspace) -> None:
    head, *rows = table(page(trained, "model-card.md"), "slice")
    release = champion(trained)
    with trained.registry._client() as client:
        reasons = client.get_model_version(trained.registry.model, str(release.version)).tags["reasons"]
    asked = dict(re.findall(r"(\w+ \w+) \(\d+ rows\), auc at least [\d.]+: ([\d.]+)", reasons))
    assert asked
    assert {row[0]: row[head.index("auc")] for row in rows} == asked


def test_the_sheet_counts_what_the_tables_had(trained: Workspace) -> None:
    head, *rows = table(page(trained, "data-sheet.md"), "table")
    versions = champion(trained).tables
    for row in rows:
        name = row[0].strip("`")
        schema = trained.problem.schemas[name]
        stored = trained.lake.scan(schema, version=versions.pop(name)).collect()
        said = dict(zip(head, row, strict=True))
        assert int(said["rows"]) == len(stored)
        edges = stored.select(pl.col(schema.time or "").min().dt.strftime("%Y-%m-%d")).item()
        assert said["from"] == edges
        missing = {f"`{name}`": stored[name].null_count() / len(stored) for name in schema.names}
        assert said["most missing"] in {"", *(f"{name}, {share:.1%}" for name, share in missing.items())}
        assert (said["most missing"] == "") == (max(missing.values()) == 0)
        assert said["most missing"].endswith(f"{max(missing.values()):.1%}" if said["most missing"] else "")
    assert versions == {}
    shares = dict(table(page(trained, "data-sheet.md"), trained.problem.target.name)[1:])
    candidate = trained.candidates.read(champion(trained).run_id)
    assert float(shares["true"]) == pytest.approx(candidate.holdout[TARGET].mean(), abs=5e-5)


def test_a_filled_page_is_kept_beside_its_run_and_a_rollback_fills_in_the_version_that_serves(
    tracked,
    trained: Workspace,
) -> None:
    release = champion(trained)
    for name in model_card.PAGES:
        assert tracked.read(trained.registry, release.run_id, name).decode() == page(trained, name)
    promote.publish(trained, release.model_copy(update={"number": 2, "reason": "rolled back"}))
    assert "rolled back" in page(trained, "model-card.md")


def test_a_page_that_was_deleted_is_not_filled_in_and_an_unknown_mark_is_named(
    trained: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    docs: Path = trained.root / "docs"
    candidate = trained.candidates.read(champion(trained).run_id)
    (docs / "data-sheet.md").unlink()
    (docs / "model-card.md").write_text("<!-- filled in: nonsense -->\n", encoding="utf-8")
    reports = trained.path(trained.settings.reports)
    (reports / "data-sheet.md").unlink()
    card = (trained.settings.reports / "model-card.md").as_posix()
    assert model_card.fill(trained, champion(trained), candidate) == [card]
    assert page(trained, "model-card.md") == "<!-- filled in: nonsense -->\n"
    assert "docs/model-card.md: unknown placeholders nonsense" in caplog.text
    (docs / "model-card.md").unlink()
    assert model_card.fill(trained, champion(trained), candidate) == []
