"""The verdict on a challenger: thresholds, baselines, champion, slices; each answer has its reason."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from {{cookiecutter.__package_name}}.shared import BadInput, evaluation, training
from {{cookiecutter.__package_name}}.shared.evaluation import Answers, by_slice, gain, losses, metrics
from {{cookiecutter.__package_name}}.shared.registry import CHALLENGER, Version
from {{cookiecutter.__package_name}}.shared.release import Release
from {{cookiecutter.__package_name}}.shared.schema import KNOWN, Task
from {{cookiecutter.__package_name}}.shared.settings import Acceptance
from {{cookiecutter.__package_name}}.shared.workspace import Workspace

CANARY = "canary"  # the tag of a version that says why it was refused there, empty where it was not
SOMETIMES = {Task.BINARY: ("auc",), Task.MULTICLASS: (), Task.REGRESSION: ("r2",)}  # metrics that need two values


@dataclass(frozen=True)
class Check:
    """One question of the gate.

    Attributes:
        name: What is asked.
        passed: Whether the answer is yes.
        detail: The figures behind it.
        part: Whether it is asked of a slice, not of all rows.
    """

    name: str
    passed: bool
    detail: str
    part: bool = False

    def __str__(self) -> str:
        """One line for people."""
        return f"{'yes' if self.passed else 'NO '}  {self.name}: {self.detail}"


@dataclass(frozen=True)
class Verdict:
    """The answers for one challenger.

    Attributes:
        version: The challenger's.
        champion: The version that it was compared with.
        checks: Each question with its answer.
    """

    version: int
    champion: int | None
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether every answer is yes."""
        return all(check.passed for check in self.checks)

    def __str__(self) -> str:
        """The verdict for people, its reasons first where it is no."""
        shown = [check for check in self.checks if not check.passed]
        shown += [check for check in self.checks if check.passed and not check.part]
        parts = [check for check in self.checks if check.part]
        good = sum(check.passed for check in parts)
        lines = [f"version {self.version} {'passes' if self.ok else 'is refused'}", *(f"  {c}" for c in shown)]
        return "\n".join([*lines, f"  {good} of {len(parts)} answers on slices are yes"] if parts else lines)


def challenger(workspace: Workspace, version: int | None = None) -> Version:
    """The version to judge: the given one, or what the alias names.

    Raises:
        BadInput: There is none.
    """
    found = workspace.registry.aliased(CHALLENGER) if version is None else workspace.registry.version(version)
    if found is None:
        msg = "there is no challenger: train one first" if version is None else f"there is no version {version}"
        raise BadInput(msg)
    return found


def judge(workspace: Workspace, *, version: int | None = None) -> Verdict:
    """Ask every question about a challenger, and recall what the canary said; the answers are kept with the version.

    Raises:
        BadInput: There is no challenger, or no such version.
    """
    found = challenger(workspace, version)
    verdict = asked(workspace, found)
    if refused := workspace.registry.said(found).get(CANARY, ""):
        said = Check("canary, when promote asked it", passed=False, detail=refused)
        verdict = replace(verdict, checks=(*verdict.checks, said))
    keep(workspace, found, verdict, canary=refused)
    return verdict


def asked(workspace: Workspace, found: Version) -> Verdict:
    """The answers for one challenger, from the evidence of its run."""
    champion = workspace.releases.champion()
    rows = training.evidence_rows(workspace.registry, found.run_id)
    classes = json.loads(workspace.registry.tags(found.run_id)["classes"])
    checks = tuple(_checks(workspace, rows, classes, champion, seed=found.number))
    return Verdict(found.number, champion.version if champion else None, checks)


def keep(workspace: Workspace, version: Version, verdict: Verdict, *, canary: str = "") -> None:
    """Keep a verdict with its version, and why the canary refuses it, if so; what served keeps the one that let it."""
    if version.number not in workspace.releases.versions():
        answer, reasons = "passed" if verdict.ok else "refused", "\n".join(map(str, verdict.checks))
        workspace.registry.tag(version, {"verdict": answer, "reasons": reasons, CANARY: canary})


def _checks(
    workspace: Workspace, rows: pl.DataFrame, classes: list[str], champion: Release | None, *, seed: int
) -> Iterator[Check]:
    problem, ask = workspace.problem, workspace.acceptance

    def answers(model: str) -> Answers:
        return training.evidence(problem, rows, model, classes)

    model = answers("model")
    numbers = bool(np.isfinite(model.prediction).all())
    yield Check("predictions are numbers", numbers, f"{len(rows)} rows")
    if not numbers:  # nothing else can be asked
        return
    figures = metrics(model, ask.decision)
    _require_known(ask, {*figures, *SOMETIMES[problem.task]})
    yield from limits("", figures, ask.at_least, ask.at_most)
    days, rng = evaluation.days(problem, rows), np.random.default_rng(seed)
    for name in ("dummy", "linear"):
        better = gain(losses(model), losses(answers(name)), days, confidence=ask.confidence, rng=rng)
        yield Check(f"better than {name}", better.mean > 0, f"loss lower by {better}")
    if champion is not None:
        yield _beats(workspace, rows, model, champion, rng)
    named = (*ask.slices.columns, *ask.groups.columns)
    if unknown := [column for column in named if column not in rows.columns]:
        raise BadInput(f"config/acceptance.toml names slices of {', '.join(unknown)}: no such column or feature")
    for part in by_slice(model, rows, ask.slices.columns, ask.decision, at_least=ask.slices.rows):
        name = f"{part.column} {part.value} ({part.rows} rows), "
        yield from limits(name, part.metrics, ask.slices.at_least, ask.slices.at_most)
    yield from _gaps(workspace, rows, model)


def _require_known(ask: Acceptance, names: set[str]) -> None:
    limited = (ask.at_least, ask.at_most, ask.slices.at_least, ask.slices.at_most, ask.groups.gap)
    if unknown := sorted({name for limits in limited for name in limits} - names):
        known = ", ".join(sorted(names))
        raise BadInput(f"config/acceptance.toml asks for {', '.join(unknown)}: the metrics here are {known}")


def _gaps(workspace: Workspace, rows: pl.DataFrame, model: Answers) -> Iterator[Check]:
    """Ask whether a group is served much worse than another."""
    ask = workspace.acceptance
    for column in ask.groups.columns:
        parts = by_slice(model, rows, [column], ask.decision, at_least=ask.groups.rows)
        for metric, limit in ask.groups.gap.items():
            values = sorted((part.metrics[metric], part.value) for part in parts if metric in part.metrics)
            if len(values) < 2:  # noqa: PLR2004 - a gap is between two
                continue
            (low, first), (high, last) = values[0], values[-1]
            detail = f"{high - low:.4f}, from {low:.4f} ({first}) to {high:.4f} ({last})"
            yield Check(f"{column}: {metric} differs by at most {limit}", high - low <= limit, detail, part=True)


def limits(
    name: str, figures: dict[str, float], at_least: dict[str, float], at_most: dict[str, float]
) -> Iterator[Check]:
    """Whether figures keep their limits; a figure that is not there does not."""
    for metric, limit in at_least.items():
        value = figures.get(metric, float("nan"))
        yield Check(f"{name}{metric} at least {limit}", value >= limit, f"{value:.4f}", part=bool(name))
    for metric, limit in at_most.items():
        value = figures.get(metric, float("nan"))
        yield Check(f"{name}{metric} at most {limit}", value <= limit, f"{value:.4f}", part=bool(name))


def _beats(
    workspace: Workspace, rows: pl.DataFrame, model: Answers, champion: Release, rng: np.random.Generator
) -> Check:
    """Compare on the rows whose labels are newer than what the champion was trained on."""
    name, ask = f"better than champion, version {champion.version}", workspace.acceptance
    if missing := [feature for feature in champion.features if feature not in rows.columns]:
        return Check(name, passed=False, detail=f"features.build no longer gives it {', '.join(missing)}: keep them")
    fresh = (rows[KNOWN] > champion.trained_until).to_numpy()
    if fresh.sum() < ask.window.rows:
        return Check(name, passed=False, detail=f"{fresh.sum()} labels are newer than the champion: too few to compare")
    held = rows.filter(fresh)
    theirs = evaluation.answers(workspace.problem, held, champion.predictor.predict(held), champion.classes)
    days = evaluation.days(workspace.problem, held)
    better = gain(losses(model[fresh]), losses(theirs), days, confidence=ask.confidence, rng=rng)
    figures = ", ".join(f"{metric} {value:.4f}" for metric, value in metrics(theirs, ask.decision).items())
    return Check(name, better.lower > 0, f"loss lower by {better}; on these rows it has {figures}")
