"""The template's history as update tests need it: recorded releases but previews, this checkout, two to come."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from baking import TEMPLATE, Project, copy_template, make, publish, run

from hooks.post_gen_project import EDITOR_FILES
from tools.release import recorded

RELEASES = {f"v{version}": commit for version, commit in recorded().items()}
NOW, NEXT, LATER = "v1000.0.0", "v1001.0.0", "v1002.0.0"
PROJECT, PACKAGE = "{{cookiecutter.project_slug}}", "{{cookiecutter.__package_name}}"
# What the next release renames: the old name and the new one, below the package.
RENAMED = ("production/explain.py", "production/explanation.py")


def change(path: Path, old: str, new: str) -> None:
    """Replace a piece of text that stands in a file once."""
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{path} should hold {old!r} once"
    path.write_text(text.replace(old, new), encoding="utf-8", newline="\n")


def prepend(path: Path, line: str) -> None:
    """Put a line on top of a file."""
    path.write_text(line + path.read_text(encoding="utf-8"), encoding="utf-8", newline="\n")


def next_release(root: Path) -> None:
    """Change the template in every way that a release may."""
    project, package = root / PROJECT, root / PROJECT / "src" / PACKAGE
    pyproject = project / "pyproject.toml"
    change(pyproject, '  "ruff>=0.16",\n', '  "ruff>=0.16.0",\n')  # a tool bumped
    change(pyproject, '  "pydantic-settings>=2.14",\n', '  "packaging>=24",\n  "pydantic-settings>=2.14.0",\n')
    (project / "tools" / "added.py").write_text('"""A new file."""\n', encoding="utf-8", newline="\n")
    settings = project / EDITOR_FILES / "vscode" / ".vscode" / "settings.json"
    change(settings, '  "git.branchProtection"', '  "editor.rulers": [120],\n  "git.branchProtection"')
    change(project / EDITOR_FILES / "pycharm" / ".run" / "run.run.xml", 'value="run"', 'value="run --json"')
    (package / RENAMED[0]).rename(package / RENAMED[1])
    (project / "tests" / "test_architecture.py").unlink()
    windows, pipeline = package / "core" / "features" / "windows.py", project / ".github" / "workflows" / "ci.yml"
    for path in (package / "cli.py", windows, pipeline):
        prepend(path, "# The next release was here.\n")
    for seeded in (project / "README.md", package / "shared" / "contract.py", project / "uv.lock"):
        prepend(seeded, "# The next release has another start.\n")
    questions = json.loads((root / "cookiecutter.json").read_text(encoding="utf-8"))
    questions = {"region": ["eu", "us"], **questions}
    questions["__prompts__"]["region"] = "Where it runs"
    (root / "cookiecutter.json").write_text(json.dumps(questions, indent=2), encoding="utf-8", newline="\n")
    with (project / "CONTRIBUTING.md").open("a", encoding="utf-8", newline="\n") as page:
        page.write("\nIt runs in {{ cookiecutter.region }}.\n")
    hook = "    prune(root, unwanted(answers), restore(root))\n"
    made = '    (root / "by-the-hook.txt").write_text("A new hook was here.\\n", encoding="utf-8", newline="\\n")\n'
    change(root / "hooks" / "post_gen_project.py", hook, hook + made)


def later_release(root: Path) -> None:
    """Change again some of what the next release changed."""
    project, package = root / PROJECT, root / PROJECT / "src" / PACKAGE
    for path in (package / "cli.py", project / "tools" / "added.py"):
        prepend(path, "# And the one after.\n")
    change(project / "pyproject.toml", '  "ruff>=0.16.0",\n', '  "ruff>=0.16",\n')


def write_history(folder: Path) -> Path:
    """Make a repository with a tag for each recorded release, this checkout, and each release to come."""
    run("git", "init", "--quiet", "--initial-branch=main", folder, cwd=folder.parent)
    for tag, commit in RELEASES.items():
        run("git", "fetch", "--quiet", str(TEMPLATE), commit, cwd=folder)
        run("git", "tag", tag, commit, cwd=folder)
    if RELEASES:
        run("git", "reset", "--quiet", "--soft", list(RELEASES)[-1], cwd=folder)
    copy_template(folder)
    publish(folder, "This checkout", NOW)
    next_release(folder)
    publish(folder, "The next release", NEXT)
    later_release(folder)
    publish(folder, "The release after", LATER)
    return folder


@dataclass
class History:
    """The template with all its releases, and the projects that each makes."""

    root: Path
    folder: Path
    made: dict[str, Project] = field(default_factory=dict)

    @property
    def address(self) -> str:
        """What a user types."""
        return self.root.as_uri()

    def at(self, release: str, answers: dict[str, str] | None = None) -> Project:
        """The project that a release makes; not to be touched."""
        key = json.dumps([release, answers or {}])
        if key not in self.made:
            self.made[key] = make(self.address, self.folder / str(len(self.made)), answers or {}, checkout=release)
        return self.made[key]


def copy(project: Project, folder: Path, *depth: str) -> Project:
    """A clone of a project, which is where a user or a pipeline works."""
    folder.mkdir(parents=True, exist_ok=True)
    run("git", "clone", "--quiet", *depth, project.root.as_uri(), folder / project.slug, cwd=folder)
    return Project(folder / project.slug)
