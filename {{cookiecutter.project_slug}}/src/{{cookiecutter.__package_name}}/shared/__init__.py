"""Yours: the problem of this project, put together from contract, features, model and the source of batches."""

from {{cookiecutter.__package_name}}.core.problem import Problem, Recipe
from {{cookiecutter.__package_name}}.shared import collect, contract, extensions, features


def recipe() -> Recipe:
    """How the model is made; its module is imported here and not above, which keeps scikit-learn out of serving."""
    from {{cookiecutter.__package_name}}.shared import model  # noqa: PLC0415

    optional = {name: getattr(model, name, None) for name in ("export", "augment")}
    return Recipe(model.Parameters, model.estimator, **optional)


PROBLEM = Problem(
    subject=contract.SUBJECT,
    tables=contract.TABLES,
    features=features.FEATURES,
    lookback=features.LOOKBACK,
    build=features.build,
    collect=collect.collect,
    recipe=recipe,
    extensions=extensions.EXTENSIONS,
)
