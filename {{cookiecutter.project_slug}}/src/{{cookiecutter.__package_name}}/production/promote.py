"""The only door to the champion: a challenger that passes the gate is refitted on everything, checked, and released."""

import json
import logging
from dataclasses import dataclass, replace
from datetime import datetime

import polars as pl

from {{cookiecutter.__package_name}}.production import cards
from {{cookiecutter.__package_name}}.production.gate import Verdict, asked, challenger, keep
from {{cookiecutter.__package_name}}.production.predict import features_for
from {{cookiecutter.__package_name}}.production.service import smoke_test
from {{cookiecutter.__package_name}}.shared import Refused, dataset, training
from {{cookiecutter.__package_name}}.shared.registry import CHAMPION, Version, code_hash
from {{cookiecutter.__package_name}}.shared.release import CARD, MODEL, Golden, Release, model_inputs
from {{cookiecutter.__package_name}}.shared.schema import Task
from {{cookiecutter.__package_name}}.shared.training import predicted
from {{cookiecutter.__package_name}}.shared.workspace import Workspace

log = logging.getLogger(__name__)

GOLDEN = 20


@dataclass(frozen=True)
class Promoted:
    """What came of asking for a promotion."""

    verdict: Verdict
    release: int | None
    rows: int = 0

    @property
    def ok(self) -> bool:
        """Whether it serves now."""
        return self.release is not None

    def __str__(self) -> str:
        """The verdict and what followed, for people."""
        if self.release is None:
            return str(self.verdict)
        return f"{self.verdict}\nversion {self.verdict.version} is champion, refitted on {self.rows} rows"


def promote(
    workspace: Workspace,
    *,
    version: int | None = None,
    now: datetime | None = None,
    dirty: bool = False,
    serves: bool = True,
) -> Promoted:
    """Judge a challenger; where it passes, refit it on everything that it could know, try it, and release it.

    Args:
        workspace: The workspace.
        version: Which one; without it, the challenger.
        now: The time it is; without it, the setting `clock` says.
        dirty: Whether it may be released from files that differ from the last commit.
        serves: Whether it is tried in a server process first.

    Raises:
        BadInput: There is no challenger, or no such version.
        Refused: It was trained from files that differ from the last commit, the code is no longer the challenger's, or
            the refitted model fails its own checks.
    """
    judged = challenger(workspace, version)
    verdict = asked(workspace, judged)
    if not verdict.ok:
        keep(workspace, judged, verdict)
        return Promoted(verdict, None)
    if workspace.registry.tags(judged.run_id)["dirty"] == "true":
        if not dirty:
            msg = f"version {judged.number} was trained from files that differ from the last commit"
            raise Refused(f"{msg}: commit them and train again, or release it with --dirty")
        workspace.registry.tag(judged, {"dirty": "true"})
    release, rows = _refitted(workspace, judged, now=workspace.now(now))
    release.check()
    tried = smoke_test.checks(workspace, release, now=release.trained_until) if serves else ()
    verdict = replace(verdict, checks=verdict.checks + tried)
    keep(workspace, judged, verdict, canary="; ".join(f"{no.name}: {no.detail}" for no in tried if not no.passed))
    if not verdict.ok:
        return Promoted(verdict, None)
    with workspace.registry.resumed(judged.run_id) as run:
        run.keep(MODEL, release.onnx)
        run.keep(CARD, release.model_dump_json().encode())
    publish(workspace, release)
    return Promoted(verdict, release.number, rows)


def publish(workspace: Workspace, release: Release) -> None:
    """Let a release serve: the alias moves first, the row follows; `repair` mends what is cut in between."""
    workspace.registry.move(CHAMPION, release.version)
    workspace.releases.append(release)
    cards.fill(workspace, release)


def repair(workspace: Workspace, *, now: datetime) -> int | None:
    """Release the version that the alias names, where the newest row is another's: its number, or none."""
    named, serving = workspace.registry.aliased(CHAMPION), workspace.releases.champion()
    if named is None or (serving is not None and serving.version == named.number):
        return None
    card, onnx = (workspace.registry.read(named.run_id, name) for name in (CARD, MODEL))
    number = serving.number + 1 if serving else 1
    reason = "rolled back" if named.number in workspace.releases.versions() else "promoted"
    release = Release.read(card, onnx, number=number, released=now, reason=reason)
    workspace.releases.append(release)
    cards.fill(workspace, release)
    log.warning("repaired  version %d is champion in the registry and serves now", named.number)
    return named.number


@dataclass(frozen=True)
class RolledBack:
    """Which version serves again."""

    version: int
    release: int

    def __str__(self) -> str:
        """One line for people."""
        return f"version {self.version} is champion again"


def rollback(workspace: Workspace, *, now: datetime | None = None) -> RolledBack:
    """Let the version before the champion serve again, byte for byte.

    Raises:
        Refused: There is none.
    """
    releases = workspace.releases.newest(1000)
    champion = releases[0] if releases else None
    promoted = next(
        (r for r in releases if champion and r.version == champion.version and r.reason == "promoted"), None
    )
    before = next((r for r in releases if promoted and r.number < promoted.number), None)
    if champion is None or before is None:
        raise Refused("there is no version before the champion's to go back to")
    update = {"number": champion.number + 1, "released": workspace.now(now), "reason": "rolled back"}
    back = before.model_copy(update=update)
    back.check()
    publish(workspace, back)
    return RolledBack(back.version, back.number)


def _refitted(workspace: Workspace, version: Version, *, now: datetime) -> tuple[Release, int]:
    problem, registry = workspace.problem, workspace.registry
    tags = registry.tags(version.run_id)
    if tags["code"] != code_hash():
        raise Refused(f"the code has changed since version {version.number} was trained: train again")
    as_of, tables = datetime.fromisoformat(tags["as_of"]), json.loads(tags["tables"])
    parameters = problem.recipe().parameters.model_validate_json(tags["parameters"])
    rows = dataset.training_set(problem, workspace.lake, as_of=as_of, versions=tables)
    rows = dataset.within(rows, int(tags["train_days"]))
    log.info("promote   refit on %d rows", len(rows))
    fitted = training.fit(problem, parameters, rows, check=rows.tail(20_000))
    champion = workspace.releases.champion()
    release = Release(
        number=champion.number + 1 if champion else 1,
        version=version.number,
        run_id=version.run_id,
        released=now,
        reason="promoted",
        trained_until=as_of,
        task=problem.task,
        features=fitted.predictor.features,
        classes=fitted.classes,
        threshold=workspace.acceptance.decision.threshold if problem.task is Task.BINARY else None,
        reference=_reference(rows, fitted.predictor.features),
        metrics=registry.metrics(version.run_id),
        parameters=parameters.model_dump(),
        tables=tables,
        golden=_golden(workspace, rows.tail(GOLDEN), fitted, as_of=as_of),
        onnx=fitted.onnx,
    )
    return release, len(rows)


def _reference(rows: pl.DataFrame, features: dict[str, bool]) -> dict[str, object]:
    """A typical value of each feature: the most frequent text, the median number."""
    return {
        name: rows[name].drop_nulls().mode().sort().first() if text else rows[name].median()
        for name, text in features.items()
    }


def _golden(workspace: Workspace, rows: pl.DataFrame, fitted: training.Fitted, *, as_of: datetime) -> Golden:
    """Rows as requests, with their features and what the pipeline itself, not its export, answers.

    Raises:
        Refused: A request's features are not those of training.
    """
    requests = rows.select(name for name in workspace.problem.schema.request.names if name in rows.columns)
    features = rows.select(list(fitted.predictor.features))
    online = features_for(workspace, requests, now=as_of)
    if skewed := [name for name in features.columns if not online[name].equals(features[name], null_equal=True)]:
        raise Refused(f"training-serving skew: {', '.join(skewed)} of a request differ from those of training")
    prediction = predicted(workspace.problem.task, fitted.pipeline, model_inputs(features, fitted.predictor.features))
    return Golden(
        requests=json.loads(requests.write_json()),
        features=json.loads(features.write_json()),
        answers=prediction.tolist(),
    )
