"""Count what a generated project survives, and write docs/reference/reliability.md: `uvx nox -s reliability`."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parents[1]
PAGE = HERE / "docs" / "reference" / "reliability.md"


def measure(project: Path) -> dict[str, Any]:
    """Plant everything in the rendered project."""
    command = ["uv", "run", "--no-sync", "python", str(HERE / "tools" / "reliability_project.py")]
    done = subprocess.run(command, cwd=project, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def page(found: dict[str, Any]) -> str:
    """The page, whole."""
    faults, spoiled, files, tables = (found[name] for name in ("faults", "spoiled", "files", "tables"))
    kills, disks = (
        (count, count if found[name]["passed"] == found[name]["tried"] else "not all")
        for count, name in zip(found["kills"], ("crashes", "disks"), strict=True)
    )
    lost = 0 if found["archive"]["passed"] == found["archive"]["tried"] else "some"
    days, kinds = faults["days"], faults["kinds"]
    always = sum(caught == days for caught in kinds.values())
    return "\n".join(
        [
            "# Reliability",
            "",
            "Written by `uvx nox -s reliability`, which plants faults by the tests of the framework;",
            "nothing here is typed by hand.",
            "",
            "| what | planted | survived |",
            "| -- | -- | -- |",
            f"| kinds of faults in arriving batches, blocked on {days} of {days} days | {len(kinds)} | {always} |",
            f"| clean batches, let in | {4 * days} | {4 * days - faults['alarms']} |",
            f"| challengers of spoiled training data, refused by the gate | {spoiled['tried']} | {spoiled['passed']} |",
            f"| runs killed at a write, most of them inside, and mended by the next | {kills[0]} | {kills[1]} |",
            f"| runs on a full disk, mended by the next | {disks[0]} | {disks[1]} |",
            f"| damaged Parquet and CSV files, read or quarantined | {files['tried']} | {files['passed']} |",
            f"| damaged tables, an empty `mlflow.db`, named in a line | {tables['tried']} | {tables['passed']} |",
            "",
            "A mended run ends with the same rows in the same tables, the same champion byte for byte, no row twice,",
            "no run left open. What a torn commit took from a table is named, and ingested again from the archive:",
            f"rows lost, {lost}. A batch of a day costs {1000 * faults['cpu']:.0f} ms CPU.",
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
    text = page(measure(Path(sys.argv[1])))
    PAGE.write_text(text, encoding="utf-8", newline="\n")
    print(text)
