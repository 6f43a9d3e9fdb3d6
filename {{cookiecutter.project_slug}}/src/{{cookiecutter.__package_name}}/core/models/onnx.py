"""Export of a fitted estimator to canonical ONNX bytes, with a parity check.

Imported in training only: serving has neither onnx nor scikit-learn.
"""

import sys
from collections.abc import Callable
from importlib.util import find_spec
from itertools import chain
from typing import Any

import numpy as np
import onnx
import polars as pl
from numpy.typing import NDArray
from onnx import helper
from skl2onnx import convert_sklearn, update_registered_converter
from skl2onnx.common._registration import get_converter
from skl2onnx.common.data_types import FloatTensorType, StringTensorType
from skl2onnx.common.shape_calculator import (
    calculate_linear_classifier_output_shapes,
    calculate_linear_regressor_output_shapes,
)
from sklearn import ensemble, tree
from sklearn.preprocessing import RobustScaler, StandardScaler

from {{cookiecutter.__package_name}}.core.errors import Rejected, summarize
from {{cookiecutter.__package_name}}.core.models.predictor import (
    PARITY_TOLERANCE,
    Predictor,
    difference,
    model_inputs,
    predicted,
)
from {{cookiecutter.__package_name}}.core.problem import ModelSpec, Problem

UNSEEN = "a category never seen"

Converter = Callable[[Any, Any, Any], None]
Repair = Callable[[Any, dict[str, Any]], dict[str, Any]]


def export(model_spec: ModelSpec, estimator: Any, features: dict[str, bool]) -> bytes:  # noqa: ANN401 - any estimator
    """A fitted estimator as ONNX; equal estimators give equal bytes in every process.

    Args:
        model_spec: Its `export` function, if any, replaces `convert`.
        estimator: Fitted on `model_inputs`.
        features: The features in the model's order; true if one is text.

    Raises:
        Rejected: A step of the estimator can't be exported.
    """
    try:
        model = (model_spec.export or convert)(estimator, features)
        onnx.checker.check_model(model)
    except Exception as error:  # converters raise anything
        steps = " -> ".join(type(step).__name__ for step in getattr(estimator, "named_steps", {"": estimator}).values())
        boosted = any(library in str(error) for library in ("lightgbm", "xgboost"))
        unknown = boosted and not find_spec("onnxmltools")
        way = "uv add --group train onnxmltools" if unknown else "change shared/model.py"
        msg = f"the model ({steps}) can't be exported to ONNX: {summarize(error)}; {way}"
        raise Rejected(msg) from error
    opsets = sorted(model.opset_import, key=lambda opset: opset.domain)
    del model.opset_import[:]
    model.opset_import.extend(opsets)
    model.graph.name = "model"
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def convert(estimator: Any, features: dict[str, bool]) -> onnx.ModelProto:  # noqa: ANN401 - any estimator
    """A fitted estimator of scikit-learn, LightGBM or XGBoost as ONNX, one input per feature."""
    _register_converters()
    model: onnx.ModelProto = convert_sklearn(
        estimator,
        initial_types=[
            (name, StringTensorType([None, 1]) if text else FloatTensorType([None, 1]))
            for name, text in features.items()
        ],
        options={"zipmap": False} if hasattr(estimator, "classes_") else None,
        target_opset={"": 17, "ai.onnx.ml": 3},  # what the three libraries convert to
        custom_conversion_functions={kind: _repaired(repair) for kind, repair in REPAIRS.items()}
        | dict.fromkeys((RobustScaler, StandardScaler), _convert_scaler),
    )
    _drop_label(model.graph)
    return model


def _drop_label(graph: onnx.GraphProto) -> None:
    """Remove the label from the output of binary histogram trees, which takes a tenth of the time of 10,000 rows."""
    trees = graph.node[-1]
    attributes = {each.name: helper.get_attribute_value(each) for each in trees.attribute}
    if attributes.get("post_transform") != b"LOGISTIC" or set(attributes.get("class_ids", ())) != {0}:
        return
    tree_attributes = {
        name: value for name, value in attributes.items() if name.startswith(("nodes_", "class_", "base_values"))
    }
    renamed = {name.replace("class_", "target_"): value for name, value in tree_attributes.items()} | {"n_targets": 1}
    trees.CopyFrom(helper.make_node("TreeEnsembleRegressor", trees.input, ["margin"], domain=trees.domain, **renamed))
    graph.node.append(helper.make_node("Sigmoid", ["margin"], ["probability"]))
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("probability", onnx.TensorProto.FLOAT, [None, 1]))


def _register_converters() -> None:
    """Register LightGBM and XGBoost in skl2onnx, as onnxmltools documents it, if model.py imports them.

    They are no dependencies of this project: `uv add --group train lightgbm onnxmltools` adds one.
    """
    if not find_spec("onnxmltools"):
        return
    if "lightgbm" in sys.modules:
        from lightgbm import LGBMClassifier, LGBMRegressor  # noqa: PLC0415
        from onnxmltools.convert.lightgbm.operator_converters.LightGbm import convert_lightgbm  # noqa: PLC0415

        _register(LGBMClassifier, LGBMRegressor, _repaired(_rounded_thresholds, convert_lightgbm))
    if "xgboost" in sys.modules:  # its thresholds have 32 bits
        from onnxmltools.convert.xgboost.operator_converters.XGBoost import convert_xgboost  # noqa: PLC0415
        from xgboost import XGBClassifier, XGBRegressor  # noqa: PLC0415

        _register(XGBClassifier, XGBRegressor, convert_xgboost)


def _register(classifier: type, regressor: type, converter: Converter) -> None:
    options = {"zipmap": [True, False], "nocl": [True, False]}
    shapes = calculate_linear_classifier_output_shapes
    update_registered_converter(classifier, classifier.__name__, shapes, converter, options=options)
    update_registered_converter(regressor, regressor.__name__, calculate_linear_regressor_output_shapes, converter)


# Converters of trees lose two things. A repair replaces attributes of ONNX's TreeEnsemble operator.


def _repaired(repair: Repair, converter: Converter | None = None) -> Converter:
    """A converter, skl2onnx's own by default, whose trees are repaired as they are added to the graph."""

    def convert_repaired(scope: Any, operator: Any, container: Any) -> None:  # noqa: ANN401 - skl2onnx's
        add_node = container.add_node

        def add_repaired(*names: Any, **attributes: Any) -> None:  # noqa: ANN401
            add_node(*names, **attributes | (repair(operator.raw_operator, attributes) if NODES in attributes else {}))

        container.add_node = add_repaired
        (converter or get_converter(operator.type))(scope, operator, container)
        container.add_node = add_node

    return convert_repaired


def _round_down(thresholds: NDArray[np.float64]) -> NDArray[np.float32]:
    """Thresholds of `<=` in 32 bits, as ONNX has them, such that each 32-bit value stays on its side.

    Rounded to the nearest, a threshold could become equal to a value just above it.
    """
    nearest = thresholds.astype(np.float32)
    return np.where(nearest > thresholds, np.nextafter(nearest, np.float32(-np.inf)), nearest)


def _rounded_thresholds(_: Any, attributes: dict[str, Any]) -> dict[str, Any]:  # noqa: ANN401
    return {NODES: _round_down(np.asarray(attributes[NODES], dtype=np.float64)).tolist()}


def _histogram_thresholds(model: Any, _: dict[str, Any]) -> dict[str, Any]:  # noqa: ANN401
    trees = chain.from_iterable(model._predictors)  # noqa: SLF001 - where scikit-learn keeps them
    return {NODES: _round_down(np.concatenate([each.nodes["num_threshold"] for each in trees]))}


def _missing_directions(model: Any, _: dict[str, Any]) -> dict[str, Any]:  # noqa: ANN401
    """Where missing values go, which skl2onnx leaves out (github.com/onnx/sklearn-onnx/issues/1253)."""
    trees = [each.tree_ for each in getattr(model, "estimators_", [model])]
    return {"nodes_missing_value_tracks_true": np.concatenate([each.missing_go_to_left for each in trees]).tolist()}


def _convert_scaler(scope: Any, operator: Any, container: Any) -> None:  # noqa: ANN401 - skl2onnx's
    """Subtract the mean in two parts: one number of 32 bits is too coarse where the mean is large, as of years."""
    add_node, scaler = container.add_node, operator.raw_operator
    mean = scaler.mean_ if isinstance(scaler, StandardScaler) else scaler.center_

    def add_exact(kind: str, inputs: Any, outputs: Any, **attributes: Any) -> None:  # noqa: ANN401
        coarse = np.asarray(attributes["offset"], dtype=np.float32)
        between, rest = scope.get_unique_variable_name("centred"), (mean if coarse.any() else 0) - coarse
        first = attributes | {"name": f"{attributes['name']}_mean", "scale": np.ones_like(coarse)}
        add_node(kind, inputs, between, **first)
        add_node(kind, between, outputs, **attributes | {"offset": rest.astype(np.float32)})

    container.add_node = add_exact
    get_converter(operator.type)(scope, operator, container)
    container.add_node = add_node


NODES = "nodes_values"
REPAIRS: dict[type, Repair] = {
    ensemble.HistGradientBoostingClassifier: _histogram_thresholds,
    ensemble.HistGradientBoostingRegressor: _histogram_thresholds,
    ensemble.ExtraTreesClassifier: _missing_directions,
    ensemble.ExtraTreesRegressor: _missing_directions,
    ensemble.RandomForestClassifier: _missing_directions,
    ensemble.RandomForestRegressor: _missing_directions,
    tree.DecisionTreeClassifier: _missing_directions,
    tree.DecisionTreeRegressor: _missing_directions,
}


def parity(problem: Problem, estimator: Any, predictor: Predictor, rows: pl.DataFrame) -> float:  # noqa: ANN401
    """The maximum difference between estimator and exported model: on the rows, with nulls and with unseen categories.

    Raises:
        Rejected: The difference exceeds `PARITY_TOLERANCE`.
    """
    features = rows.select(problem.features)
    text = [name for name, is_text in predictor.features.items() if is_text]
    numbers = [name for name in problem.features if name not in text]
    with_nulls = features.with_columns(pl.lit(None, dtype=pl.Float32).alias(name) for name in numbers[::2])
    unseen = features.with_columns(pl.lit(UNSEEN).alias(name) for name in text)
    frames = pl.concat([features, with_nulls, unseen], how="vertical_relaxed")
    try:
        expected = predicted(problem.task, estimator, model_inputs(frames, predictor.features))
        worst = difference(problem.task, expected, predictor.predict(frames))
    except (TypeError, ValueError) as error:
        msg = f"the exported model can't predict missing values or new categories: {error}; change model.py"
        raise Rejected(msg) from error
    if not worst <= PARITY_TOLERANCE:
        msg = (
            f"the exported model differs from the pipeline by {worst:.2g} (at most {PARITY_TOLERANCE:.0e}): a step of "
            "shared/model.py is lost in the export, as gradient boosting's own categorical_features are"
        )
        raise Rejected(msg)
    return worst
