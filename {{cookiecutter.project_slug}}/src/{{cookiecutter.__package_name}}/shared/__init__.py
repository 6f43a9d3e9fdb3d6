"""Yours: the problem, assembled from contract, features, model and collect."""

from {{cookiecutter.__package_name}}.core.problem import ModelSpec, Problem
from {{cookiecutter.__package_name}}.shared import collect, contract, extensions, features


def model_spec() -> ModelSpec:
    """The model specification. Its module is imported here, which keeps scikit-learn out of serving."""
    from {{cookiecutter.__package_name}}.shared import model  # noqa: PLC0415

    optional = {name: getattr(model, name, None) for name in ("export", "augment")}
    return ModelSpec(model.Parameters, model.estimator, **optional)


PROBLEM = Problem(
    entity=contract.ENTITY,
    tables=contract.TABLES,
    features=features.FEATURES,
    lookback=features.LOOKBACK,
    build=features.build,
    collect=collect.collect,
    model_spec=model_spec,
    extensions=extensions.EXTENSIONS,
)
