"""The Optuna study behind `tune`: its storage, its folds, the evaluation of a trial, and the worker processes.

One trial evaluates the current parameters, all others evaluate parameters from the sampler. Failed trials
do not count: a trial fails if its process is killed, or if concurrent processes start more trials than
planned. Workers run until enough trials have finished.
"""

import multiprocessing
import os
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import inf, isnan
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
from optuna.samplers import BaseSampler, PartialFixedSampler, TPESampler
from optuna.storages import JournalStorage, RDBStorage, fail_stale_trials
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from {{cookiecutter.__package_name}}.core.contracts.schema import AVAILABLE_AT, PREDICTED_AT
from {{cookiecutter.__package_name}}.core.datasets import hash_fractions
from {{cookiecutter.__package_name}}.core.errors import InputError, Rejected, summarize
from {{cookiecutter.__package_name}}.core.models import training
from {{cookiecutter.__package_name}}.core.models.search_space import Choice, Search, space_of
from {{cookiecutter.__package_name}}.core.problem import Problem

FOLDS = 4
POLL = 0.2  # seconds between checks of the trials of other processes
HEARTBEAT, GRACE = 10, 60  # in seconds, with a database: a trial without a heartbeat for GRACE has failed
STARTUP_TRIALS = 6  # sampled at random before the sampler learns from them
UNPRUNED_TRIALS = 4  # completed before the pruner compares with their median
DIGITS = 3  # significant digits of a sampled number, for readability
PARALLEL, PARAMETERS = "parallel", "parameters"  # attributes of a trial

Fold = tuple[pl.DataFrame, pl.DataFrame]


@dataclass(frozen=True)
class Plan:
    """The plan of a search.

    Attributes:
        study: Name of the study; its final hash covers all that affects results, and seeds the sampler.
        storage: A journal file, or the URL of a database that other commands may use too.
        trials: Number of trials to finish.
        current: The current parameters.
    """

    study: str
    storage: str
    trials: int
    current: dict[str, Any]


class _SurplusTrialError(Exception):
    """Other processes started enough trials at the same time."""


def folds(problem: Problem, rows: pl.DataFrame, number: int = FOLDS) -> Iterator[Fold]:
    """Split rows into pairs of training and holdout rows.

    The rows are split by time into blocks of equal size. Each block except the first is a holdout; its
    training rows are those whose labels were available before its first prediction. If rows have no time,
    the folds are assigned by a hash of the row, which is stable when rows arrive later.
    """
    if not problem.schema.event_time:
        block = (hash_fractions(problem, rows, salt="fold") * number).cast(pl.Int64)
        yield from ((rows.filter(block != n), rows.filter(block == n)) for n in range(number))
        return
    times = rows[PREDICTED_AT].sort()
    starts = [times[len(times) * n // (number + 1)] for n in range(1, number + 1)]
    for start, end in zip(starts, [*starts[1:], None], strict=True):
        train = rows.filter(pl.max_horizontal(PREDICTED_AT, AVAILABLE_AT) < start)
        yield train, rows.filter(pl.col(PREDICTED_AT) >= start, True if end is None else pl.col(PREDICTED_AT) < end)


def search(problem: Problem, plan: Plan, rows: pl.DataFrame, *, workers: int) -> list[FrozenTrial]:
    """Run trials until as many as planned are finished.

    Returns:
        All finished trials of the study.

    Raises:
        InputError: The database can't be used, or another command uses the journal.
        Rejected: The model can't be fitted, or a worker process was killed.
    """
    with _exclusive_lock(plan.storage), open_study(plan) as study:
        if "://" not in plan.storage:  # the lock is held: the processes of running trials were killed
            for trial in study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
                study.tell(trial.number, state=TrialState.FAIL)
        workers = min(workers, plan.trials - len(finished_trials(study)))
        if workers > 1:
            _run_workers(problem, plan, rows, workers)
        else:
            _run_trials(problem, plan, rows)
        return finished_trials(study)


def finished_trials(study: optuna.Study) -> list[FrozenTrial]:
    """The completed and the pruned trials, in the order of their start."""
    return study.get_trials(deepcopy=False, states=[TrialState.COMPLETE, TrialState.PRUNED])


def loss_of(trial: FrozenTrial) -> float:
    """The mean loss over the folds; infinite for a pruned trial."""
    return inf if trial.value is None or trial.state == TrialState.PRUNED else trial.value


@contextmanager
def _exclusive_lock(storage: str) -> Iterator[None]:
    """Lock a journal: unlike a database, it has no heartbeats that reveal killed processes.

    Raises:
        InputError: Another command uses the journal.
    """
    if "://" in storage:
        yield
        return
    journal = Path(storage)
    journal.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(f"{storage}.command.lock", timeout=0):
            if journal.exists():  # drop a partial last line, left by a killed process
                os.truncate(journal, journal.read_bytes().rfind(b"\n") + 1)
            yield
    except Timeout as error:
        msg = f"another tune uses {storage}: wait for it, or share a database by --storage URL"
        raise InputError(msg) from error


@contextmanager
def open_study(plan: Plan) -> Iterator[optuna.Study]:
    """Open the plan's study, or create it.

    Raises:
        InputError: The database can't be used.
    """
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    pruner = MedianPruner(n_startup_trials=UNPRUNED_TRIALS)
    try:
        with warnings.catch_warnings(action="ignore", category=optuna.exceptions.ExperimentalWarning):
            storage = _connect(plan.storage) if "://" in plan.storage else _open_journal(plan.storage)
            yield optuna.create_study(storage=storage, study_name=plan.study, pruner=pruner, load_if_exists=True)
            if isinstance(storage, RDBStorage):
                storage.remove_session()
                storage.engine.dispose()
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError, ImportError) as error:
        raise InputError(f"the database of --storage can't be used: {summarize(error)}") from error


def _open_journal(path: str) -> JournalStorage:
    lock = FileLock(f"{path}.lock")  # the operating system releases it when the process ends
    return JournalStorage(JournalFileBackend(path, lock))  # type: ignore[arg-type] # has acquire and release


def _connect(url: str, *, attempts: int = 5) -> RDBStorage:
    options = {"connect_args": {"timeout": GRACE}} if url.startswith("sqlite") else {}
    try:
        return RDBStorage(url, options, heartbeat_interval=HEARTBEAT, grace_period=GRACE)
    except sqlalchemy.exc.SQLAlchemyError:
        if attempts == 1:
            raise
    time.sleep(POLL)  # another command may be creating the tables
    return _connect(url, attempts=attempts - 1)


def _run_workers(problem: Problem, plan: Plan, rows: pl.DataFrame, workers: int) -> None:
    """Run trials in processes with one thread each."""
    spawn, others = multiprocessing.get_context("spawn"), multiprocessing.active_children()
    with (
        patch.dict(os.environ, OMP_NUM_THREADS="1"),  # read when a process starts
        ProcessPoolExecutor(workers, mp_context=spawn, initializer=_initialize_worker) as pool,
    ):
        try:
            for done in as_completed([pool.submit(_run_trials, problem, plan, rows) for _ in range(workers)]):
                done.result()
        except BrokenProcessPool as error:
            msg = "a worker process of tune was killed: run the same command to resume, with fewer --workers"
            raise Rejected(msg) from error
        finally:
            for process in set(multiprocessing.active_children()).difference(others):
                process.terminate()


def _initialize_worker() -> None:
    """Ignore Ctrl-C, which the parent process handles, and exit when the parent ends or is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    if parent := multiprocessing.parent_process():
        parent.join()
    os._exit(1)


def _run_trials(problem: Problem, plan: Plan, rows: pl.DataFrame) -> None:
    """Run trials until as many as planned are finished, by this process or by others."""
    objective = partial(_evaluate, problem=problem, plan=plan, parts=list(folds(problem, rows)))
    with open_study(plan) as study:
        while len(finished_trials(study)) < plan.trials:
            if len(_counting_trials(study)) >= plan.trials:
                _fail_dead_trials(study)
                time.sleep(POLL)
                continue
            try:
                study.optimize(objective, n_trials=1, catch=(_SurplusTrialError,), callbacks=[_report])
            except ValueError as error:
                if "Cannot tell" not in str(error):  # another process has marked this trial as failed
                    raise


def _counting_trials(study: optuna.Study) -> list[FrozenTrial]:
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state != TrialState.FAIL]


def _fail_dead_trials(study: optuna.Study) -> None:
    """Fail trials whose process sends no heartbeat, or was killed before the first one."""
    fail_stale_trials(study)
    for trial in study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
        start = trial.datetime_start
        if start and PARAMETERS not in trial.user_attrs and time.time() - start.timestamp() > GRACE:
            study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)


def _report(study: optuna.Study, trial: FrozenTrial) -> None:
    """Print the result of a trial."""
    if trial.state != TrialState.FAIL:
        result = "pruned" if trial.state == TrialState.PRUNED else f"mean loss {trial.value:.4f}"
        click.echo(f"trial {len(finished_trials(study))}: {result}", err=True)


def _evaluate(trial: Trial, *, problem: Problem, plan: Plan, parts: list[Fold]) -> float:
    """The mean loss over the folds; prune a trial that is worse than the median of earlier trials.

    The current parameters are pruned only if a loss is not a number.

    Raises:
        Rejected: The model can't be fitted.
    """
    values = _sample(trial, problem, plan)
    is_current = values == plan.current
    parameters, losses = problem.model_spec().parameters.model_validate(values), list[float]()
    for train, holdout in parts:
        try:
            losses.append(training.loss(problem, parameters, train, holdout))
        except (optuna.TrialPruned, InputError, Rejected):
            raise
        except Exception as error:  # estimators raise many types
            what = "the current parameters" if is_current else trial.params
            reason = f"{type(error).__name__}: {str(error).strip()}".partition("\n")[0].removesuffix(": ")
            raise Rejected(f"the model can't be fitted with {what}: {reason}; change shared/model.py") from error
        trial.report(fmean(losses), len(losses))
        worse = not is_current and len(losses) < len(parts) and trial.should_prune()
        if worse or isnan(losses[-1]):
            raise optuna.TrialPruned
    return fmean(losses)


def _sample(trial: Trial, problem: Problem, plan: Plan) -> dict[str, Any]:
    """The parameters of a trial: the current ones, unless an earlier trial evaluates them.

    Without concurrent trials, the seed depends on the trial's position: a resumed study samples the same
    parameters. Concurrent trials have random seeds, since equal seeds could give equal parameters.

    Raises:
        _SurplusTrialError: Enough trials were started earlier.
    """
    others = [other for other in _counting_trials(trial.study) if other.number != trial.number]
    earlier = [other for other in others if other.number < trial.number]
    if len(earlier) >= plan.trials:
        raise _SurplusTrialError
    parallel = any(other.state == TrialState.RUNNING for other in others)
    seed = None if parallel else int(plan.study[-7:], 16) + len(earlier)
    sampler: BaseSampler = TPESampler(n_startup_trials=STARTUP_TRIALS, seed=seed, constant_liar=True)
    space, current = space_of(problem.model_spec().parameters), plan.current
    # An earlier trial without the attribute has just started, and may evaluate the current parameters.
    is_current = all(other.user_attrs.get(PARAMETERS, current) != current for other in earlier)
    if is_current:
        space = {name: where for name, where in space.items() if where.contains(current[name])}
        sampler = PartialFixedSampler({name: current[name] for name in space}, sampler)
    trial.study.sampler = sampler
    sampled = {name: _suggest(trial, name, where) for name, where in space.items()}
    parameters = current if is_current else current | sampled
    trial.set_user_attr(PARALLEL, parallel)
    trial.set_user_attr(PARAMETERS, parameters)
    return parameters


def _suggest(trial: Trial, name: str, where: Search | Choice) -> Any:  # noqa: ANN401 - type of the parameter
    if isinstance(where, Choice):
        return trial.suggest_categorical(name, where.values)
    if isinstance(where.low, int) and isinstance(where.high, int):
        return trial.suggest_int(name, where.low, where.high, log=where.log)
    value = trial.suggest_float(name, where.low, where.high, log=where.log)
    return min(max(float(f"{value:.{DIGITS}g}"), where.low), where.high)
