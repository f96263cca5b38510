"""The cells of a run on the workers of a Dask cluster; this process alone writes them.

A worker that is lost takes nothing along but its cells, which another one measures. The
workers need the same checkout, environment and paths: data and models are read, and
models kept, in folders that all of them share.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import pickle
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from absl import flags as absl_flags

from experiments.console.flags import Options
from experiments.console.progress import track
from experiments.problems.registry import Problem
from experiments.store.records import MEASURED, Record, RecordStore, select
from r2et_jax import execution

LOCAL = "local"
_SECONDS = 30  # to find the scheduler
# A worker's last data set and k, see `parts.in_turn`.
_last: list[tuple[str, int]] = []


def define(values: absl_flags.FlagValues) -> None:
    """Define --scheduler."""
    absl_flags.DEFINE_string(
        "scheduler",
        None,
        f"address of a Dask scheduler, such as tcp://host:8786, or {LOCAL} for workers "
        "on this machine (default: without Dask); needs the extra cluster",
        flag_values=values,
    )


def check(scheduler: str | None) -> None:
    """Raise ValueError, before any long work, where --scheduler lacks Dask."""
    if scheduler is None:
        return
    try:
        import distributed  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f"--scheduler={scheduler} needs Dask, which the extra cluster brings: pip "
            f"install 'r2et-jax[cluster]' ({error})"
        ) from None


@contextlib.contextmanager
def connect(scheduler: str, *, workers: int = 2) -> Iterator[Any]:
    """A client of the cluster, for the length of a `with` block.

    Args:
      scheduler: its address, or `LOCAL` for a cluster that ends with the block.
      workers: processes of a local one.

    Raises:
      ValueError: where Dask is not installed, or for an address that is none.
      OSError: if no scheduler answers.
    """
    check(scheduler)
    import dask
    import distributed

    logging.getLogger("distributed").setLevel(logging.ERROR)
    if scheduler != LOCAL:
        try:
            client = distributed.Client(scheduler, timeout=_SECONDS)
        except ValueError as error:
            raise ValueError(
                f"--scheduler must be an address such as tcp://host:8786, or {LOCAL}, "
                f"got {scheduler!r}: {error}"
            ) from None
        with client:
            yield client
        return
    # As this process is: one thread of BLAS would round otherwise.
    same = {"distributed.nanny.pre-spawn-environ": {}}
    with (
        dask.config.set(same),
        distributed.LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            dashboard_address=":0",
            silence_logs=logging.ERROR,
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


class Share:
    """Stands on a worker for the records: only cells of its share are asked for.

    Args:
      known: records of cells that are there.
      only: fields of the share's cells; None for a share without any.
    """

    def __init__(self, known: Iterable[Record], only: dict[str, Any] | None):
        self.known, self.only = list(known), only
        self.cells: list[list[Record]] = []

    def has(self, **cell: Any) -> bool:
        """Whether a cell is not to be measured here."""
        if self.only is None or any(cell[n] != v for n, v in self.only.items()):
            return True
        return bool(select(self.known, **cell))

    def append(self, records: Record | Iterable[Record]) -> None:
        """Keep one cell."""
        cell = [records] if isinstance(records, dict) else list(records)
        self.cells.append([{n: _plain(v) for n, v in r.items()} for r in cell])


def _plain(value):
    return value.item() if getattr(value, "ndim", None) == 0 else value


def measure(
    client: Any,
    fn: Callable[..., None],
    cells: Iterable[tuple[Problem, Options, int]],
    store: RecordStore,
    *,
    load: Callable[[], Iterable[Problem]],
    show: bool,
) -> None:
    """Measure data set × fold × k × method × seed on a cluster.

    A method is trained for all seeds by one worker, and its seeds are then measured by
    any. Cells are written as they arrive.

    Args:
      client: of `connect`.
      fn: `fn(problem, k, options, store)`, of a module; it asks `store.has(**cell)`
        before it measures one, and has no other use for the store but `append`.
      cells: of `parts.in_turn`, with the methods of each.
      store: the records.
      load: loads the problems on a worker; a function of a module, or a partial one.
      show: whether to show progress.

    Raises:
      OSError: if a cell was lost with several workers. Whatever `fn` raises.
    """
    import distributed

    loading = pickle.dumps(load)
    futures = {}
    for problem, options, k in cells:
        for method in options.methods:
            theirs = options._replace(
                methods=(method,),
                progress=False,
                data_dir=options.data_dir.resolve(),
                models_dir=options.models_dir.resolve(),
            )
            where = problem.name, problem.fold
            send = functools.partial(
                client.submit, _share, fn, loading, where, k, theirs
            )
            trained = send((), None, pure=False)
            for seed in options.seeds:
                only = {"method": method, "seed": seed}
                recorded = store.select(dataset=where[0], fold=where[1], k=k, **only)
                known = [
                    {n: v for n, v in record.items() if n not in MEASURED}
                    for record in recorded
                ]
                future = send(known, only, trained, pure=False)
                futures[future] = f"{problem.name} {method}, seed {seed}"
    arriving = distributed.as_completed(list(futures))
    shown = track(arriving, description="measured", show=show, total=len(futures))
    try:
        for future in shown:
            try:
                measured = future.result()
            except distributed.KilledWorker as error:
                raise OSError(
                    f"{futures[future]}: lost with several workers, one after the "
                    f"other; is their memory enough? ({error})"
                ) from None
            for cell in measured:
                store.append(cell)
            del futures[future]
    finally:
        client.cancel(list(futures))


def _share(fn, loading, where, k, options, known, only, after=None):
    """On a worker: the cells of a share, in the order in which they were measured."""
    del after
    if _last and _last != [(where[0], k)]:
        execution.free_programs()
    _last[:] = [(where[0], k)]
    share = Share(known, only)
    fn(_problems(loading)[where], k, options, share)
    return share.cells


@functools.lru_cache(maxsize=1)
def _problems(loading: bytes) -> dict[tuple[str, int], Problem]:
    return {
        (problem.name, problem.fold): problem for problem in pickle.loads(loading)()
    }
