"""The Optuna study behind `tune`: its storage, the evaluation of a trial, and the worker processes.

One trial evaluates the current parameters, the others what the sampler suggests. A failed trial does not count: its
process was killed, or two processes started the last one at the same time. Workers go on until enough are finished.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import isnan
from pathlib import Path
from statistics import fmean
from typing import Any
from unittest.mock import patch

import click
import optuna
import polars as pl
import sqlalchemy.exc
from filelock import FileLock, Timeout
from optuna.pruners import MedianPruner
from optuna.samplers import TPESampler
from optuna.storages import JournalStorage, RDBStorage, fail_stale_trials
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from {{cookiecutter.__package_name}}.core.errors import BadInput, Refused, first_line
from {{cookiecutter.__package_name}}.core.models import training
from {{cookiecutter.__package_name}}.core.models.search_space import Choice, Search, space_of
from {{cookiecutter.__package_name}}.core.problem import Problem
from {{cookiecutter.__package_name}}.research.tuning.cross_validation import Fold, folds

POLL = 0.2  # seconds between looks at the trials of other processes
HEARTBEAT, GRACE = 10, 60  # seconds between signs of life in a database, and without one until a trial has failed
STARTUP_TRIALS = 6  # sampled at random before the sampler learns from them
UNPRUNED_TRIALS = 4  # completed before the pruner compares with their median
DIGITS = 3  # significant ones of a sampled number, so that people can read it
CURRENT, PARALLEL, PARAMETERS = "current", "parallel", "parameters"  # attributes of a trial


@dataclass(frozen=True)
class Plan:
    """What a search consists of.

    Attributes:
        study: Name of the study: it ends with a hash of everything that the results depend on, which seeds the sampler.
        storage: A journal file, or the URL of a database that other commands may use too.
        trials: Number of trials to finish.
        folds: Number of folds that each is evaluated on.
        current: The current parameters.
    """

    study: str
    storage: str
    trials: int
    folds: int
    current: dict[str, Any]


class _SurplusTrialError(Exception):
    """Another process started the last trial at the same time."""


def search(problem: Problem, plan: Plan, rows: pl.DataFrame, *, workers: int) -> list[FrozenTrial]:
    """Run trials until as many as planned are finished.

    Returns:
        All finished trials of the study.

    Raises:
        BadInput: The database can't be used, or another command uses the journal.
        Refused: The model can't be fitted, or a worker process was killed.
    """
    with _exclusive_lock(plan.storage), open_study(plan) as study:
        if "://" not in plan.storage:  # nobody else uses the journal: whoever ran these trials was killed
            for trial in study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
                study.tell(trial.number, state=TrialState.FAIL)
        workers = min(workers, plan.trials - len(finished_trials(study)))
        with _progress_bar(study, plan.trials) as update:
            if workers > 1:
                _run_workers(problem, plan, rows, workers, update)
            else:
                _run_trials(study, problem, plan, rows, update)
        return finished_trials(study)


def finished_trials(study: optuna.Study) -> list[FrozenTrial]:
    """The completed and pruned trials: first that of the current parameters, then the others by their number."""
    finished = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE, TrialState.PRUNED])
    return sorted(finished, key=lambda trial: CURRENT not in trial.user_attrs)


def losses_of(trials: list[FrozenTrial]) -> dict[int, float]:
    """The mean loss over the folds of each trial that was not pruned, by its index."""
    return {n: t.value for n, t in enumerate(trials) if t.state == TrialState.COMPLETE and t.value is not None}


@contextmanager
def _exclusive_lock(storage: str) -> Iterator[None]:
    """Keep other commands out of a journal: it doesn't know which of them were killed, as a database does.

    Raises:
        BadInput: Another command uses the journal.
    """
    if "://" in storage:
        yield
        return
    journal = Path(storage)
    journal.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(f"{storage}.command.lock", timeout=0):
            if journal.exists():  # without the half of a line that a killed process may have left
                os.truncate(journal, journal.read_bytes().rfind(b"\n") + 1)
            yield
    except Timeout as error:
        msg = f"another tune uses {storage}: wait for it, or share a database by --storage URL"
        raise BadInput(msg) from error


@contextmanager
def open_study(plan: Plan) -> Iterator[optuna.Study]:
    """Open the plan's study, which is created if there is none.

    Raises:
        BadInput: The database can't be used.
    """
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    pruner = MedianPruner(n_startup_trials=UNPRUNED_TRIALS)
    try:
        with warnings.catch_warnings(action="ignore", category=optuna.exceptions.ExperimentalWarning):  # heartbeats
            storage = _connect(plan.storage) if "://" in plan.storage else _open_journal(plan.storage)
            yield optuna.create_study(storage=storage, study_name=plan.study, pruner=pruner, load_if_exists=True)
            if isinstance(storage, RDBStorage):
                storage.remove_session()
                storage.engine.dispose()
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError, ImportError) as error:
        hint = "; its driver may be missing: uv add --dev 'psycopg[binary]' for PostgreSQL"
        missing = isinstance(error, ImportError | sqlalchemy.exc.NoSuchModuleError)
        raise BadInput(f"the database of --storage can't be used: {first_line(error)}{hint * missing}") from error


def _open_journal(path: str) -> JournalStorage:
    lock = FileLock(f"{path}.lock")  # the operating system's: it ends with its process
    return JournalStorage(JournalFileBackend(path, lock))  # type: ignore[arg-type] # it needs acquire and release


def _connect(url: str, *, attempts: int = 10) -> RDBStorage:
    options = {"connect_args": {"timeout": GRACE}} if url.startswith("sqlite") else {}
    try:
        return RDBStorage(url, options, heartbeat_interval=HEARTBEAT, grace_period=GRACE)
    except sqlalchemy.exc.SQLAlchemyError as error:
        concurrent = isinstance(error, sqlalchemy.exc.IntegrityError) or "already exists" in str(error)
        if attempts == 1 or not concurrent:
            raise
    time.sleep(POLL)  # another command creates the tables
    return _connect(url, attempts=attempts - 1)


@contextmanager
def _progress_bar(study: optuna.Study, length: int) -> Iterator[Callable[[], None]]:
    """Show a progress bar on stderr; the result updates it."""

    def show(loss: float | None) -> str | None:
        return None if loss is None else f"best {loss:.4f}"

    with click.progressbar(length=length, label="tune", item_show_func=show, file=sys.stderr) as bar:

        def update() -> None:
            finished = finished_trials(study)
            bar.update(len(finished) - bar.pos, min(losses_of(finished).values(), default=None))

        yield update
        update()


def _run_workers(problem: Problem, plan: Plan, rows: pl.DataFrame, workers: int, update: Callable[[], None]) -> None:
    """Run trials in processes with one thread each."""
    spawn, others = multiprocessing.get_context("spawn"), multiprocessing.active_children()
    with (
        patch.dict(os.environ, OMP_NUM_THREADS="1"),  # read when a process starts
        ProcessPoolExecutor(workers, mp_context=spawn, initializer=_initialize_worker) as pool,
    ):
        try:
            pending = {pool.submit(_work, problem, plan, rows) for _ in range(workers)}
            while pending:
                done, pending = wait(pending, timeout=POLL, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
                update()
        except BrokenProcessPool as error:
            msg = "a worker process of tune was killed: run the same command to resume, with fewer --workers"
            raise Refused(msg) from error
        finally:
            for process in set(multiprocessing.active_children()).difference(others):
                process.terminate()


def _initialize_worker() -> None:
    """Leave Ctrl-C to the command, and end with it even where it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    if parent := multiprocessing.parent_process():
        parent.join()
    os._exit(1)


def _work(problem: Problem, plan: Plan, rows: pl.DataFrame) -> None:
    with open_study(plan) as study:
        _run_trials(study, problem, plan, rows, lambda: None)


def _run_trials(
    study: optuna.Study, problem: Problem, plan: Plan, rows: pl.DataFrame, update: Callable[[], None]
) -> None:
    """Run trials until as many as planned are finished, by this process or by others."""
    space = space_of(problem.recipe().parameters)
    within = {name: plan.current[name] for name, where in space.items() if where.contains(plan.current[name])}
    objective = partial(_objective, problem=problem, plan=plan, parts=list(folds(problem, rows, plan.folds)))
    while True:
        trials = _counting_trials(study)
        current = [trial for trial in trials if CURRENT in trial.user_attrs]
        states = [trial.state for trial in trials]
        if not current:
            study.enqueue_trial(within, user_attrs={CURRENT: within})
        elif len(trials) - len(current) < plan.trials - 1 or TrialState.WAITING in states:
            _run_trial(study, objective)
        elif sum(state.is_finished() for state in states) >= plan.trials and current[0].state.is_finished():
            return
        else:
            _fail_dead_trials(study)
            time.sleep(POLL)
        update()


def _counting_trials(study: optuna.Study) -> list[FrozenTrial]:
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state != TrialState.FAIL]


def _run_trial(study: optuna.Study, objective: Callable[[Trial], float]) -> None:
    try:
        study.optimize(objective, n_trials=1, catch=(_SurplusTrialError,))
    except ValueError as error:
        if "Cannot tell" not in str(error):  # Optuna's: another process finished this trial, or failed it as dead
            raise


def _fail_dead_trials(study: optuna.Study) -> None:
    """Fail trials whose process gives no sign of life to the database, or was killed before it gave the first."""
    fail_stale_trials(study)
    for trial in study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
        start = trial.datetime_start
        if start and PARAMETERS not in trial.user_attrs and time.time() - start.timestamp() > GRACE:
            study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)


def _objective(trial: Trial, *, problem: Problem, plan: Plan, parts: list[Fold]) -> float:
    """The mean loss over the folds; a trial that is worse than the median of those before it is pruned.

    Raises:
        Refused: The model can't be fitted.
    """
    model, is_current = problem.recipe().parameters, CURRENT in trial.user_attrs
    others = [other for other in _counting_trials(trial.study) if other.number != trial.number]
    earlier = [other for other in others if other.number < trial.number]
    alike = sum((CURRENT in other.user_attrs) is is_current for other in earlier)
    if alike >= (1 if is_current else plan.trials - 1):
        raise _SurplusTrialError
    parallel = any(other.state == TrialState.RUNNING for other in others)
    trial.set_user_attr(PARALLEL, parallel)
    # By position, so that a single worker samples the same after it was killed; trials at the same time share no seed.
    seed = int(plan.study[-7:], 16) + (16**7 + trial.number if parallel else len(earlier))
    trial.study.sampler = TPESampler(n_startup_trials=STARTUP_TRIALS, seed=seed, constant_liar=True)
    searched = trial.user_attrs.get(CURRENT, plan.current)
    sampled = {name: _suggest(trial, name, where) for name, where in space_of(model).items() if name in searched}
    parameters = plan.current | ({} if is_current else sampled)
    trial.set_user_attr(PARAMETERS, parameters)
    losses: list[float] = []
    for train, holdout in parts:
        try:
            losses.append(training.loss(problem, model.model_validate(parameters), train, holdout))
        except (optuna.TrialPruned, BadInput, Refused):
            raise
        except Exception as error:  # models raise anything
            values = "the current parameters" if is_current else sampled
            reason = f"{type(error).__name__}: {str(error).strip()}".partition("\n")[0].removesuffix(": ")
            raise Refused(f"the model can't be fitted with {values}: {reason}; change shared/model.py") from error
        trial.report(fmean(losses), len(losses))
        worse = not is_current and len(losses) < len(parts) and trial.should_prune()
        if worse or isnan(losses[-1]):
            raise optuna.TrialPruned
    return fmean(losses)


def _suggest(trial: Trial, name: str, where: Search | Choice) -> Any:  # noqa: ANN401 - as the parameter is
    if isinstance(where, Choice):
        return trial.suggest_categorical(name, where.values)
    if isinstance(where.low, int) and isinstance(where.high, int):
        return trial.suggest_int(name, where.low, where.high, log=where.log)
    value = trial.suggest_float(name, where.low, where.high, log=where.log)
    return min(max(float(f"{value:.{DIGITS}g}"), where.low), where.high)
