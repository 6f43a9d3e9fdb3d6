"""Refuse answers that can't become a working project, with one line that says what to do instead.

Cookiecutter runs a rendered copy of this file before it writes anything; the standard library is all it has.
"""

import json
import keyword
import re
import shutil
import sys
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path

ANSWERS = r"""{{ cookiecutter | tojson }}"""

# Tells the hook that finishes the project which files are there already. Cookiecutter overwrites those that it does not
# render, whatever its options: they are laid aside.
BEFORE = ".template-before"
NOT_RENDERED = (".github/workflows/*", "data/example/*", "uv.lock")
LONGEST = 40
SLUG = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
OWNER = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.-]*(/[A-Za-z0-9_.-]+)*)?")
FREE_TEXT = ("project_name", "description", "author_name", "owner")
# Written apart, since Jinja renders this file too.
JINJA = ("{" + "{", "{" + "%", "{" + "#")

# Folders and modules of the generated project, and commands that a script of the same name would shadow.
OURS = frozenset(
    """
config conftest data demo dist docs lake mlruns noxfile reports setup src test tests tools
activate bash cargo conda docker git make pip pip3 pipx poetry py python python3 sh sudo uv uvx
""".split()
)
WINDOWS = frozenset(["con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))])
# What uv.lock installs, imports and puts on the path, hyphens for underscores: a test compares.
DEPENDENCIES = frozenset(
    """
activate activate-global-python-argcomplete adbc-driver-duckdb aiohappyeyeballs aiohttp aiosignal alembic annotated-doc
annotated-types anyio appnope argcomplete arro3 arro3-core arrow ast-serialize asttokens attr attrs backend-test-tools
binaryornot blinker cachetools certifi cffi cffi-gen-src cfgv charset-normalizer check-added-large-files check-ast
check-builtin-literals check-case-conflict check-docstring-first check-executables-have-shebangs check-json
check-merge-conflict check-model check-node check-shebang-scripts-are-executable check-symlinks check-toml
check-vcs-permalinks check-xml check-yaml click cloudpickle codespell codespell-lib colorama colorlog comm contourpy
cookiecutter coverage coverage3 cruft cryptography cycler databricks databricks-sdk dateutil debug-statement-hook
debugpy debugpy-adapter deltalake dependency-groups deprecated deptry destroyed-symlinks detect-aws-credentials
detect-private-key distlib dmypy docker docutils dotenv double-quote-string-fixer duckdb end-of-file-fixer execnet
executing f2py fastapi fastapi-offline fastjsonschema file-contents-sorter filelock fix-byte-order-marker flask
flask-cors flatbuffers fonttools forbid-new-submodules frozenlist git gitdb gitpython google google-auth graphene
graphql graphql-core graphql-relay grimp gunicorn gunicornc h11 harfile httpcore2 httptools httpx2 httpx2-jsfetch huey
huey-consumer humanize hypothesis hypothesis-graphql identify identify-cli idna import-linter importlib-metadata
importlinter iniconfig ipykernel ipykernel-launcher ipython ipython-pygments-lexers ipython3 itsdangerous jedi jinja2
joblib jsonschema jsonschema-rs jsonschema-specifications jupyter jupyter-client jupyter-core jupyter-execute
jupyter-kernel jupyter-kernelspec jupyter-migrate jupyter-run jupyter-troubleshoot jupyter-trust kiwisolver librt
lint-dependency-groups lint-imports loro mako mako-render marimo markdown markdown-it markdown-it-py markdown-py
markupsafe matplotlib matplotlib-inline mdformat mdformat-gfm mdit-py-plugins mdurl mixed-line-ending ml-dtypes mlflow
mlflow-skinny mlflow-tracing mpl-toolkits msgspec multidict multipart mypy mypy-extensions mypyc name-tests-test
narwhals nbclient nbformat nbstripout nest-asyncio2 no-commit-to-branch nodeenv normalizer nox numpy numpy-config onnx
onnxruntime onnxruntime-test opentelemetry opentelemetry-api opentelemetry-proto opentelemetry-sdk
opentelemetry-semantic-conventions optuna packaging pandas parso pathspec pexpect pillow pip-install-dependency-groups
platformdirs pluggy polars polars-runtime-32 pre-commit pre-commit-hooks pre-commit-hooks-removed pretty-format-json
prettytable prometheus-client prompt-toolkit propcache protobuf psutil ptyprocess pure-eval py pyarrow pyasn1
pyasn1-modules pycparser pydantic pydantic-core pydantic-settings pyftmerge pyftsubset pygmentize pygments pylab
pymdown-extensions pymdownx pyparsing pyrate-limiter pytest pytest-cov pytest-xdist python python-dateutil
python-discovery python-dotenv python-multipart python-slugify python3 pywin32 pyyaml pyzmq referencing
register-python-argcomplete requests requirements requirements-parser requirements-txt-fixer rich rpds rpds-py rst2html
rst2html4 rst2html5 rst2latex rst2man rst2odt rst2pseudoxml rst2s5 rst2xetex rst2xml ruamel ruamel-yaml ruff
schemathesis scikit-learn scipy shellingham skl2onnx sklearn skops slugify smmap sort-simple-yaml sortedcontainers
sqlalchemy sqlformat sqlparse st stack-data starlette stubgen stubtest text-unidecode threadpoolctl tomli tomlkit
tornado tox-to-nox tqdm trailing-whitespace-fixer traitlets truststore ttx typer typing-extensions typing-inspection
tzdata urllib3 uvicorn uvloop validate-pyproject virtualenv waitress wcwidth websockets werkzeug wrapt wrapt-stubs xdist
yaml yarl zipp zizmor zmq
""".split()
)


def slug_problem(slug: str) -> str | None:
    """Say why a project can't have this slug, or None if it can."""
    package = slug.replace("-", "_")
    reasons = (
        (not SLUG.fullmatch(slug), "must be small letters a to z, digits and single hyphens, a letter first"),
        (len(slug) > LONGEST, f"is {len(slug)} characters long; at most {LONGEST} fit"),
        (keyword.iskeyword(package) or keyword.issoftkeyword(package), "is a word of the Python language"),
        (package in sys.stdlib_module_names, "is a module of Python's standard library"),
        (slug in DEPENDENCIES, "is the name of something that the project installs"),
        (slug in OURS, "is a folder or a command that the project needs for something else"),
        (slug in WINDOWS, "is a name that Windows reserves"),
    )
    return next((reason for holds, reason in reasons if holds), None)


def text_problem(text: str) -> str | None:
    """Say why this free text can't be written into files, or None if it can."""
    if any(mark in text for mark in JINJA):
        return "holds a Jinja mark (a brace followed by a brace, % or #), which Cookiecutter would run at an update"
    if any(unicodedata.category(char) in {"Cc", "Cs"} and not char.isspace() for char in text):
        return "holds a control character"
    return None


def problems(answers: Mapping[str, str]) -> Iterator[str]:
    """Yield a line for each answer that can't work: the question, the value and the way out."""
    for question in FREE_TEXT:
        if problem := text_problem(answers[question]):
            yield f"{question} {problem}; please leave it out"
    if not answers["project_name"].strip():
        yield "project_name is empty; give the project a name"
    if not answers["author_name"].strip():
        yield "author_name is empty; name who holds the copyright"
    if not OWNER.fullmatch(answers["owner"]):
        yield f"owner {answers['owner']!r} is no name of an organisation or user; write it as in the address, without @"
    if problem := slug_problem(answers["project_slug"]):
        yield f"project_slug {answers['project_slug']!r} {problem}; choose another, such as project_slug=my-ml-project"


def keep_files(root: Path) -> None:
    """List the files that are in the project's folder before it is rendered, if any: they are the user's."""
    files = [path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file() or path.is_symlink()]
    if not files:
        return
    (root / BEFORE).mkdir()
    (root / BEFORE / "files").write_text("\n".join(files), encoding="utf-8", newline="\n")
    for path in (path for pattern in NOT_RENDERED for path in root.glob(pattern) if path.is_file()):
        aside = root / BEFORE / "copies" / path.relative_to(root)
        aside.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, aside)


def main(answers: Mapping[str, str]) -> int:
    """Print the first problem on stderr; 1 if there is one, else 0."""
    problem = next(problems(answers), None)
    if problem:
        print(problem.encode("ascii", "backslashreplace").decode(), file=sys.stderr)
    return 1 if problem else 0


if __name__ == "__main__":
    status = main(json.loads(ANSWERS))
    if not status:
        keep_files(Path.cwd())
    sys.exit(status)
