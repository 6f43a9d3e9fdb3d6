"""Compare a project's service with `mlflow models serve` of the same pipeline; prints one JSON object.

Run by `tools/benchmark.py` in the folder of a project that has a champion:
`uv run --isolated --with mlflow --with pandas --with psutil python tools/benchmark_service.py PACKAGE`.

Each server has one worker, and their answers are equal. The service runs in an environment of its dependencies alone;
it validates raw rows, computes their features and logs its answers. MLflow receives ready features.
"""

import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

HOST = "127.0.0.1"
LOAD = Path(__file__).with_name("benchmark_load.py")
ROUNDS, SECONDS, CONNECTIONS = 5, 5.0, 64
ROWS = 1000  # different rows that are sent in turn
PATIENCE = 120  # seconds that a server may take to start
RAW, READY, ALL = "raw", "ready", "all"  # one raw row, one row of features, all rows of features


@dataclass(frozen=True)
class Server:
    """A server that can be started.

    Attributes:
        command: Starts it; the port is added.
        requests: Path and bodies of each kind of request.
        log: File of its output.
    """

    command: tuple[str, ...]
    requests: Mapping[str, tuple[str, list[str]]]
    log: Path


@dataclass(frozen=True)
class Running:
    """A server that runs.

    Attributes:
        server: What was started.
        port: Where it listens.
        process: The process that was started, as psutil has it.
        seconds: From its start to its first answer.
    """

    server: Server
    port: int
    process: Any
    seconds: float

    def load(self, kind: str, seconds: float, connections: int = CONNECTIONS) -> dict[str, Any]:
        """Send requests of a kind for some seconds.

        Raises:
            SystemExit: An answer was not 200.
        """
        path, bodies = self.server.requests[kind]
        plan = {"port": self.port, "path": path, "bodies": bodies, "seconds": seconds, "connections": connections}
        printed = subprocess.run(
            [sys.executable, LOAD], input=json.dumps(plan), stdout=subprocess.PIPE, text=True, check=True
        ).stdout
        sample: dict[str, Any] = json.loads(printed)
        if sample["errors"]:
            sys.exit(f"{path} failed: {'; '.join(sample['errors'])}")
        return sample

    def rate(self, kind: str) -> float:
        """Answers a second."""
        sample = self.load(kind, SECONDS)
        return float(sample["answers"] / sample["seconds"])

    def memory(self) -> float:
        """Resident memory of all its processes, in MB."""
        return float(sum(each.memory_info().rss for each in tree(self.process)) / 1e6)


def tree(process: Any) -> list[Any]:  # noqa: ANN401 - of psutil, which is not in the template's environment
    """A process and all its children."""
    return [process, *process.children(recursive=True)]


@contextmanager
def serving(server: Server) -> Iterator[Running]:
    """Start a server, wait for its first answer, and stop all its processes in the end.

    Raises:
        SystemExit: It ended, or did not answer in time.
    """
    psutil = import_module("psutil")
    with closing(socket.socket()) as free:
        free.bind((HOST, 0))
        port = free.getsockname()[1]
    path, bodies = next(iter(server.requests.values()))
    start = time.perf_counter()
    with server.log.open("w", encoding="utf-8") as log:
        process = psutil.Popen([*server.command, str(port)], stdout=log, stderr=subprocess.STDOUT)
    try:
        while not answers(f"http://{HOST}:{port}{path}", bodies[0]):
            if process.poll() is not None or time.perf_counter() - start > PATIENCE:
                printed = server.log.read_text(encoding="utf-8", errors="replace")[-2000:]
                sys.exit(f"{' '.join(server.command)} does not answer; it printed:\n{printed}")
            time.sleep(0.01)
        yield Running(server, port, process, time.perf_counter() - start)
    finally:
        processes = tree(process) if process.is_running() else []
        for each in processes:
            each.terminate()
        for left in psutil.wait_procs(processes, timeout=20)[1]:
            left.kill()


def answers(address: str, body: str) -> bool:
    """Whether a request is answered."""
    request = urllib.request.Request(address, body.encode(), {"Content-Type": "application/json"})  # noqa: S310 - HTTP
    try:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # this machine is asked without a proxy
        with opener.open(request, timeout=PATIENCE) as answer:
            return bool(answer.read())
    except OSError:
        return False


def prepare(package: str, folder: Path) -> tuple[Server, Server]:
    """Prepare the service on a copy of the lake, and MLflow on the champion's pipeline, both in a folder."""
    workspaces, predict = import_module(f"{package}.core.workspace"), import_module(f"{package}.production.predict")
    datasets, training = import_module(f"{package}.core.datasets"), import_module(f"{package}.core.models.training")
    problem = import_module(f"{package}.shared").PROBLEM
    shutil.copytree(Path("data/lake"), folder / "lake")
    os.environ.update(ML_LAKE=str(folder / "lake"), MLFLOW_DISABLE_TELEMETRY="true", MLFLOW_LOGGING_LEVEL="ERROR")
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # a second start reads what the first compiled
    workspace = workspaces.open_workspace(problem)
    release = predict.champion(workspace)
    raw, ready = rows(workspace, release, predict.features_for)

    # MLflow's scikit-learn flavour without a signature: MLflow would validate each request by one, and be slower.
    known = datasets.training_set(problem, workspace.lake, as_of=release.trained_until, versions=release.tables)
    parameters = problem.model_spec().parameters.model_validate(release.parameters)
    import_module("mlflow.sklearn").save_model(
        training.fit(problem, parameters, known, parity_rows=known.tail(ROWS)).pipeline,
        folder / "model",
        serialization_format="cloudpickle",
        pyfunc_predict_fn="predict_proba",
        pip_requirements=[],
    )
    ours = {
        RAW: ("/predict", [text({"rows": [row]}) for row in raw.to_dicts()]),
        READY: ("/predict/features", [text({"rows": [row]}) for row in ready.to_dicts()]),
        ALL: ("/predict/features", [text({"columns": ready.to_dict(as_series=False)})]),
    }
    split = {READY: [[row] for row in ready.rows()], ALL: [ready.rows()]}
    theirs = {
        kind: ("/invocations", [text({"dataframe_split": {"columns": ready.columns, "data": data}}) for data in each])
        for kind, each in split.items()
    }
    environment = folder / "environment"  # of what serving needs and no more, as the image has it
    settings = os.environ | {"UV_PROJECT_ENVIRONMENT": str(environment)}
    subprocess.run(["uv", "sync", "--locked", "--no-dev", "--quiet"], env=settings, check=True)
    python = str(environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))
    mlflow = ("-m", "mlflow", "models", "serve", "--env-manager", "local", "--model-uri", str(folder / "model"))
    address = ("--host", HOST, "--port")
    return (
        Server((python, "-m", package, "serve", *address), ours, folder / "service.log"),
        Server((sys.executable, *mlflow, *address), theirs, folder / "mlflow.log"),
    )


def rows(workspace: Any, release: Any, features_for: Callable[..., Any]) -> tuple[Any, Any]:  # noqa: ANN401
    """The newest raw rows that the service accepts, and their features as numbers and text."""
    pl = import_module("polars")
    schema, now = workspace.problem.schema.request, workspace.now()
    oldest = now - timedelta(days=workspace.settings.serve_max_age_days)
    found = workspace.lake.scan(schema).select(schema.names).filter(pl.col(schema.event_time) > oldest)
    raw = found.sort(schema.event_time).tail(ROWS).collect()
    raw = pl.concat([raw] * -(-ROWS // len(raw))).head(ROWS)
    return raw, features_for(workspace, raw, now=now).select(
        pl.col(name).fill_null("") if is_text else pl.col(name).cast(pl.Float64)
        for name, is_text in release.features.items()
    )


def require_same(ours: Running, theirs: Running) -> None:
    """Exit unless both servers answer the same: only then they are comparable.

    A number at the edge of a tree's branch may fall to either side of it, since ONNX has 32 bits.
    """
    numpy = import_module("numpy")
    columns = json.loads(ours.load(ALL, 0, 1)["body"])["columns"]
    found = [values for name, values in columns.items() if name.startswith("probability")]
    wanted = numpy.asarray(json.loads(theirs.load(ALL, 0, 1)["body"])["predictions"])[:, -len(found) :]
    same = numpy.isclose(wanted, numpy.column_stack(found), rtol=1e-3, atol=1e-3).all(axis=1)
    if same.mean() < 0.99:
        sys.exit(f"the service and MLflow answer {len(same) - same.sum()} of {len(same)} rows differently")


def compare(measure: Callable[[], tuple[float, float]]) -> dict[str, float]:
    """The medians of pairs that are measured in turn, and the median of their ratios."""
    pairs = [measure() for _ in range(ROUNDS)]
    ours, theirs = (statistics.median(values) for values in zip(*pairs, strict=True))
    return {"ours": ours, "theirs": theirs, "ratio": statistics.median(one / other for one, other in pairs)}


def text(content: object) -> str:
    """A JSON document, with times as text."""
    return json.dumps(content, default=lambda value: value.isoformat())


def main(package: str) -> None:
    """Measure and print."""
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        service, mlflow = prepare(package, Path(folder))
        with serving(service) as ours, serving(mlflow) as theirs:
            require_same(ours, theirs)
            for server in (ours, theirs):  # warm up
                for kind in server.server.requests:
                    server.load(kind, SECONDS, 8)
            found["raw"] = compare(lambda: (ours.rate(RAW), theirs.rate(READY)))
            found["ready"] = compare(lambda: (ours.rate(READY), theirs.rate(READY)))
            memory = ours.memory(), theirs.memory()
            found["memory"] = {"ours": memory[0], "theirs": memory[1], "ratio": memory[0] / memory[1]}

        def start() -> tuple[float, float]:
            with serving(service) as mine:
                first = mine.seconds
            with serving(mlflow) as other:
                return first, other.seconds

        found["start"] = compare(start)
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
