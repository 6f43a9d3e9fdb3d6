"""Compare the models of `init` with scikit-learn's on public tables, and write docs/reference/quality.md.

`uvx nox -s quality` runs it in a project's environment beside the packages that bring the tables.
"""

import json
import math
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import files, version
from pathlib import Path
from typing import Any, cast

import pandas as pd
from sklearn import datasets
from sklearn.model_selection import train_test_split

HERE = Path(__file__).parents[1]
PAGE = HERE / "docs" / "reference" / "quality.md"
PACKAGE = "my_ml_project"
MAX_ROWS = 100_000
BAR, WORST = 1.02, 1.05
SOURCES = ("scikit-learn", "statsmodels", "vega-datasets", "linearmodels", "causaldata", "palmerpenguins")
Read = Callable[[], Any]


def toy(name: str) -> Read:
    """A table that comes with scikit-learn, its target in the column `target`."""
    return lambda: getattr(datasets, f"load_{name}")(as_frame=True).frame


def econometrics(name: str) -> Read:
    """A table of statsmodels."""
    return lambda: import_module(f"statsmodels.datasets.{name}").load_pandas().data


def panel(name: str) -> Read:
    """A table of linearmodels."""
    return lambda: import_module(f"linearmodels.datasets.{name}").load()


def causal(name: str) -> Read:
    """A table of causaldata."""
    return lambda: import_module(f"causaldata.{name}").load_pandas().data


def vega(name: str) -> Read:
    """A table that comes with vega_datasets."""
    return cast("Read", getattr(import_module("vega_datasets").local_data, name))


def bokeh(name: str) -> Read:
    """A file of bokeh-sampledata."""
    found = next(file for file in files("bokeh-sampledata") or () if file.name == name)
    return lambda: pd.read_csv(str(found.locate()))


@dataclass(frozen=True)
class Public:
    """A public table: its rows, its target, its time, and whether `init` was tuned on it."""

    name: str
    source: str
    read: Read
    target: str
    time: str | None = None
    tuned: bool = False
    drop: tuple[str, ...] = ()


TABLES = (
    Public("wine", "scikit-learn", toy("wine"), "target", tuned=True),
    Public("diabetes", "scikit-learn", toy("diabetes"), "target", tuned=True),
    Public("breast_cancer", "scikit-learn", toy("breast_cancer"), "target", tuned=True),
    Public("fair", "statsmodels", econometrics("fair"), "affairs", tuned=True),
    Public("cars", "vega_datasets", vega("cars"), "Miles_per_Gallon", tuned=True, drop=("Name",)),
    Public("stocks", "vega_datasets", vega("stocks"), "price", "date", tuned=True),
    Public("sf_temps", "vega_datasets", vega("sf_temps"), "temp", "date", tuned=True),
    Public("wage_panel", "linearmodels", panel("wage_panel"), "lwage", "year", tuned=True),
    Public("penguins", "palmerpenguins", lambda: import_module("palmerpenguins").load_penguins(), "species"),
    Public("anes96", "statsmodels", econometrics("anes96"), "vote"),
    Public("modechoice", "statsmodels", econometrics("modechoice"), "choice"),
    Public("randhie", "statsmodels", econometrics("randhie"), "mdvis"),
    Public("seattle_weather", "vega_datasets", vega("seattle_weather"), "weather", "date"),
    Public("card", "linearmodels", panel("card"), "lwage", drop=("wage",)),
    Public("mroz", "linearmodels", panel("mroz"), "inlf", drop=("hours", "wage", "lwage", "repwage")),
    Public("meps", "linearmodels", panel("meps"), "ldrugexp", drop=("drugexp",)),
    Public("gapminder", "causaldata", causal("gapminder"), "lifeExp", "year"),
    Public("titanic", "causaldata", causal("titanic"), "survived"),
    Public("restaurants", "causaldata", causal("restaurant_inspections"), "inspection_score", "Year"),
    Public("mortgages", "causaldata", causal("mortgages"), "nonwhite"),
    Public("glass", "bokeh-sampledata", bokeh("forensic_glass.csv"), "type"),
    Public(
        "sea_surface",
        "bokeh-sampledata",
        bokeh("sea_surface_temperature.csv.gz"),
        "temperature (celsius)",
        "time (UTC)",
    ),
)


@dataclass(frozen=True)
class Result:
    """The mean losses of the model of `init` and of the reference on the splits of a table."""

    table: Public
    rows: int
    columns: int
    task: str
    loss: float
    reference: float
    seconds: float

    @property
    def ratio(self) -> float:
        """The loss relative to the reference."""
        return self.loss / self.reference


@cache
def rows_of(table: Public) -> Any:  # noqa: ANN401 - pandas has no types here
    """The labelled rows of a table, in the order of its time."""
    rows = table.read().drop(columns=list(table.drop)).dropna(subset=[table.target])
    rows = rows.sample(min(len(rows), MAX_ROWS), random_state=0)
    return rows.sort_values(table.time, kind="stable") if table.time else rows.sort_index()


def parts(table: Public) -> tuple[Any, Any]:
    """The rows that `init` sees, and those after them in time, or drawn at random where there is none."""
    rows = rows_of(table)
    if table.time:
        return rows.iloc[: len(rows) * 7 // 10], rows.iloc[len(rows) * 7 // 10 :]
    labels = rows[table.target]
    strata = labels if labels.value_counts().min() > 1 and labels.nunique() <= 10 else None
    return tuple(train_test_split(rows, test_size=0.3, random_state=0, stratify=strata))


def measure(template: Path, table: Public) -> Result:
    """Give a table to `init` in a fresh project, and compare its model on rows that `init` has not seen."""
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder, "project")
        shutil.copytree(template, project, ignore=shutil.ignore_patterns(".*", "lake", "mlruns"))
        for name, rows in zip(("train", "test"), parts(table), strict=True):
            rows.to_csv(Path(folder, f"{name}.csv"), index=False)
        line = [sys.executable, str(Path(__file__).with_name("quality_project.py")), folder, table.target]
        done = subprocess.run(
            [*line, *([table.time] if table.time else [])],
            cwd=project,
            env=os.environ | {"PYTHONPATH": str(project / "src"), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            encoding="utf-8",
            check=False,
        )
    if done.returncode:
        print(f"{table.name}: {done.stderr}", flush=True)
        return Result(table, len(rows_of(table)), rows_of(table).shape[1], "failed", math.inf, 1.0, math.nan)
    found = json.loads(done.stdout.splitlines()[-1])
    rows = rows_of(table)
    result = Result(table, len(rows), rows.shape[1], found["task"], found["loss"], found["reference"], found["seconds"])
    print(f"{table.name}: {result.ratio:.3f} ({result.seconds:.1f} s) {found['chosen']}", flush=True)
    return result


def page(results: list[Result]) -> str:
    """The page."""
    worse = [result for result in results if result.ratio > BAR]
    met = len(worse) <= 1 and all(result.ratio <= WORST for result in results)
    names = ", ".join(f"`{result.table.name}` ({result.ratio:.3f})" for result in worse) or "none"
    packages = ", ".join(f"{name} {version(name)}" for name in (*SOURCES, "bokeh-sampledata"))
    lines = [
        "# Quality of generated models",
        "",
        "How well the model that `init` generates predicts, beside scikit-learn's HistGradientBoosting with its",
        "defaults, native categories and native missing values, on the same features and rows.",
        "",
        f"The bar: at most one table above {BAR}, none above {WORST}. It is **{'met' if met else 'missed'}**.",
        f"Tables above {BAR}: {names}.",
        "",
        "| table | package | task | rows | columns | time | tuned on | init | reference | ratio | seconds |",
        "| -- | -- | -- | -: | -: | -- | -- | -: | -: | -: | -: |",
    ]
    for each in results:
        table = each.table
        facts = (table.name, table.source, each.task, f"{each.rows:,}", str(each.columns), table.time or "-")
        numbers = (f"{each.loss:.4g}", f"{each.reference:.4g}", f"{each.ratio:.3f}", f"{each.seconds:.1f}")
        lines.append(f"| {' | '.join((*facts, 'yes' if table.tuned else 'no', *numbers))} |")
    lines += [
        "",
        "The loss is log loss for classes and root mean squared error for numbers; a ratio below 1 is better than",
        "the reference. Where there is a time, `init` sees the oldest 70 % of the rows, and each figure is a mean over",
        "three forward folds of the rest, each predicted by a model of all rows before it. Elsewhere `init` sees a",
        "random 70 %, and each figure is a mean over five seeds, each with a random 80 % of these rows for training;",
        "the rest is predicted. The seconds are those of the call of `init`, with two at a time. A table",
        "that fails counts as missed. Choices in `init` were tuned on the tables marked so, not on the others.",
        "",
        f"Written by `uvx nox -s quality` with Python {platform.python_version()}, {packages}.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure all tables, or those that are named, and write the page if it is all."""
    template, *names = sys.argv[1:]
    chosen = [table for table in TABLES if not names or table.name in names or (names == ["tuned"] and table.tuned)]
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda table: measure(Path(template), table), chosen))
    if not names:
        PAGE.write_text(page(results), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
