"""A Dask cluster for a command: workers of its own on this machine, or those of a scheduler that runs already."""

from __future__ import annotations

import logging
import os
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

import dask
from distributed import Client, Future, LocalCluster, Security, as_completed
from distributed.scheduler import KilledWorker

from pipelines.base.command import warn
from pipelines.capture.options import DASHBOARD, ClusterOptions

LOOPBACK = ("127.0.0.1", "localhost", "::1")
# Beside the dashboard, scheduler and workers would answer HTTP with what they are doing.
NO_HTTP: dict[str, list[str]] = {"distributed.scheduler.http.routes": [], "distributed.worker.http.routes": []}
SETTINGS = {
    # A profile of the workers' Python code that nobody reads.
    "distributed.worker.profile.enabled": False,
}


@dataclass(frozen=True)
class Shared[Value]:
    """A value that all tasks of a run take; its copies are equal, so that a worker can keep what it makes of it."""

    value: Value = field(compare=False)
    token: str = field(default_factory=lambda: uuid.uuid4().hex)


class Cluster:
    """The workers of a connected client, each with one task at a time of ours."""

    def __init__(self, client: Client, *, is_own: bool) -> None:
        self.client = client
        self.is_own = is_own
        assert client.scheduler is not None
        self.address = str(client.scheduler.address)
        client.subscribe_topic("all", _tell_lost_worker)

    @property
    def num_workers(self) -> int:
        """Workers at this moment; those of a running scheduler may come and go."""
        return max(1, len(self.client.scheduler_info(n_workers=-1)["workers"]))

    def run[Result](self, function: Callable[..., Result], **arguments: Any) -> Result:
        """One task; its result, or its error."""
        return self._result(self.client.submit(function, pure=False, **arguments))

    def run_all[Item, Result](
        self, function: Callable[..., Result], items: Sequence[Item], **arguments: Any
    ) -> Iterator[tuple[Item, Result]]:
        """`function(item, **arguments)` of every item, each with its result as it is done, in any order.

        What a lost worker was at runs again elsewhere. The first error ends all.

        Raises:
            ValueError: from a task; the scheduler is lost; or four workers died, one after the other, at one item.
        """
        if not items:
            return
        futures = self.client.map(function, items, pure=False, **arguments)
        waiting = dict(zip(futures, items, strict=True))
        del futures
        try:
            for future in as_completed(list(waiting)):
                result = self._result(future)
                yield waiting.pop(future), result
        finally:
            for future in waiting:
                future.release()

    def _result[Result](self, future: Future[Result]) -> Result:
        try:
            return future.result()
        except KilledWorker as error:
            raise ValueError(
                f"{error.allowed_failures + 1} workers died, one after the other, at the same task, probably for want "
                "of memory. Start again with fewer --workers: finished blocks are kept"
            ) from None
        except CancelledError:
            raise ValueError(
                f"the Dask scheduler at {self.address} was lost. Start it again, then the same command: it goes on "
                "with the first block that is missing"
            ) from None
        except ImportError as error:
            raise ValueError(
                f"the Dask cluster at {self.address} cannot import what it needs ({error}). Start scheduler and "
                "workers in the project's folder and environment: see docs/dask.md"
            ) from None


@contextmanager
def open_cluster(options: ClusterOptions) -> Iterator[Cluster | None]:
    """The cluster that the command line asks for; None where the work is to be done in this process.

    Raises:
        ValueError: no scheduler answers.
    """
    if options.dashboard and (options.workers is None or find_spec("bokeh") is None):
        raise ValueError("--dashboard needs --workers, and bokeh in the environment (uv pip install bokeh)")
    with _quiet(), dask.config.set(SETTINGS):
        if options.scheduler is not None:
            with _join(options.scheduler) as client:
                yield Cluster(client, is_own=False)
        elif options.workers is not None:
            with _start(options.workers, dashboard=options.dashboard) as cluster, Client(cluster) as client:
                if options.dashboard:
                    print(f"dashboard: {cluster.dashboard_link}", file=sys.stderr)
                yield Cluster(client, is_own=True)
        else:
            yield None


def _start(workers: int, *, dashboard: bool) -> LocalCluster:
    """Worker processes on this machine that nobody else can reach.

    Everything listens on the loopback device, with certificates that only this command's processes know: other users
    of the machine are kept out as well.
    """
    with dask.config.set({} if dashboard else NO_HTTP):
        return LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            host="127.0.0.1",
            security=True,
            scheduler_kwargs={"dashboard": dashboard, "dashboard_address": DASHBOARD if dashboard else "127.0.0.1:0"},
            # A share of the memory each would stop workers that the machine has room for.
            memory_limit=None,
            silence_logs=logging.CRITICAL,
        )


@contextmanager
def _join(address: str) -> Iterator[Client]:
    """A client of a scheduler that runs already."""
    parts = urlsplit(address)
    if parts.scheme == "tcp" and parts.hostname not in LOOPBACK:
        warn(f"{address} is not encrypted: whoever reaches that port can run code as you. Use tls://, see docs/dask.md")
    if parts.scheme == "tls" and Security().get_connection_args("client")["ssl_context"] is None:
        raise ValueError(f"{address} needs certificates, and Dask's settings name none: see docs/dask.md, Encryption")
    try:
        client = Client(address)
    except OSError as error:
        raise ValueError(f"no Dask scheduler answers at {address} ({error}). Start one, see docs/dask.md") from None
    with client:
        if not client.scheduler_info(n_workers=-1)["workers"]:
            warn(f"the scheduler at {address} has no worker yet; waiting for the first")
        yield client


def _tell_lost_worker(event: tuple[float, Any]) -> None:
    _, message = event
    if isinstance(message, dict) and message.get("action") == "remove-worker" and not message["expected"]:
        warn(f"worker {message['worker']} was lost; what it was at runs again elsewhere")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Dask's own log: what matters of it is said by us. TRACEBACK=1 shows it."""
    logger = logging.getLogger("distributed")
    level = logger.level
    if os.environ.get("TRACEBACK") != "1":
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)
