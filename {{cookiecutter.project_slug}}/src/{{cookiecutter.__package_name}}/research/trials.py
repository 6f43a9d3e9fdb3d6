"""The work of a search: trials, one after the other or side by side in processes, until every place is finished."""

import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from pathlib import Path
from statistics import fmean
from typing import Any

import click
import optuna
import polars as pl
from optuna.pruners import MedianPruner
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial, Trial, TrialState

from {{cookiecutter.__package_name}}.research.study import (
    LOOK,
    PLACE,
    VALUES,
    Given,
    Plan,
    alone,
    counting,
    fill,
    finished,
    look,
    loss_of,
    lowest,
    opened,
)
from {{cookiecutter.__package_name}}.shared import BadInput, Refused, training
from {{cookiecutter.__package_name}}.shared.folds import Fold, folds
from {{cookiecutter.__package_name}}.shared.problem import Problem
from {{cookiecutter.__package_name}}.shared.search import Choice, Search, Space, space_of

AHEAD = 8  # places that may be tried at the same time; of many, a quarter of those before
AT_RANDOM, UNPRUNED = 6, 4  # results before the sampler learns from them, and before the pruner judges by them
DIGITS = 3  # of a number that is tried


@dataclass(frozen=True)
class Tried:
    """A finished trial: its parameters, and their mean loss over the folds, unless it was pruned."""

    values: dict[str, Any]
    loss: float | None


def search(problem: Problem, plan: Plan, rows: pl.DataFrame, *, workers: int) -> tuple[list[Tried], float]:
    """Try what is not tried yet.

    Returns:
        The finished trials in the order of their places, and the share of the cores' time that the workers used.

    Raises:
        BadInput: The database can't be used, or another command searches in the journal.
        Refused: The model can't be fitted, or a worker was ended.
    """
    with alone(plan), opened(plan) as study:
        fill(study, plan)
        began, left = time.monotonic(), plan.trials - len(finished(study, plan))
        with _progress(study, plan) as show:
            if min(workers, left) > 1:
                busy = _side_by_side(problem, plan, rows, min(workers, left), show)
            else:
                before = time.process_time()
                work(study, problem, plan, rows, show)
                busy = time.process_time() - before
        tried = [Tried(trial.user_attrs[VALUES], loss_of(trial)) for trial in finished(study, plan).values()]
        return tried, busy / (time.monotonic() - began) / (os.cpu_count() or 1)


@contextmanager
def _progress(study: optuna.Study, plan: Plan) -> Iterator[Callable[[], None]]:
    """A bar, and what moves it."""

    def told(best: float | None) -> str:
        return "" if best is None else f"best {best:.4f}"

    with click.progressbar(length=plan.trials, label="tune", item_show_func=told, file=sys.stderr) as bar:

        def show() -> None:
            done = finished(study, plan)
            bar.update(len(done) - bar.pos, lowest(done))

        yield show
        show()


def _side_by_side(problem: Problem, plan: Plan, rows: pl.DataFrame, workers: int, show: Callable[[], None]) -> float:
    """Let processes work, one thread each; return the seconds of a core that they used."""
    spawn, busy = multiprocessing.get_context("spawn"), 0.0
    with tempfile.TemporaryDirectory() as folder, _one_thread():
        file = Path(folder, "rows.parquet")
        rows.write_parquet(file)
        pipes = [spawn.Pipe(duplex=False) for _ in range(workers)]
        processes = [spawn.Process(target=_process, args=(problem, plan, file, pipe), daemon=True) for _, pipe in pipes]
        open_pipes = [reader for reader, _ in pipes]
        try:
            for process, (_, writer) in zip(processes, pipes, strict=True):
                process.start()
                writer.close()
            while open_pipes:
                ready = wait(open_pipes, LOOK)
                busy += sum(_answer(reader) for reader in open_pipes if reader in ready)
                open_pipes = [reader for reader in open_pipes if reader not in ready]
                show()
        finally:
            for process in processes:
                process.terminate()
                process.join()
    return busy


@contextmanager
def _one_thread() -> Iterator[None]:
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        os.environ.pop("OMP_NUM_THREADS")
        os.environ |= {} if before is None else {"OMP_NUM_THREADS": before}


def _answer(reader: "Connection[Any, Any]") -> float:
    try:
        answer: float | BadInput | Refused = reader.recv()
    except EOFError as error:
        raise Refused("a worker of tune was ended from outside: run again to go on, with fewer --workers") from error
    if isinstance(answer, Exception):
        raise answer
    return answer


def _process(problem: Problem, plan: Plan, file: Path, pipe: "Connection[Any, Any]") -> None:
    """What a process does: work, and end with the one that started it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it reaches the whole group; the command says what there is to say
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        with opened(plan) as study:
            work(study, problem, plan, pl.read_parquet(file), lambda: None)
        pipe.send(time.process_time())
    except (Refused, BadInput) as error:
        pipe.send(error)


def _end_with_parent() -> None:
    if parent := multiprocessing.parent_process():
        parent.join()
    os._exit(1)


class _Taken(Exception):
    """Another trial has the place."""


def work(study: optuna.Study, problem: Problem, plan: Plan, rows: pl.DataFrame, show: Callable[[], None]) -> None:
    """Do trials until all places are finished, here or elsewhere.

    Raises:
        Refused: The model can't be fitted.
    """
    parts = list(folds(problem, rows, plan.folds))
    measure = partial(_loss, plan=plan, problem=problem, parts=parts)
    while len(finished(study, plan)) < plan.trials:
        look(study)
        if study.get_trials(deepcopy=False, states=[TrialState.WAITING]):
            study.optimize(measure, n_trials=1, catch=(_Taken,))
        else:
            time.sleep(LOOK)
        show()


def _loss(trial: Trial, *, plan: Plan, problem: Problem, parts: list[Fold]) -> float:
    """The mean loss on all parts; a trial that is worse than the median of those before it ends early."""
    place, model = _place(trial), problem.recipe().parameters
    space, past = space_of(model), _past(trial, plan)
    asked = past.ask()
    tried = {name: _tidy(suggested(asked, name, where), where) for name, where in space.items()} if place else {}
    values = plan.current | tried
    trial.set_user_attr(VALUES, values)
    _record(trial, space, values)
    losses: list[float] = []
    for rows, held in parts:
        with _fitting(tried):
            losses.append(training.loss(problem, model.model_validate(values), rows, held))
        for told in (trial, asked):
            told.report(fmean(losses), len(losses))
        if asked.should_prune() and len(losses) < len(parts):
            raise optuna.TrialPruned
    return fmean(losses)


@contextmanager
def _fitting(tried: dict[str, Any]) -> Iterator[None]:
    """Say in one line what a model raises.

    Raises:
        Refused: It can't be fitted.
    """
    try:
        yield
    except (optuna.TrialPruned, BadInput, Refused):
        raise
    except Exception as error:  # models raise anything
        reason = f"{type(error).__name__}: {str(error).strip()}".partition("\n")[0].removesuffix(": ")
        model = f"the model can't be fitted with {tried or 'the parameters that are there'}"
        raise Refused(f"{model}: {reason}; change shared/model.py") from error


def _place(trial: Trial) -> int:
    """The trial's place, unless it has none or another trial was there first: two commands may have filled a study."""
    place = trial.user_attrs.get(PLACE)
    earlier = [other.user_attrs.get(PLACE) for other in counting(trial.study) if other.number < trial.number]
    if not isinstance(place, int) or place in earlier:
        raise _Taken
    return place


def _past(trial: Trial, plan: Plan) -> optuna.Study:
    """What the trial's place may know, when it is known, as a study of its own."""
    place, study = trial.user_attrs[PLACE], trial.study
    known = place - max(AHEAD, place // 4)
    while any(_awaited(other, trial, known) for other in study.get_trials(deepcopy=False)):
        look(study)
        time.sleep(LOOK)
    seed = (int(plan.name.rpartition("-")[2], 16) + place) % 2**32
    sampler = TPESampler(n_startup_trials=AT_RANDOM, seed=seed)
    past = optuna.create_study(sampler=sampler, pruner=MedianPruner(n_startup_trials=UNPRUNED))
    for at, done in finished(study, plan).items():
        if at < known:
            with suppress(ValueError):  # what was there may lie outside of where it is searched
                past.add_trial(done)
    return past


def _awaited(other: FrozenTrial, trial: Trial, known: int) -> bool:
    earlier = other.number < trial.number and other.user_attrs.get(PLACE, known) < known
    return earlier and not other.state.is_finished()


def suggested(trial: Trial, name: str, where: Search | Choice) -> Any:  # noqa: ANN401 - as the parameter is
    """A value, as the trial's study suggests it."""
    if isinstance(where, Choice):
        return trial.suggest_categorical(name, where.values)
    if isinstance(where.low, int) and isinstance(where.high, int):
        return trial.suggest_int(name, where.low, where.high, log=where.log)
    return trial.suggest_float(name, where.low, where.high, log=where.log)


def _tidy(value: Any, where: Search | Choice) -> Any:  # noqa: ANN401
    """A number that people can read: its last digits make no difference."""
    if isinstance(where, Choice) or not isinstance(value, float):
        return value
    return min(max(float(f"{value:.{DIGITS}g}"), where.low), where.high)


def _record(trial: Trial, space: Space, values: dict[str, Any]) -> None:
    """Keep what is tried where Optuna's own tools look for it."""
    sampler = trial.study.sampler
    if isinstance(sampler, Given):
        sampler.values = values
    with suppress(ValueError):  # what was there may be none of the choices
        for name, where in space.items():
            suggested(trial, name, where)
