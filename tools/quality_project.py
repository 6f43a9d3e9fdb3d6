"""Run in a project by `tools.quality`: call `init`, fit its model and the reference, print their losses."""

import json
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import narwhals as nw
import numpy as np
import polars as pl
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.metrics import root_mean_squared_error
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OrdinalEncoder

from my_ml_project.core.contracts.schema import schema_of
from my_ml_project.core.contracts.validation import conform
from my_ml_project.core.models.evaluation import MIN_PROBABILITY
from my_ml_project.core.models.predictor import model_inputs
from my_ml_project.core.store.files import read_file


def init(folder: Path, target: str, when: str | None) -> float:
    """Seconds of a call of `init`, which must succeed."""
    line = [sys.executable, "-m", "my_ml_project", "init", str(folder / "train.csv"), "--target", target]
    line += ["--time", when] if when else []
    start = time.perf_counter()
    subprocess.run(line, check=True, stdout=sys.stderr)
    return time.perf_counter() - start


def features_and_labels(file: Path) -> tuple[Any, Any, dict[str, bool]]:
    """The features of a file's labelled rows, their labels, and whether a feature is a category."""
    from my_ml_project.shared import collect, contract, features  # noqa: PLC0415 - `init` writes them

    schema = schema_of(contract.ENTITY)
    rows = conform(collect.read(contract.ENTITY.table, read_file(file)[1]), schema)
    built = features.build(nw.from_native(rows.drop(schema.excluded_columns).lazy()), {}).collect().to_native()
    categories = {name: built.schema[name] == pl.String for name in features.FEATURES}
    return built, rows[schema.target or ""], categories


def reference(categories: list[str], *, regression: bool) -> Any:  # noqa: ANN401 - scikit-learn's
    """Gradient boosting with its defaults, native categories and native missing values."""
    ordinal = OrdinalEncoder(
        handle_unknown="use_encoded_value", unknown_value=np.nan, encoded_missing_value=np.nan, max_categories=254
    )
    columns = make_column_transformer((ordinal, categories), remainder="passthrough")
    which = list(range(len(categories))) or None
    boosting = HistGradientBoostingRegressor if regression else HistGradientBoostingClassifier
    return make_pipeline(columns, boosting(categorical_features=which, random_state=0))


def splits(old: int, new: int, *, forward: bool) -> Iterator[tuple[Any, Any]]:
    """Positions of the rows to train on and to predict: three forward folds, or five random training parts."""
    if forward:
        for number in range(3):
            start, end = (old + new * step // 3 for step in (number, number + 1))
            yield np.arange(start), np.arange(start, end)
    else:
        for seed in range(5):
            yield np.random.default_rng(seed).permutation(old)[: old * 4 // 5], np.arange(old, old + new)


def loss(estimator: Any, train: tuple[Any, Any], test: tuple[Any, Any]) -> float:  # noqa: ANN401 - scikit-learn's
    """The loss of a fitted estimator on other rows; a class that it has not seen has the lowest probability."""
    fitted = estimator.fit(*train)
    if not hasattr(fitted, "classes_"):
        return float(root_mean_squared_error(test[1], fitted.predict(test[0])))
    given = dict(zip(fitted.classes_, fitted.predict_proba(test[0]).T, strict=True))
    none = np.zeros(len(test[1]))
    truth = [given.get(label, none)[row] for row, label in enumerate(test[1])]
    return float(-np.log(np.clip(truth, MIN_PROBABILITY, None)).mean())


def main() -> None:
    """Print the task, both losses, and the seconds of `init`."""
    folder, target, when = Path(sys.argv[1]), sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else None
    seconds = init(folder, target, when)
    from my_ml_project.shared import model  # noqa: PLC0415 - `init` writes it

    old, labels, texts = features_and_labels(folder / "train.csv")
    new, truth, _ = features_and_labels(folder / "test.csv")
    regression = labels.dtype.is_numeric()
    categories = [name for name, text in texts.items() if text]
    chosen = tomllib.loads((folder / "project" / "config" / "params.toml").read_text(encoding="utf-8"))
    inputs = pl.concat([model_inputs(old, texts), model_inputs(new, texts)])
    outputs = np.concatenate([labels.to_numpy(), truth.to_numpy()])
    losses = []
    for train, test in splits(len(old), len(new), forward=when is not None):
        parts = [(inputs[rows], outputs[rows]) for rows in (train, test)]
        ours = model.estimator(model.Parameters(**chosen), categories)
        losses.append([loss(each, *parts) for each in (ours, reference(categories, regression=regression))])
    task = "regression" if regression else "binary" if labels.n_unique() == 2 else "multiclass"
    mean, native = np.mean(losses, axis=0)
    print(json.dumps({"task": task, "loss": mean, "reference": native, "seconds": seconds, "chosen": str(chosen)}))


if __name__ == "__main__":
    main()
