"""A challenger on one page, for people."""

from {{cookiecutter.__package_name}}.shared import effects, figures
from {{cookiecutter.__package_name}}.shared.candidates import Candidate
from {{cookiecutter.__package_name}}.shared.registry import Version
from {{cookiecutter.__package_name}}.shared.workspace import Workspace


def draw(workspace: Workspace, candidate: Candidate, version: Version) -> str:
    """Draw a challenger into the folder of reports and beside its run.

    Returns:
        The picture's path, from the project's folder.
    """
    problem, rows = workspace.problem, candidate.holdout
    importance = effects.importance(problem, candidate.predictor(problem), rows, candidate.classes)
    answers = {name: candidate.answers(problem, name) for name in ("model", "linear")}
    figure = figures.overview(importance, answers, workspace.acceptance.decision)
    figure.suptitle(f"version {version.number} on the {len(rows)} rows of the newest window")
    content = figures.png(figure)
    path = workspace.settings.reports / f"version-{version.number}.png"
    workspace.path(path).parent.mkdir(parents=True, exist_ok=True)
    workspace.path(path).write_bytes(content)
    with workspace.registry.reopen(version.run_id) as run:
        run.log_artifact("picture.png", content)
    return path.as_posix()
