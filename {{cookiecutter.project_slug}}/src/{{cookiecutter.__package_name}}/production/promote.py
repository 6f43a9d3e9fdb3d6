"""Promotion: a challenger that passes the gate is refitted on all rows, tested and released."""

import json
import logging
from dataclasses import dataclass, replace
from datetime import datetime

import polars as pl

from {{cookiecutter.__package_name}}.core import datasets
from {{cookiecutter.__package_name}}.core.contracts.schema import Task
from {{cookiecutter.__package_name}}.core.errors import InputError, NothingYet, Rejected
from {{cookiecutter.__package_name}}.core.models import training
from {{cookiecutter.__package_name}}.core.models.evaluation import Floats
from {{cookiecutter.__package_name}}.core.models.predictor import model_inputs, predicted
from {{cookiecutter.__package_name}}.core.parts import Check
from {{cookiecutter.__package_name}}.core.store.candidates import Candidate
from {{cookiecutter.__package_name}}.core.store.provenance import code_hash
from {{cookiecutter.__package_name}}.core.store.registry import CHAMPION, Version
from {{cookiecutter.__package_name}}.core.store.releases import MODEL_FILE, GoldenRequests, Release
from {{cookiecutter.__package_name}}.core.workspace import Workspace
from {{cookiecutter.__package_name}}.production import model_card
from {{cookiecutter.__package_name}}.production.gate import Verdict, challenger, evaluate, record
from {{cookiecutter.__package_name}}.production.predict import features_for

log = logging.getLogger(__name__)

GOLDEN = 20


@dataclass(frozen=True)
class PromotionResult:
    """The result of a promotion.

    Attributes:
        verdict: The verdict of the gate and the smoke test.
        release: The number of the release, or None if the challenger was rejected.
        rows: The number of rows of the refit.
    """

    verdict: Verdict
    release: int | None
    rows: int = 0

    @property
    def ok(self) -> bool:
        """Whether the challenger was released."""
        return self.release is not None

    def __str__(self) -> str:
        """The result as text."""
        if self.release is None:
            return str(self.verdict)
        return f"{self.verdict}\nversion {self.verdict.version} is champion, refitted on {self.rows} rows"


def promote(
    workspace: Workspace, *, version: int | None = None, now: datetime | None = None, dirty: bool = False
) -> PromotionResult:
    """Evaluate a challenger, and release it if it passes.

    Raises:
        InputError: There is no such version.
        Rejected: There is no challenger, or as `promote_candidate`.
    """
    found = challenger(workspace, version)
    candidate = workspace.candidates.read(found.run_id)
    return promote_candidate(workspace, candidate, found, now=workspace.now(now), dirty=dirty)


def promote_candidate(
    workspace: Workspace,
    candidate: Candidate,
    version: Version,
    *,
    now: datetime,
    training_set: pl.DataFrame | None = None,
    dirty: bool = False,
    release_checks: bool = True,
) -> PromotionResult:
    """Evaluate, refit, test and release a challenger.

    Args:
        workspace: The workspace.
        candidate: The record of the challenger.
        version: Its version in the registry.
        now: The current time.
        training_set: Its training set. Default: built from the recorded table versions.
        dirty: Whether to allow a release from files that differ from the last commit.
        release_checks: Whether to run the release checks, such as the smoke test.

    Raises:
        Rejected: It was trained from uncommitted files, the code has changed, the refitted model fails its checks, or
            another release was appended concurrently.
    """
    champion = workspace.releases.champion()  # before it is compared with: a later release takes the number
    number = champion.number + 1 if champion else 1
    verdict = evaluate(workspace, candidate, version.number)
    if not verdict.ok:
        record(workspace, version, verdict)
        return PromotionResult(verdict, None)
    if candidate.dirty and not dirty:
        msg = f"version {version.number} was trained from files that differ from the last commit"
        raise Rejected(f"{msg}: commit them and train again, or release it with --dirty")
    if candidate.code != code_hash(workspace.root):
        raise Rejected(f"the code has changed since version {version.number} was trained: train again")
    if training_set is None:
        as_of, tables = candidate.as_of, candidate.tables
        training_set = datasets.training_set(workspace.problem, workspace.lake, as_of=as_of, versions=tables)
    rows = datasets.last_days(training_set, candidate.training_window_days)
    release = _refit(workspace, candidate, version, rows, number=number, now=now)
    release.check()
    checks = _release_checks(workspace, release) if release_checks else ()
    verdict = replace(verdict, checks=verdict.checks + checks)
    failure = "; ".join(f"{check.name}: {check.detail}" for check in checks if not check.passed)
    record(workspace, version, verdict, release_failure=failure)
    if not verdict.ok:
        return PromotionResult(verdict, None)
    publish(workspace, release, candidate)
    return PromotionResult(verdict, release.number, len(rows))


def _release_checks(workspace: Workspace, release: Release) -> tuple[Check, ...]:
    checks = [check for part in workspace.parts for check in part.release_checks]
    return tuple(found for check in checks for found in check(workspace, release))


def publish(workspace: Workspace, release: Release, candidate: Candidate | None = None) -> None:
    """Append a release to the lake, then synchronize MLflow.

    Raises:
        Rejected: Another release was appended concurrently.
    """
    if not workspace.releases.append(release):
        raise Rejected(f"version {release.version} is not released because of a concurrent release; try again")
    sync_registry(workspace, release, candidate)


def sync_registry(workspace: Workspace, release: Release, candidate: Candidate | None = None) -> None:
    """Log the released model, fill in the model card and data sheet, and set the alias last.

    Serving does not depend on MLflow: if MLflow is not installed or not reachable, this function logs a
    warning, and the next `run` tries again.
    """
    try:
        with workspace.registry.reopen(release.run_id) as run:
            run.log_artifact(MODEL_FILE, release.onnx)
        model_card.fill(workspace, release, candidate or workspace.candidates.read(release.run_id))
        workspace.registry.set_alias(CHAMPION, release.version)
        newest = workspace.releases.champion()
        if newest and newest.number > release.number:  # a concurrent release, whose alias may be overwritten
            sync_registry(workspace, newest)
    except (InputError, ModuleNotFoundError, OSError) as error:
        log.warning("promote   version %d serves; MLflow will be updated by the next run: %s", release.version, error)


def repair_registry(workspace: Workspace) -> None:
    """Synchronize MLflow with the newest release after an interrupted promotion or rollback."""
    champion, registry = workspace.releases.champion(), workspace.registry
    if champion is None or registry.version_by_alias(CHAMPION) == Version(champion.version, champion.run_id):
        return
    if registry.has_run(champion.run_id):  # else MLflow is not that of the lake
        sync_registry(workspace, champion)


@dataclass(frozen=True)
class RollbackResult:
    """The result of a rollback."""

    version: int
    release: int

    def __str__(self) -> str:
        """One line of text."""
        return f"version {self.version} is champion again"


def rollback(workspace: Workspace, *, now: datetime | None = None) -> RollbackResult:
    """Release the version before the champion again, byte for byte.

    Raises:
        Rejected: There is no previous version.
    """
    if not (releases := workspace.releases.newest(1000)):
        raise NothingYet("champion")
    promoted = [r.number for r in releases if r.version == releases[0].version and r.reason == "promoted"]
    before = [r for r in releases if promoted and r.number < promoted[0]]
    if not before:
        raise Rejected("there is no previous version to roll back to")
    update = {"number": releases[0].number + 1, "released": workspace.now(now), "reason": "rolled back"}
    back = before[0].model_copy(update=update)
    back.check()
    publish(workspace, back)
    return RollbackResult(back.version, back.number)


def _refit(
    workspace: Workspace, candidate: Candidate, version: Version, rows: pl.DataFrame, *, number: int, now: datetime
) -> Release:
    problem = workspace.problem
    parameters = problem.model_spec().parameters.model_validate(candidate.parameters)
    log.info("promote   refit on all rows")
    fitted = training.fit(problem, parameters, rows, parity_rows=rows.tail(20_000))
    golden = rows.tail(GOLDEN)
    inputs = model_inputs(golden, fitted.predictor.features)
    return Release(
        number=number,
        version=version.number,
        run_id=version.run_id,
        released=now,
        reason="promoted",
        trained_until=candidate.as_of,
        task=problem.task,
        features=fitted.predictor.features,
        classes=fitted.classes,
        threshold=workspace.acceptance.decision.threshold if problem.task is Task.BINARY else None,
        words=problem.words,
        reference=_reference(rows, fitted.predictor.features),
        metrics=candidate.metrics,
        parameters=parameters.model_dump(),
        tables=candidate.tables,
        golden=_golden(workspace, golden, predicted(problem.task, fitted.pipeline, inputs), candidate.as_of),
        onnx=fitted.onnx,
    )


def _reference(rows: pl.DataFrame, features: dict[str, bool]) -> dict[str, object]:
    """The reference value of each feature: the mode of text, the median of numbers."""
    return {
        name: rows[name].drop_nulls().mode().sort().first() if text else rows[name].median()
        for name, text in features.items()
    }


def _golden(workspace: Workspace, rows: pl.DataFrame, predictions: Floats, as_of: datetime) -> GoldenRequests:
    """Rows as golden requests, with their features and the predictions of the pipeline.

    Raises:
        Rejected: The features of a request differ from those of training.
    """
    requests = rows.select(name for name in workspace.problem.schema.request.names if name in rows.columns)
    features = rows.select(workspace.problem.features)
    online = features_for(workspace, requests, now=as_of)
    if skewed := [name for name in features.columns if not online[name].equals(features[name], null_equal=True)]:
        raise Rejected(f"training-serving skew: {', '.join(skewed)} of a request differ from those of training")
    requested, built = (json.loads(frame.write_json()) for frame in (requests, features))
    return GoldenRequests(requests=requested, features=built, predictions=predictions.tolist())
