"""The trials of a search, in an Optuna study: a journal that one command writes, or a database that any number share.

A trial has a place. What is tried there depends on the results of the places well before it, and on nothing else: so
one worker and many, killed and started again or not, try the same and find the same.
"""

import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy.exc
from filelock import FileLock, Timeout
from optuna.samplers import BaseSampler
from optuna.storages import JournalStorage, RDBStorage, fail_stale_trials
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from {{cookiecutter.__package_name}}.shared import BadInput, first_line

LOOK = 0.2  # seconds between looks at what others have done
BEAT, DEAD = 10, 60  # seconds between signs of life in a database, and without one after which a trial has failed
PLACE, VALUES = "place", "parameters"

Found = dict[int, FrozenTrial]


@dataclass(frozen=True)
class Plan:
    """What is searched.

    Attributes:
        name: Of the study: it ends with a hash of all that its results depend on.
        storage: A journal file, or the address of a database.
        trials: How many places there are.
        folds: On how many each trial is measured.
        current: The parameters that are there: the first place tries them.
    """

    name: str
    storage: str
    trials: int
    folds: int
    current: dict[str, Any]

    @property
    def shared(self) -> bool:
        """Whether others may search at the same time."""
        return "://" in self.storage


class Given(BaseSampler):
    """Suggests what it was given: values are found elsewhere, and kept where Optuna's own tools look for them."""

    values: dict[str, Any]

    def infer_relative_search_space(self, *_: object) -> dict[str, Any]:
        return {}

    def sample_relative(self, *_: object) -> dict[str, Any]:
        return {}

    def sample_independent(self, _study: object, _trial: object, name: str, _distribution: object) -> Any:  # noqa: ANN401
        return self.values[name]


class _Database(RDBStorage):
    """Any database; SQLite can't lock a row, and a file beside it keeps two from taking the same trial."""

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        url = self.engine.url
        with FileLock(f"{url.database}.lock") if url.get_backend_name() == "sqlite" else nullcontext():
            return super().set_trial_state_values(trial_id, state, values)


@contextmanager
def alone(plan: Plan) -> Iterator[None]:
    """Keep other commands out of a journal; a database is for many.

    Raises:
        BadInput: One searches there.
    """
    if plan.shared:
        yield
        return
    Path(plan.storage).parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(f"{plan.storage}.alone", timeout=0):
            yield
    except Timeout as error:
        msg = f"another tune searches in {plan.storage}: wait for it, or let many search in a database by --storage"
        raise BadInput(msg) from error


@contextmanager
def opened(plan: Plan) -> Iterator[optuna.Study]:
    """The study in its storage; made where it is not there.

    Raises:
        BadInput: The database can't be used.
    """
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    try:
        storage = _database(plan.storage) if plan.shared else _journal(plan.storage)
        yield optuna.create_study(storage=storage, study_name=plan.name, sampler=Given(), load_if_exists=True)
        if isinstance(storage, RDBStorage):
            storage.remove_session()
            storage.engine.dispose()
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError, ImportError) as error:
        way = "; its driver may be missing: uv add --dev 'psycopg[binary]' for PostgreSQL"
        missing = isinstance(error, ImportError | sqlalchemy.exc.NoSuchModuleError)
        raise BadInput(f"the database of --storage can't be used: {first_line(error)}{way * missing}") from error


def _journal(path: str) -> JournalStorage:
    lock = FileLock(f"{path}.lock")  # the operating system's: it ends with the process that holds it
    return JournalStorage(JournalFileBackend(path, lock))  # type: ignore[arg-type] # acquire and release are all


def _database(address: str, *, again: int = 9) -> RDBStorage:
    try:
        with warnings.catch_warnings(action="ignore", category=optuna.exceptions.ExperimentalWarning):
            return _Database(
                address,
                {"connect_args": {"timeout": DEAD}} if address.startswith("sqlite") else {},
                heartbeat_interval=BEAT,
                grace_period=DEAD,
                heartbeat_stale_trial_callback=lambda study, trial: _let_wait(study, trial.user_attrs[PLACE]),
            )
    except sqlalchemy.exc.SQLAlchemyError as error:
        at_once = isinstance(error, sqlalchemy.exc.IntegrityError) or "already exists" in str(error)
        if not (again and at_once):
            raise
    time.sleep(LOOK)  # another command makes the tables
    return _database(address, again=again - 1)


def _let_wait(study: optuna.Study, place: int) -> None:
    study.enqueue_trial({}, user_attrs={PLACE: place})


def fill(study: optuna.Study, plan: Plan) -> None:
    """Let a trial wait for each place that has none; what a killed command left in its journal has failed."""
    if not plan.shared:
        for _ in study.get_trials(deepcopy=False, states=[TrialState.WAITING]):
            study.tell(study.ask(), state=TrialState.FAIL)
        for trial in study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
            study.tell(trial.number, state=TrialState.FAIL)
    held = {trial.user_attrs.get(PLACE) for trial in counting(study)}
    for place in range(plan.trials):
        if place not in held:
            _let_wait(study, place)


def counting(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that wait, run, or are finished."""
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state != TrialState.FAIL]


def finished(study: optuna.Study, plan: Plan) -> Found:
    """The finished trials by their place."""
    done = {trial.user_attrs[PLACE]: trial for trial in reversed(counting(study)) if trial.state.is_finished()}
    return {place: done[place] for place in sorted(done) if place < plan.trials}


def lowest(found: Found) -> float | None:
    """The lowest loss so far; none before the first whole trial."""
    return min((loss for trial in found.values() if (loss := loss_of(trial)) is not None), default=None)


def loss_of(trial: FrozenTrial) -> float | None:
    """The mean loss of a finished trial over all folds; none where it was pruned."""
    return trial.value if trial.state == TrialState.COMPLETE else None


def look(study: optuna.Study) -> None:
    """Fail trials of a database that give no sign of life any more; others take their places."""
    with warnings.catch_warnings(action="ignore", category=optuna.exceptions.ExperimentalWarning):
        fail_stale_trials(study)
