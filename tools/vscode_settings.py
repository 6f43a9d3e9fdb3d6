"""Renew tests/data/vscode-settings.json, the settings that a project's recommended extensions know.

Each extension lists them in its package.json, with type, values, scope and deprecation. Install the extensions in VS
Code, then `uv run python tools/vscode_settings.py ~/.vscode/extensions`. Those of VS Code itself (extension `vscode`)
are kept as they are: take them from the page of each setting.
"""

import json
import sys
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[1] / "tests" / "data" / "vscode-settings.json"
EXTENSIONS = {
    "charliermarsh.ruff",
    "ms-python.debugpy",
    "ms-python.mypy-type-checker",
    "ms-python.python",
    "ms-python.vscode-pylance",
    "ms-python.vscode-python-envs",
    "ms-toolsai.jupyter",
}


def contributed(manifest: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The settings of an extension, by what its package.json says."""
    name = f"{manifest['publisher']}.{manifest['name']}".lower()
    sections = manifest.get("contributes", {}).get("configuration", [])
    settings = {}
    for section in sections if isinstance(sections, list) else [sections]:
        for key, said in section.get("properties", {}).items():
            row = {"ext": name, "scope": said.get("scope", "window"), "type": said.get("type")}
            row |= {"enum": said["enum"]} if "enum" in said else {}
            row |= {"deprecated": True} if {"deprecationMessage", "markdownDeprecationMessage"} & set(said) else {}
            settings[key] = row
    return settings


def renewed(known: dict[str, dict[str, Any]], folder: Path) -> dict[str, dict[str, Any]]:
    """What is known, with all settings of the extensions that a folder holds replaced by theirs."""
    manifests = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*/package.json"))]
    new = {key: row for said in manifests for key, row in contributed(said).items() if row["ext"] in EXTENSIONS}
    replaced = {row["ext"] for row in new.values()}
    return dict(sorted((new | {key: row for key, row in known.items() if row["ext"] not in replaced}).items()))


def page(settings: dict[str, dict[str, Any]]) -> str:
    """The file: a line for each setting."""
    rows = [f"{json.dumps(key)}: {json.dumps(row, sort_keys=True)}" for key, row in settings.items()]
    return "{\n" + ",\n".join(rows) + "\n}\n"


if __name__ == "__main__":
    settings = renewed(json.loads(PAGE.read_text(encoding="utf-8")), Path(sys.argv[1]).expanduser())
    PAGE.write_text(page(settings), encoding="utf-8", newline="\n")
