"""A new project knows where it comes from: cruft checks, compares and links it, whatever the template's address."""

import json
import os
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from baking import Project, copy_template, publish, run


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template as a bare repository, named as hosts do."""
    folder = tmp_path_factory.mktemp("hosted")
    publish(copy_template(folder / "checkout"), "This checkout", "v1.0.0")
    run("git", "clone", "--quiet", "--bare", folder / "checkout", folder / "template.git", cwd=folder)
    run("git", "update-server-info", cwd=folder / "template.git")
    return folder / "template.git"


@pytest.fixture(scope="module")
def website(template: Path) -> Iterator[str]:
    """A web server for the template, on this machine."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(template.parent))) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An ssh that runs on this machine what it should run on another."""
    script = tmp_path / "ssh"
    script.write_text('#!/bin/sh\nfor last; do :; done\nexec sh -c "$last"\n', encoding="utf-8")
    script.chmod(0o755)
    monkeypatch.setenv("GIT_SSH", str(script))
    monkeypatch.setenv("GIT_SSH_VARIANT", "simple")


def created(address: str, folder: Path, *options: str) -> tuple[Project, str]:
    """A project made on the command line in a folder, and what was said."""
    folder.mkdir(exist_ok=True)
    said = run("cookiecutter", address, "--no-input", *options, cwd=folder, env={"PWD": str(folder)}).stderr
    return Project(folder / "my-ml-project"), said


def recorded(project: Project) -> str:
    """The address in the record, which is committed."""
    assert project.git("status", "--porcelain") == ""
    address: str = json.loads(project.read(".cruft.json"))["template"]
    return address


def check(project: Project, address: str) -> None:
    """The record names the address, and cruft works with it."""
    assert recorded(project) == address
    assert "up to date" in run("cruft", "check", cwd=project.root).stdout
    assert run("cruft", "diff", "--exit-code", cwd=project.root).stdout == ""


def test_from_a_path_near_or_absolute(template: Path, tmp_path: Path) -> None:
    checkout = template.parent / "checkout"
    check(created(str(checkout), tmp_path / "absolute")[0], str(checkout))
    shutil.copytree(checkout, tmp_path / "near")
    assert recorded(created("../near", tmp_path / "relative")[0]) == str(tmp_path / "relative" / ".." / "near")
    run("cookiecutter", "near", "--no-input", "--output-dir", "other", cwd=tmp_path, env={"PWD": str(tmp_path)})
    assert recorded(Project(tmp_path / "other" / "my-ml-project")) == str(tmp_path / "near")


def test_from_a_file_address(template: Path, tmp_path: Path) -> None:
    check(created(template.as_uri(), tmp_path)[0], str(template))


def test_from_a_web_address_without_its_password(website: str, tmp_path: Path) -> None:
    address = f"http://{website}/template.git"
    check(created(address, tmp_path / "plain")[0], address)
    assert recorded(created(address.replace("//", "//me:secret@"), tmp_path / "secret")[0]) == address
    assert recorded(created(f"git+{address}", tmp_path / "marked")[0]) == address


@pytest.mark.skipif(os.name == "nt", reason="a shell script takes the place of ssh")
@pytest.mark.usefixtures("ssh")
def test_from_an_ssh_address(template: Path, tmp_path: Path) -> None:
    check(created(f"ssh://git@host{template}", tmp_path / "long")[0], f"ssh://git@host{template}")
    assert recorded(created(f"git@host:{template}", tmp_path / "short")[0]) == f"git@host:{template}"


@pytest.mark.parametrize(("short", "host"), [("gh", "github.com"), ("gl", "gitlab.com")])
def test_an_abbreviation_is_written_out(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short: str, host: str
) -> None:
    address = f"https://{host}/org/template"
    with Path(os.environ["GIT_CONFIG_GLOBAL"]).open(encoding="utf-8") as own:
        rule = f'[url "{template.as_uri()}"]\ninsteadOf = {address}.git\ninsteadOf = {address}\n'
        (tmp_path / "git").write_text(own.read() + rule, encoding="utf-8")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "git"))
    project = created(f"{short}:org/template", tmp_path / "here", "--checkout", "v1.0.0")[0]
    assert recorded(project).removesuffix(".git") == address
    assert json.loads(project.read(".cruft.json"))["checkout"] == "v1.0.0"


def test_cruft_makes_the_same_project(template: Path, tmp_path: Path) -> None:
    project = created(template.as_uri(), tmp_path)[0]
    run("cruft", "create", template.as_uri(), "--no-input", "--output-dir", tmp_path / "by-cruft", cwd=tmp_path)
    other = Project(tmp_path / "by-cruft" / project.slug)
    assert other.files == project.files
    assert all((other.root / name).read_bytes() == (project.root / name).read_bytes() for name in project.files)
    check(other, str(template))


def test_a_template_that_an_update_could_not_find_again_is_not_recorded(template: Path, tmp_path: Path) -> None:
    exported = tmp_path / "exported"
    shutil.copytree(template.parent / "checkout", exported, ignore=shutil.ignore_patterns(".git"))
    project, said = created(str(exported), tmp_path / "from-no-repository")
    assert "Note: The template's updates can't reach this project until `cruft link`" in said
    assert ".cruft.json" not in project.files
    publish(exported, "Ours")
    (exported / "hooks" / "note.txt").touch()
    project, said = created(str(exported), tmp_path / "from-changes")
    assert "changes that are not committed" in said
    assert ".cruft.json" not in project.files


def test_a_template_in_a_folder_of_another_repository(template: Path, tmp_path: Path) -> None:
    shutil.copytree(template.parent / "checkout", tmp_path / "many" / "ml", ignore=shutil.ignore_patterns(".git"))
    publish(tmp_path / "many", "Templates")
    by_folder = created(str(tmp_path / "many" / "ml"), tmp_path / "a")[0]
    check(by_folder, str(tmp_path / "many"))
    assert json.loads(by_folder.read(".cruft.json"))["directory"] == "ml"
    by_option = created(str(tmp_path / "many"), tmp_path / "b", "--directory", "ml")[0]
    assert by_option.read(".cruft.json") == by_folder.read(".cruft.json")


def test_an_existing_repository_is_linked(template: Path, tmp_path: Path) -> None:
    project = created(str(template.parent / "checkout"), tmp_path)[0]
    (project.root / ".cruft.json").unlink()
    publish(project.root, "Forget")
    run("cruft", "link", str(template), "--no-input", "--checkout", "v1.0.0", cwd=project.root)
    publish(project.root, "Link")
    check(project, str(template))
