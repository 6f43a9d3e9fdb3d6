"""A release is one that every older project can take, and pins are bumped without a network in these tests."""

import json
import re
import sys
from pathlib import Path

import pytest
from baking import TEMPLATE, Project, copy_template, publish, run
from history import RELEASES, change

from tools import bump, release

OLD = {"name": "A", "ci": ["github", "none"], "docs": True}
CHANGELOG = "# Changelog\n\n## [Unreleased]\n\n## [1.2.0] - 2026-01-02\n\n### Added\n\n- Something.\n"


@pytest.mark.parametrize(
    ("new", "complaint"),
    [
        (OLD, None),
        ({**OLD, "ci": ["none", "gitlab", "github"], "more": ""}, None),
        ({"name": "A", "docs": True, "title": "", "ci": ["github", "none"]}, None),
        ({"ci": ["github", "none"], "docs": True}, "the question name is gone"),
        ({**OLD, "ci": ["github"]}, "the choice ci=none is gone"),
        ({**OLD, "docs": ["yes", "no"]}, "the question docs has another type"),
        ({**OLD, "name": ["A", "B"]}, "the question name has another type"),
    ],
)
def test_a_question_that_older_projects_answered_stays(new: dict[str, object], complaint: str | None) -> None:
    assert list(release.lost(OLD, new)) == ([complaint] if complaint else [])


def test_every_release_can_update_to_this_checkout() -> None:
    now = release.questions((TEMPLATE / "cookiecutter.json").read_text(encoding="utf-8"))
    for commit in RELEASES.values():
        then = run("git", "show", f"{commit}:cookiecutter.json", cwd=TEMPLATE).stdout
        assert list(release.lost(release.questions(then), now)) == []


@pytest.mark.parametrize(
    ("version", "complaint"),
    [
        ("1.2.0", None),
        ("1.3.0", "CHANGELOG.md says nothing"),
        ("1.2", "no version"),
        ("v1.2.0", "no version"),
        ("", "no version"),
        ("0.9.0", "not newer than 1.0.0"),
        ("1.0.0", "not newer than 1.0.0"),
    ],
)
def test_a_release_is_newer_and_described(monkeypatch: pytest.MonkeyPatch, version: str, complaint: str | None) -> None:
    text = CHANGELOG if version != "0.9.0" else CHANGELOG.replace("1.2.0", version)
    text = text if version != "1.0.0" else CHANGELOG.replace("1.2.0", version)
    table = [{"version": older, "commit": "HEAD"} for older in ("0.10.0", "1.0.0")]
    monkeypatch.setattr(release, "rows", lambda: table)
    monkeypatch.setattr(release, "git", lambda *_: json.dumps({"project_name": "", "ci": ["github"]}))
    found = list(release.problems(version, text))
    assert len(found) == (1 if complaint else 0)
    assert all(complaint in problem for problem in found if complaint)


def test_a_recorded_row_is_read_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(release, "TABLE", tmp_path / "releases.toml")
    first, second = release.new_row("0.9.0", "a" * 40), release.new_row("0.10.0", "b" * 40)
    release.TABLE.write_text(f"# Releases\n{first}{second}", "utf-8")
    assert release.recorded() == {"0.9.0": "a" * 40, "0.10.0": "b" * 40}


def test_a_preview_is_recorded_and_no_update_starts_from_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(release, "TABLE", tmp_path / "releases.toml")
    release.TABLE.write_text(release.new_row("0.9.0", "a" * 40) + "preview = true\n", "utf-8")
    assert release.recorded() == {}
    assert "0.9.0 is not newer than 0.9.0" in list(release.problems("0.9.0", CHANGELOG))


def test_the_newest_tag_is_the_highest_version_with_the_commit_that_it_stands_for() -> None:
    rows = [("a", "v1.9.0"), ("b", "v1.10.0"), ("c", "v1.10.0^{}"), ("d", "v1"), ("e", "v2.0.0-rc1"), ("f", "v1.2.0")]
    listed = "".join(f"{letter * 40}\trefs/tags/{tag}\n" for letter, tag in rows)
    assert bump.newest_tag(listed) == ("c" * 40, "v1.10.0")


def test_pins_are_rewritten_where_they_stand() -> None:
    workflow = f"      - uses: some/action@{'a' * 40} # v1.0.0\n        run: echo some/action\n"
    after = bump.bump(workflow, bump.ACTION, lambda name: f"{name}@{'b' * 40} # v2.0.0")
    assert after == workflow.replace("a" * 40, "b" * 40).replace("v1.0.0", "v2.0.0")
    project = 'update = [\n  "cruft==2.16.0", # why\n  "ruff>=0.16",\n]\n'
    assert bump.bump(project, bump.TOOL, lambda name: f'"{name}==3"') == project.replace("2.16.0", "3")


def test_every_pin_is_found_and_this_checkout_has_those_of_projects(project: Project) -> None:
    texts = [path.read_text(encoding="utf-8") for path in (TEMPLATE / ".github" / "workflows").glob("*.yml")]
    texts += [text for name, text in project.texts.items() if name.startswith(".github/workflows/")]
    used = {line.split("uses: ")[1] for text in texts for line in text.splitlines() if "uses: " in line}
    assert all(bump.ACTION.fullmatch(line) for line in used)
    assert len({line.split("@")[0] for line in used}) == len(used)
    pins = set(re.findall(r'"(\S+==\S+)"', project.read("pyproject.toml")))
    assert pins == set(re.findall(r'"(\S+==\S+)"', (TEMPLATE / "pyproject.toml").read_text(encoding="utf-8")))


def test_packages_of_users_go_below_those_of_the_template(project: Project) -> None:
    dependencies = project.pyproject["project"]["dependencies"]
    assert dependencies != sorted(dependencies)  # else `uv add` sorts a new one in
    assert dependencies[-1] == "annotated-types>=0.7"  # an update never changes it: users' lines begin below


def test_a_release_is_tagged_and_recorded_and_one_that_loses_a_choice_is_refused(tmp_path: Path) -> None:
    folder = copy_template(tmp_path / "template")
    (folder / "releases.toml").write_text("# Releases\n", encoding="utf-8")
    for version in ("1.0.0", "1.1.0"):
        with (folder / "CHANGELOG.md").open("a", encoding="utf-8") as changelog:
            changelog.write(f"\n## [{version}] - 2026-01-02\n\n### Added\n\n- Something.\n")
    commit = publish(folder, "Prepare")
    run(sys.executable, "tools/release.py", "1.0.0", cwd=folder)
    assert run("git", "rev-parse", "v1.0.0", cwd=folder).stdout.strip() == commit
    assert run("git", "show", "HEAD:releases.toml", cwd=folder).stdout.endswith(f'commit = "{commit}"\n')
    change(folder / "cookiecutter.json", '"gitlab", ', "")
    publish(folder, "Drop GitLab")
    refused = run(sys.executable, "tools/release.py", "1.1.0", cwd=folder, check=False)
    assert refused.returncode == 1
    assert "a project of 1.0.0 can't update: the choice ci=gitlab is gone" in refused.stderr
