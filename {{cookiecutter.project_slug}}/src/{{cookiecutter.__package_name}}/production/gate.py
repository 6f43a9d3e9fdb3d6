"""The verdict on a challenger: thresholds, baselines, champion, slices; each answer has its reason."""

import operator
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from {{cookiecutter.__package_name}}.core.acceptance import Acceptance, Slices
from {{cookiecutter.__package_name}}.core.contracts.schema import KNOWN, Task
from {{cookiecutter.__package_name}}.core.errors import BadInput
from {{cookiecutter.__package_name}}.core.models import evaluation
from {{cookiecutter.__package_name}}.core.models.evaluation import Answers, by_slice, gain, losses, metrics
from {{cookiecutter.__package_name}}.core.parts import Check
from {{cookiecutter.__package_name}}.core.store.candidates import Candidate
from {{cookiecutter.__package_name}}.core.store.registry import CHALLENGER, Version
from {{cookiecutter.__package_name}}.core.store.releases import Release
from {{cookiecutter.__package_name}}.core.workspace import Workspace

SOMETIMES = {Task.BINARY: ("auc",), Task.MULTICLASS: (), Task.REGRESSION: ("r2",)}  # metrics that need two values


@dataclass(frozen=True)
class Verdict:
    """The answers for one challenger.

    Attributes:
        version: The challenger's.
        checks: Each question with its answer.
    """

    version: int
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


def gate(workspace: Workspace, *, version: int | None = None) -> Verdict:
    """Judge a challenger by what its training left, and record the verdict.

    Args:
        workspace: The workspace.
        version: Which one; without it, the challenger.

    Raises:
        BadInput: There is no challenger, or no such version.
    """
    found = challenger(workspace, version)
    verdict = evaluate(workspace, workspace.candidates.read(found.run_id), found.number)
    last = workspace.candidates.last_verdict(found.run_id)
    refused = last.smoke_test if last else ""
    if refused:
        said = Check("smoke test, when promote ran it", passed=False, detail=refused)
        verdict = replace(verdict, checks=(*verdict.checks, said))
    record(workspace, found, verdict, smoke_test=refused)
    return verdict


def challenger(workspace: Workspace, version: int | None = None) -> Version:
    """The version to judge: the given one, or what the alias names.

    Raises:
        BadInput: There is none.
    """
    registry = workspace.registry
    found = registry.version_by_alias(CHALLENGER) if version is None else registry.version(version)
    if found is None:
        missing = "challenger: train one first" if version is None else f"version {version}"
        raise BadInput(f"there is no {missing}")
    return found


def record(workspace: Workspace, version: Version, verdict: Verdict, *, smoke_test: str = "") -> None:
    """Record a verdict, and why the smoke test refuses it, if so; what served keeps the one that let it."""
    if version.run_id in workspace.releases.run_ids():
        return
    reasons = "\n".join(map(str, verdict.checks))
    workspace.candidates.append_verdict(version.run_id, passed=verdict.ok, reasons=reasons, smoke_test=smoke_test)
    answer = "passed" if verdict.ok else "refused"
    workspace.registry.tag(version, {"verdict": answer, "reasons": reasons, "smoke_test": smoke_test})


def evaluate(workspace: Workspace, candidate: Candidate, version: int) -> Verdict:
    """The verdict on a challenger."""
    return Verdict(version, tuple(_checks(workspace, candidate, seed=version)))


def _checks(workspace: Workspace, candidate: Candidate, *, seed: int) -> Iterator[Check]:
    problem, ask, rows = workspace.problem, workspace.acceptance, candidate.holdout
    model = candidate.answers(problem)
    numbers = bool(np.isfinite(model.prediction).all())
    yield Check("predictions are numbers", numbers, f"{len(rows)} rows")
    if not numbers:  # nothing else can be asked
        return
    figures = metrics(model, ask.decision)
    _require_known(ask, {*figures, *SOMETIMES[problem.task]})
    yield from threshold_checks("", figures, ask.at_least, ask.at_most)
    days, rng = evaluation.days(problem, rows), np.random.default_rng(seed)
    for name in ("dummy", "linear"):
        baseline = losses(candidate.answers(problem, name))
        better = gain(losses(model), baseline, days, confidence=ask.confidence, rng=rng)
        yield Check(f"better than {name}", better.mean > 0, f"loss lower by {better}")
    if champion := workspace.releases.champion():
        yield compare_with_champion(workspace, candidate, champion, rng)
    named = (*ask.slices.columns, *ask.groups.columns)
    if unknown := [column for column in named if column not in rows.columns]:
        raise BadInput(f"config/acceptance.toml names slices of {', '.join(unknown)}: no such column or feature")
    for part in by_slice(model, rows, ask.slices.columns, ask.decision, at_least=ask.slices.rows):
        name = f"{part.column} {part.value} ({part.rows} rows), "
        yield from threshold_checks(name, part.metrics, ask.slices.at_least, ask.slices.at_most)
    yield from _gaps(workspace, candidate, model)
    for check in (check for part in workspace.parts for check in part.gate_checks):
        yield from check(workspace, candidate)


def _require_known(ask: Acceptance, names: set[str]) -> None:
    limited = (ask.at_least, ask.at_most, ask.slices.at_least, ask.slices.at_most, ask.groups.gap)
    if unknown := sorted({name for limits in limited for name in limits} - names):
        known = ", ".join(sorted(names))
        raise BadInput(f"config/acceptance.toml asks for {', '.join(unknown)}: the metrics here are {known}")


def _gaps(workspace: Workspace, candidate: Candidate, model: Answers) -> Iterator[Check]:
    """Ask whether a group is served much worse than another."""
    ask = workspace.acceptance
    for column in ask.groups.columns:
        parts = by_slice(model, candidate.holdout, [column], ask.decision, at_least=ask.groups.rows)
        for metric, limit in ask.groups.gap.items():
            values = sorted((part.metrics[metric], part.value) for part in parts if metric in part.metrics)
            if len(values) < 2:  # noqa: PLR2004 - a gap is between two
                continue
            (low, first), (high, last) = values[0], values[-1]
            detail = f"{high - low:.4f}, from {low:.4f} ({first}) to {high:.4f} ({last})"
            yield Check(f"{column}: {metric} differs by at most {limit}", high - low <= limit, detail, part=True)


def threshold_checks(
    name: str, figures: dict[str, float], at_least: dict[str, float], at_most: dict[str, float]
) -> Iterator[Check]:
    """Whether figures keep their limits; a figure that is not there does not."""
    for bound, limits, keeps in (("at least", at_least, operator.ge), ("at most", at_most, operator.le)):
        for metric, limit in limits.items():
            value = figures.get(metric, float("nan"))
            yield Check(f"{name}{metric} {bound} {limit}", keeps(value, limit), f"{value:.4f}", part=bool(name))


def missed(figures: dict[str, float], ask: Acceptance | Slices) -> tuple[str, ...]:
    """The limits that figures miss."""
    return tuple(str(check) for check in threshold_checks("", figures, ask.at_least, ask.at_most) if not check.passed)


def compare_with_champion(
    workspace: Workspace, candidate: Candidate, champion: Release, rng: np.random.Generator
) -> Check:
    """Compare on the rows whose labels are newer than what the champion was trained on."""
    name, ask, problem = f"better than champion, version {champion.version}", workspace.acceptance, workspace.problem
    rows = candidate.holdout
    if missing := [feature for feature in champion.features if feature not in rows.columns]:
        return Check(name, passed=False, detail=f"features.build no longer gives it {', '.join(missing)}: keep them")
    fresh = (rows[KNOWN] > champion.trained_until).to_numpy()
    if fresh.sum() < ask.window.rows:
        return Check(name, passed=False, detail=f"{fresh.sum()} labels are newer than the champion: too few to compare")
    newer = rows.filter(fresh)
    theirs = evaluation.answers(problem, newer, champion.predictor.predict(newer), champion.classes)
    ours, days = losses(candidate.answers(problem)[fresh]), evaluation.days(problem, newer)
    better = gain(ours, losses(theirs), days, confidence=ask.confidence, rng=rng)
    figures = ", ".join(f"{metric} {value:.4f}" for metric, value in metrics(theirs, ask.decision).items())
    return Check(name, better.lower > 0, f"loss lower by {better}; on these rows it has {figures}")
