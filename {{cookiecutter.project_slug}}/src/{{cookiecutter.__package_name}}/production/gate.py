"""The gate: checks a challenger against thresholds, baselines, the champion, slices and fairness limits."""

import operator
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from {{cookiecutter.__package_name}}.core.acceptance import Acceptance, Slices
from {{cookiecutter.__package_name}}.core.contracts.schema import AVAILABLE_AT, Task
from {{cookiecutter.__package_name}}.core.errors import InputError, NothingYet, Rejected
from {{cookiecutter.__package_name}}.core.models import evaluation
from {{cookiecutter.__package_name}}.core.models.evaluation import (
    Predictions,
    by_slice,
    compare_losses,
    losses,
    metrics,
)
from {{cookiecutter.__package_name}}.core.parts import Check
from {{cookiecutter.__package_name}}.core.store.candidates import Candidate
from {{cookiecutter.__package_name}}.core.store.registry import CHALLENGER, Version
from {{cookiecutter.__package_name}}.core.store.releases import Release
from {{cookiecutter.__package_name}}.core.workspace import Workspace

TWO_VALUE_METRICS = {
    Task.BINARY: ("auc",),
    Task.MULTICLASS: (),
    Task.REGRESSION: ("r2",),
}  # metrics that need two distinct values


@dataclass(frozen=True)
class Verdict:
    """The verdict on a challenger.

    Attributes:
        version: The version of the challenger.
        checks: The checks.
    """

    version: int
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether all checks passed."""
        return all(check.passed for check in self.checks)

    def __str__(self) -> str:
        """The verdict as text, failed checks first."""
        shown = [check for check in self.checks if not check.passed]
        shown += [check for check in self.checks if check.passed and not check.is_slice]
        parts = [check for check in self.checks if check.is_slice]
        good = sum(check.passed for check in parts)
        lines = [f"version {self.version} {'passes' if self.ok else 'is rejected'}", *(f"  {c}" for c in shown)]
        return "\n".join([*lines, f"  {good} of {len(parts)} slice checks passed"] if parts else lines)


def gate(workspace: Workspace, *, version: int | None = None) -> Verdict:
    """Evaluate a challenger from its stored record, and append the verdict.

    Args:
        workspace: The workspace.
        version: Version to evaluate. Default: the challenger.

    Raises:
        Rejected: There is no challenger.
        InputError: There is no such version.
    """
    found = challenger(workspace, version)
    verdict = evaluate(workspace, workspace.candidates.read(found.run_id), found.number)
    last = workspace.candidates.last_verdict(found.run_id)
    failure = last.release_failure if last else ""
    if failure:
        check = Check("release checks of the last promotion", passed=False, detail=failure)
        verdict = replace(verdict, checks=(*verdict.checks, check))
    record(workspace, found, verdict, release_failure=failure)
    return verdict


def challenger(workspace: Workspace, version: int | None = None) -> Version:
    """The version to evaluate: the given one, or that of the alias `challenger`.

    Raises:
        NothingYet: There is no challenger.
        Rejected: The newest challenger was released.
        InputError: There is no such version.
    """
    registry = workspace.registry
    if version is not None:
        if (found := registry.version(version)) is None:
            raise InputError(f"there is no version {version}")
        return found
    if (newest := registry.version_by_alias(CHALLENGER)) is None:
        raise NothingYet("challenger")
    if newest.run_id in workspace.releases.run_ids():
        raise Rejected(f"there is no challenger: version {newest.number} is released already; train another one first")
    return newest


def record(workspace: Workspace, version: Version, verdict: Verdict, *, release_failure: str = "") -> None:
    """Append a verdict with the release checks that failed; verdicts on released versions don't change."""
    if version.run_id in workspace.releases.run_ids():
        return
    reasons = "\n".join(map(str, verdict.checks))
    workspace.candidates.append_verdict(
        version.run_id, passed=verdict.ok, reasons=reasons, release_failure=release_failure
    )
    result = "passed" if verdict.ok else "rejected"
    workspace.registry.tag(version, {"verdict": result, "reasons": reasons, "release_failure": release_failure})


def evaluate(workspace: Workspace, candidate: Candidate, version: int) -> Verdict:
    """The verdict on a challenger."""
    return Verdict(version, tuple(_checks(workspace, candidate, seed=version)))


def _checks(workspace: Workspace, candidate: Candidate, *, seed: int) -> Iterator[Check]:
    problem, acceptance, rows = workspace.problem, workspace.acceptance, candidate.holdout
    model = candidate.holdout_predictions(problem)
    numbers = bool(np.isfinite(model.prediction).all())
    yield Check("predictions are numbers", numbers, f"{len(rows)} rows")
    if not numbers:  # nothing else can be checked
        return
    figures = metrics(model, acceptance.decision)
    _validate_metric_names(acceptance, {*figures, *TWO_VALUE_METRICS[problem.task]})
    yield from threshold_checks("", figures, acceptance.at_least, acceptance.at_most)
    days, rng = evaluation.clusters(problem, rows), np.random.default_rng(seed)
    dummy, linear = (
        compare_losses(
            losses(model),
            losses(candidate.holdout_predictions(problem, name)),
            days,
            confidence=acceptance.confidence,
            rng=rng,
        )
        for name in ("dummy", "linear")
    )
    yield Check("better than dummy", dummy.lower > 0, f"loss lower by {dummy}")
    same = "; no better than linear" if dummy.lower > 0 and linear.lower <= 0 <= linear.upper else ""
    yield Check("not worse than linear", linear.upper >= 0, f"loss lower by {linear}{same}")
    if champion := workspace.releases.champion():
        yield compare_with_champion(workspace, candidate, champion, rng)
    named = (*acceptance.slices.columns, *acceptance.fairness.columns)
    if unknown := [column for column in named if column not in rows.columns]:
        raise InputError(
            f"config/acceptance.toml names unknown columns {', '.join(unknown)} as slices: use a column or a feature"
        )
    for part in by_slice(
        model, rows, acceptance.slices.columns, acceptance.decision, at_least=acceptance.slices.min_rows
    ):
        name = f"{part.column} {part.value} ({part.rows} rows), "
        yield from threshold_checks(name, part.metrics, acceptance.slices.at_least, acceptance.slices.at_most)
    yield from _fairness_checks(workspace, candidate, model)
    for check in (check for part in workspace.parts for check in part.gate_checks):
        yield from check(workspace, candidate)


def _validate_metric_names(acceptance: Acceptance, names: set[str]) -> None:
    limited = (
        acceptance.at_least,
        acceptance.at_most,
        acceptance.slices.at_least,
        acceptance.slices.at_most,
        acceptance.fairness.max_gap,
    )
    if unknown := sorted({name for limits in limited for name in limits} - names):
        known = ", ".join(sorted(names))
        raise InputError(
            f"config/acceptance.toml names unknown metrics {', '.join(unknown)}: the metrics of this task are {known}"
        )


def _fairness_checks(workspace: Workspace, candidate: Candidate, model: Predictions) -> Iterator[Check]:
    """Check the maximum difference of metrics between groups."""
    acceptance = workspace.acceptance
    for column in acceptance.fairness.columns:
        parts = by_slice(model, candidate.holdout, [column], acceptance.decision, at_least=acceptance.fairness.min_rows)
        for metric, limit in acceptance.fairness.max_gap.items():
            values = sorted((part.metrics[metric], part.value) for part in parts if metric in part.metrics)
            if len(values) < 2:  # noqa: PLR2004 - a gap is between two
                continue
            (low, first), (high, last) = values[0], values[-1]
            detail = f"{high - low:.4f}, from {low:.4f} ({first}) to {high:.4f} ({last})"
            yield Check(f"{column}: {metric} differs by at most {limit}", high - low <= limit, detail, is_slice=True)


def threshold_checks(
    name: str, figures: dict[str, float], at_least: dict[str, float], at_most: dict[str, float]
) -> Iterator[Check]:
    """Check metrics against their limits; a missing metric fails."""
    for bound, limits, keeps in (("at least", at_least, operator.ge), ("at most", at_most, operator.le)):
        for metric, limit in limits.items():
            value = figures.get(metric, float("nan"))
            yield Check(f"{name}{metric} {bound} {limit}", keeps(value, limit), f"{value:.4f}", is_slice=bool(name))


def breached_limits(figures: dict[str, float], acceptance: Acceptance | Slices) -> tuple[str, ...]:
    """The limits that the metrics breach, one text per limit."""
    return tuple(
        str(check)
        for check in threshold_checks("", figures, acceptance.at_least, acceptance.at_most)
        if not check.passed
    )


def compare_with_champion(
    workspace: Workspace, candidate: Candidate, champion: Release, rng: np.random.Generator
) -> Check:
    """Compare a challenger with the champion on rows whose labels are newer than the champion's training."""
    name, acceptance, problem = (
        f"better than champion, version {champion.version}",
        workspace.acceptance,
        workspace.problem,
    )
    rows = candidate.holdout
    if missing := [feature for feature in champion.features if feature not in rows.columns]:
        return Check(
            name, passed=False, detail=f"features.build no longer returns its features {', '.join(missing)}: keep them"
        )
    fresh = (rows[AVAILABLE_AT] > champion.trained_until).to_numpy()
    if fresh.sum() < acceptance.window.min_rows:
        return Check(name, passed=False, detail=f"{fresh.sum()} labels are newer than the champion: too few to compare")
    newer = rows.filter(fresh)
    theirs = evaluation.labelled_predictions(problem, newer, champion.predictor.predict(newer), champion.classes)
    ours, days = losses(candidate.holdout_predictions(problem)[fresh]), evaluation.clusters(problem, newer)
    better = compare_losses(ours, losses(theirs), days, confidence=acceptance.confidence, rng=rng)
    figures = ", ".join(f"{metric} {value:.4f}" for metric, value in metrics(theirs, acceptance.decision).items())
    return Check(name, better.lower > 0, f"loss lower by {better}; champion on these rows: {figures}")
