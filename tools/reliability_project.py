"""Plant faults, damage, kills and spoiled challengers in a generated project, and count what is survived, as JSON.

Run in the project of the framework's tests, from the template's folder of tools.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from importlib import import_module
from io import BytesIO
from pathlib import Path
from xml.etree import ElementTree as ET

import polars as pl

FRAMEWORK = Path(__file__).parents[1] / "tests" / "framework"


def planted() -> dict[str, object]:
    """On how many of twelve days each fault is blocked, clean days that are, and the CPU seconds of a batch."""
    faults = import_module("test_faults")  # of the framework
    tables = {table: pl.read_parquet(f"data/example/{table}.parquet") for table in faults.ARRIVAL}
    with tempfile.TemporaryDirectory() as folder:
        workspace = faults.open_workspace(faults.PROBLEM, root=Path(folder))
        passed = faults.tried(workspace, tables, faults.DAYS)
        clean = [
            (name, faults.between(rows, name, day, day + faults.DAY))
            for name, rows in tables.items()
            for day in faults.DAYS
        ]
        start = time.process_time()
        for name, batch in clean:
            faults.judged(workspace, batch, name, faults.DAYS[-1] + faults.DAY)
        cpu = (time.process_time() - start) / len(clean)
    n = len(faults.DAYS)
    kinds = {name: n - len(days) for name, days in passed.items() if name not in tables}
    return {"kinds": kinds, "days": n, "alarms": sum(len(passed[name]) for name in tables), "cpu": cpu}


def damaged(seeds: int) -> dict[str, int]:
    """How many damaged files of each kind are read or refused; the others would stop a run."""
    ingest, faults = import_module("test_ingest"), import_module("test_faults")
    rows = pl.read_parquet("data/example/weather.parquet").head(300)
    files, survived = {".parquet": BytesIO(), ".csv": BytesIO()}, 0
    rows.write_parquet(files[".parquet"])
    rows.write_csv(files[".csv"])
    with tempfile.TemporaryDirectory() as folder:
        workspace = faults.open_workspace(faults.PROBLEM, root=Path(folder))
        for suffix, content in files.items():
            path = Path(folder, f"weather{suffix}")
            for seed in range(seeds):
                path.write_bytes(ingest.damage(content.getvalue(), random.Random(seed)))  # noqa: S311 - damage
                with suppress(ingest.InputError):
                    ingest.check(workspace, path, table="weather")
                survived += 1
    return {"tried": len(files) * seeds, "passed": survived}


def kills() -> tuple[int, int]:
    """How many runs the tests of crashes kill, and let run on a full disk."""
    crashes = import_module("test_crashes")
    return len(crashes.FEW) + int(crashes.MANY), len(crashes.FULL)


def tests(path: str, names: str) -> dict[str, int]:
    """How many of a file's tests of these names pass, slow ones too."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        line = ["pytest", "-q", str(FRAMEWORK / path), f"--config-file={FRAMEWORK / 'pytest.toml'}"]
        line += ["-k", names, "-m", "slow or not slow", f"--junitxml={report}"]
        subprocess.run([sys.executable, "-m", *line], check=False, stdout=subprocess.DEVNULL)
        suite = ET.parse(report).getroot().find("testsuite")  # noqa: S314 - pytest wrote it
    if suite is None:
        sys.exit(f"pytest wrote no report on {path}")
    ran = int(suite.get("tests", 0))
    return {"tried": ran, "passed": ran - int(suite.get("failures", 0)) - int(suite.get("errors", 0))}


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    sys.path += [str(FRAMEWORK), str(FRAMEWORK / "core"), str(FRAMEWORK / "production")]
    found = {
        "faults": planted(),
        "spoiled": tests("test_flights.py", "spoiled_data"),
        "crashes": tests("production/test_crashes.py", "killed_runs"),
        "disks": tests("production/test_crashes.py", "full_disk"),
        "kills": kills(),
        "files": damaged(2000),
        "tables": tests(
            "core/test_store.py", "torn or gone_or_cut_off or other_bytes or checkpoint or database_of_runs"
        ),
        "archive": tests("production/test_ingest.py", "archived_batch"),
    }
    print(json.dumps(found))
