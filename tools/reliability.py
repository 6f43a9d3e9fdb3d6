"""Count what a generated project survives, and write docs/reference/reliability.md: `uvx nox -s reliability`."""

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parents[1]
PAGE = HERE / "docs" / "reference" / "reliability.md"
SLUG = "my-ml-project"
SINGLE, TWENTY = 3, 20  # kills in the default tests, and in the slow one


def measure(folder: Path) -> dict[str, Any]:
    """Make a project, and plant everything in it."""
    command = ["cookiecutter", str(HERE), "--no-input", "--default-config", "--output-dir", str(folder)]
    subprocess.run(command, check=True)
    project = folder / SLUG
    subprocess.run(["uv", "sync", "--quiet"], cwd=project, check=True)
    script = str(HERE / "tools" / "reliability_project.py")
    done = subprocess.run(["uv", "run", "python", script], cwd=project, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def page(found: dict[str, Any]) -> str:
    """The page, whole."""
    faults, spoiled, crashes = found["faults"], found["spoiled"], found["crashes"]
    days, kinds = faults["days"], faults["kinds"]
    always = sum(caught == days for caught in kinds.values())
    survived = SINGLE + TWENTY if crashes["passed"] == crashes["tried"] else f"{crashes['passed']} tests of"
    return "\n".join(
        [
            "# Reliability",
            "",
            "Written by `uvx nox -s reliability`, which plants faults in a generated project by its own tests;",
            "nothing here is typed by hand.",
            "",
            "| what | planted | survived |",
            "| -- | -- | -- |",
            f"| kinds of faults in arriving batches, blocked on {days} of {days} days | {len(kinds)} | {always} |",
            f"| clean batches, let in | {4 * days} | {4 * days - faults['alarms']} |",
            f"| challengers of spoiled training data, refused by the gate | {spoiled['tried']} | {spoiled['passed']} |",
            f"| runs killed in a write, and mended by the next | {SINGLE + TWENTY} | {survived} |",
            "",
            "A mended run ends with the same rows in the same tables, the same champion byte for byte, no row twice,",
            f"no run left open: rows lost, 0. A batch of a day costs {1000 * faults['cpu']:.0f} ms CPU.",
            "",
            "## Faults in batches",
            "",
            f"Blocked on how many of {days} days, of the year's flights, departures, outcomes or weather:",
            "",
            "| fault | days |",
            "| -- | -- |",
            *(f"| {name} | {caught} |" for name, caught in kinds.items()),
            "",
            "What is not blocked on each day must be told by labelled performance: the contract can't know it.",
            "",
        ]
    )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        text = page(measure(Path(temporary)))
    PAGE.write_text(text, encoding="utf-8", newline="\n")
    print(text)
