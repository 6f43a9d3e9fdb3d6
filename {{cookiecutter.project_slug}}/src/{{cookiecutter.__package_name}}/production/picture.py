"""A challenger on one page, for people."""

from {{cookiecutter.__package_name}}.core import plots
from {{cookiecutter.__package_name}}.core.models.importance import permutation_importance
from {{cookiecutter.__package_name}}.core.store.candidates import Candidate
from {{cookiecutter.__package_name}}.core.store.registry import Version
from {{cookiecutter.__package_name}}.core.workspace import Workspace


def draw(workspace: Workspace, candidate: Candidate, version: Version) -> str:
    """Draw a challenger into the folder of reports and beside its run.

    Returns:
        The picture's path, from the project's folder.
    """
    problem, rows = workspace.problem, candidate.holdout
    importance = permutation_importance(problem, candidate.predictor(problem), rows, candidate.classes)
    answers = {name: candidate.answers(problem, name) for name in ("model", "linear")}
    figure = plots.overview(importance, answers, workspace.acceptance.decision)
    figure.suptitle(f"version {version.number} on the {len(rows)} rows of the newest window")
    content = plots.png(figure)
    path = workspace.settings.reports / f"version-{version.number}.png"
    workspace.path(path).parent.mkdir(parents=True, exist_ok=True)
    workspace.path(path).write_bytes(content)
    with workspace.registry.reopen(version.run_id) as run:
        run.log_artifact("picture.png", content)
    return path.as_posix()
