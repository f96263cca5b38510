"""Cells on other processes: the records of this one, also where some are lost."""

import os
import signal
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from experiments.console import cli
from experiments.console.flags import Options
from experiments.loop import cluster
from experiments.reproduce import experiment as reproduce
from experiments.reproduce import jobs, remote
from experiments.robustness import experiment as robustness
from experiments.store.records import MEASURED, REQUIRED, RecordStore


class Data(NamedTuple):
    """What of a problem is asked for here."""

    name: str
    fold: int


DATA = [Data("first", 0), Data("first", 1), Data("second", 0)]
TOLERANCES = 0.01, 0.003


def load():
    return DATA


def measure(problem, k, options, store):
    """Two tolerances of every method and seed; two cells kill their worker once."""
    for method in options.methods:
        for seed in options.seeds:
            for tolerance in TOLERANCES:
                cell = dict.fromkeys(REQUIRED, None) | {
                    "experiment": "made", "dataset": problem.name, "model": "none",
                    "method": method, "schedule": "none", "seed": seed,
                    "fold": problem.fold, "attack": "none", "epsilon": 0.0, "k": k,
                    "tolerance": tolerance,
                }  # fmt: skip
                cell = {n: v for n, v in cell.items() if v is not None}
                if store.has(**cell):
                    continue
                mark = (
                    options.models_dir / f"{problem.name}{problem.fold}{method}{seed}"
                )
                deadly = options.preset == "deadly" and problem == DATA[1] and seed == 1
                if deadly and not mark.exists():
                    mark.touch()
                    os.kill(os.getpid(), signal.SIGKILL)
                value = seed + 10 * k + tolerance + 100 * problem.fold + len(method)
                rest = {"value": value, "stderr": None, "n": 1}
                store.append([{**cell, "metric": name, **rest} for name in ("a", "b")])


def flags(folder, preset="usual"):
    return Options(
        datasets=(), methods=("one", "another"), attacks=(), k=(2,), epsilon=(0.0,),
        seeds=(0, 1, 2), data_dir=folder, models_dir=folder, output_dir=folder,
        preset=preset, progress=False, config={},
    )  # fmt: skip


def values(store):
    """Each record's identity -> what was measured."""
    return {
        tuple(sorted((n, v) for n, v in r.items() if n not in MEASURED)): r["value"]
        for r in store.select()
    }


def in_this_process(folder, options):
    store = RecordStore(folder / "alone.jsonl")
    for data in DATA:
        measure(data, 2, options, store)
    assert len(store) == 3 * 2 * 3 * 2 * 2
    return store


def test_a_share_asks_for_its_own_missing_cells_alone(tmp_path):
    alone = in_this_process(tmp_path, flags(tmp_path))
    only = {"method": "one", "seed": 2}
    mine = alone.select(dataset="first", fold=0, **only)
    known = [r for r in mine if r["tolerance"] == 0.01]
    for there, count in ((known, 1), ([], 2), (mine, 0)):
        share = cluster.Share(there, only)
        measure(DATA[0], 2, flags(tmp_path), share)
        assert len(share.cells) == count
        for cell in share.cells:
            assert [r["metric"] for r in cell] == ["a", "b"]
            assert {(r["method"], r["seed"]) for r in cell} == {("one", 2)}
    nothing = cluster.Share([], None)
    measure(DATA[0], 2, flags(tmp_path), nothing)
    assert nothing.cells == []


@pytest.mark.parametrize("experiment", [robustness, reproduce])
def test_a_scheduler_without_dask_is_refused_by_the_name_of_the_extra(
    experiment, tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, "distributed", None)
    folder = tmp_path / "results"
    with pytest.raises(SystemExit, match="1"):
        cli.call(
            experiment, "--preset=smoke", "--scheduler=local", f"--output_dir={folder}"
        )
    told = capsys.readouterr().err
    assert "--scheduler=local needs Dask" in told and "r2et-jax[cluster]" in told
    assert not folder.exists()


@pytest.fixture(scope="module")
def client():
    """Two workers, each in a process of its own that is started again when it dies."""
    pytest.importorskip("distributed", reason="of the extra cluster")
    with cluster.connect(cluster.LOCAL, workers=2) as client:
        yield client


def on(client, options, store):
    cells = ((data, options, 2) for data in DATA)
    cluster.measure(client, measure, cells, store, load=load, show=False)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of sockets of workers that were killed
def test_workers_that_die_lose_no_cell_and_measure_none_twice(client, tmp_path):
    expected = values(in_this_process(tmp_path, flags(tmp_path)))
    options = flags(tmp_path, preset="deadly")
    store = RecordStore(tmp_path / "records.jsonl")
    # Known before, and not measured again: it would be refused.
    share = cluster.Share([], {"method": "one", "seed": 0})
    measure(DATA[0], 2, options, share)
    store.append(share.cells[0])
    on(client, options, store)
    assert values(store) == expected
    died = sorted(path.name for path in tmp_path.iterdir() if not path.suffix)
    assert died == ["first1another1", "first1one1"]
    assert values(RecordStore(tmp_path / "records.jsonl")) == expected
    on(client, options, store)  # nothing is left to do
    assert len(store) == len(expected)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_cluster_is_joined_by_its_address(client):
    with cluster.connect(client.scheduler.address) as other:
        assert len(other.nthreads()) == 2
        assert other.submit(sum, [1, 2]).result() == 3
    with pytest.raises(ValueError, match=r"--scheduler must be .* got 'nowhere'"):
        with cluster.connect("nowhere"):
            pass


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_the_job_of_a_worker_that_dies_runs_again(client, tmp_path):
    mark = tmp_path / "mark"
    deadly = (
        "import os, pathlib, signal, sys; mark = pathlib.Path(sys.argv[1])\n"
        "if not mark.exists(): mark.touch(); os.kill(os.getppid(), signal.SIGKILL)\n"
        "print('done')"
    )

    def job(name, code, after=()):
        command = sys.executable, "-c", code, str(mark)
        return jobs.Job(name, command, tmp_path / f"{name}.txt", 1.0, after)

    planned = [
        job("deadly", deadly),
        job("bad", "raise SystemExit(3)"),
        job("last", "print('last')", ("deadly", "bad")),
    ]
    ended = []
    statuses = jobs.run_jobs(
        planned,
        workers=2,
        show=False,
        start=remote.starter(client),
        ended=lambda job, status: ended.append(job.name),
    )
    assert statuses == {"deadly": 0, "bad": 3, "last": 0}
    assert ended[-1] == "last" and mark.exists()
    assert jobs.last_lines(tmp_path / "deadly.txt")[-1] == "done"


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_robustness_on_a_cluster_measures_what_one_process_does(tmp_path):
    pytest.importorskip("distributed", reason="of the extra cluster")
    written = []
    for more in ((), ("--scheduler=local",)):
        folder = tmp_path / f"run{len(more)}"
        cli.call(
            robustness, "--preset=smoke", "--noprogress", "--datasets=breast_cancer",
            "--methods=logistic,vanilla,r2et_nh", "--attacks=er_surrogate",
            "--epsilon=1", "--seeds=0,1", f"--output_dir={folder}",
            f"--models_dir={folder / 'models'}", *more,
        )  # fmt: skip
        records = values(RecordStore(Path(folder) / "records.jsonl"))
        written.append(
            {n: v for n, v in records.items() if ("metric", "train_seconds") not in n}
        )
    assert len(written[0]) > 500 and written[0] == written[1]
