"""The experiment `motivation`: numbers by SciPy, the example, records, resumption."""

import json

import numpy as np
import pytest
from scipy import stats

from experiments.console import cli
from experiments.loop import parts
from experiments.motivation import experiment, measure, report
from experiments.problems import presets, protocols
from experiments.report import exhibit
from experiments.store import records
from tests.experiments import small_runs

METHODS, SEEDS = ("vanilla", "r2et"), (0, 3)
NUM_TEST = 9
TINY = protocols.PRESETS["smoke"]._replace(num_test=NUM_TEST)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run, the call that repeats it, and what was perturbed."""
    folder = tmp_path_factory.mktemp("motivation")
    kept = []

    def call(*arguments):
        fixed = (
            "--preset=smoke", "--noprogress", f"--methods={','.join(METHODS)}",
            "--attacks=random,er_surrogate", "--seeds=0,3", f"--output_dir={folder}",
        )  # fmt: skip
        cli.call(experiment, *fixed, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(protocols.PRESETS, "smoke", TINY)
        patch.setattr(parts, "models", small_runs.untrained)
        patch.delenv("R2ET_DEBUG", raising=False)
        records_of = measure.measure
        patch.setattr(
            measure,
            "measure",
            lambda moved, units: kept.append(moved) or records_of(moved),
        )
        call()
        yield folder, call, kept


def test_distances_overlaps_and_correlations_by_numpy_and_scipy(finished):
    *_, kept = finished
    moved = kept[0]
    drawn = presets.NUM_DIRECTIONS
    assert moved.sources == ("random",) * drawn + ("er_surrogate",) * 2
    change = np.abs(moved.maps - moved.clean[:, None])
    for i, order in enumerate((1, 2, np.inf)):
        expected = np.linalg.norm(change, ord=order, axis=2)
        np.testing.assert_allclose(moved.distance[:, i], expected, rtol=1e-4, atol=1e-7)
    clean_top = np.argsort(-moved.clean, axis=1)[:, :8]
    top = np.argsort(-moved.maps, axis=2)[:, :, :8]
    for m in range(NUM_TEST):
        expected = [np.isin(row, clean_top[m]).mean() for row in top[m]]
        np.testing.assert_allclose(moved.overlap[m], expected)
        for i in range(3):
            pair = moved.distance[m, i], moved.overlap[m]
            tau = stats.kendalltau(*pair).statistic
            np.testing.assert_allclose(moved.kendall[m, i], tau, rtol=1e-4, atol=1e-6)
            rho = stats.spearmanr(*pair).statistic
            np.testing.assert_allclose(moved.spearman[m, i], rho, rtol=1e-4, atol=1e-6)
    # Attacks find less overlap than random directions.
    assert moved.overlap[:, drawn:].mean() < moved.overlap[:, :drawn].mean()


def test_records_count_pairs(finished):
    folder, _, kept = finished
    store = records.RecordStore(folder / "records.jsonl")
    assert {r["attack"] for r in store.select()} == {"random+er_surrogate"}
    here = {"method": "vanilla", "seed": 0, "norm": "linf"}
    random = np.arange(presets.NUM_DIRECTIONS + 2) < presets.NUM_DIRECTIONS
    shares = {kind: [] for kind in ("all", "random", "mixed", "attacks")}
    for d, o in zip(kept[0].distance[:, 2], kept[0].overlap, strict=True):
        counts = {kind: [0, 0] for kind in shares}
        for i in range(d.size):
            for j in range(i):
                sign = np.sign(d[i] - d[j]) * np.sign(o[i] - o[j])
                kinds = "attacks", "mixed", "random"
                for kind in ("all", kinds[int(random[i]) + int(random[j])]):
                    counts[kind][0] += sign > 0
                    counts[kind][1] += sign != 0
        for kind, (misled, untied) in counts.items():
            if untied:
                shares[kind].append(misled / untied)
    for kind, values in shares.items():
        (record,) = store.select(metric="discordant", pairs=kind, **here)
        assert record["n"] == len(values)
        if values:
            assert record["value"] == pytest.approx(np.mean(values), abs=1e-5)
    (lowest,) = store.select(metric="p@k_lowest", method="vanilla", seed=0)
    (farthest,) = store.select(metric="p@k_farthest", **here)
    assert lowest["value"] <= farthest["value"]
    # One run of each method is drawn.
    assert {r["seed"] for r in store.select(metric="points")} == {0}


def test_the_example_is_nearer_in_all_norms_and_keeps_fewer(finished):
    folder, *_ = finished
    store = records.RecordStore(folder / "records.jsonl")
    chosen = {r["role"]: r for r in store.select(metric="example", method="vanilla")}
    near, far = chosen["nearer"], chosen["farther"]
    assert near["value"] < far["value"]
    assert all(near[norm] < far[norm] for norm in ("l1", "l2", "linf"))
    names = chosen["clean"]["features"].split(";")
    values = {role: np.array(r["values"]) for role, r in chosen.items()}
    for role, kept in (("nearer", near["value"]), ("farther", far["value"])):
        tops = (set(np.argsort(-values[r])[:8]) for r in ("clean", role))
        assert len(set.intersection(*tops)) / 8 == kept
        assert values[role].size == len(names)


def test_no_example_where_distance_tells_all():
    ramp = np.linspace(0, 1, 4)
    moved = measure.Moved(
        ("mse",) * 4, np.ones((1, 3)), np.ones((1, 4, 3)),
        np.stack([ramp] * 3)[None], 1 - ramp[None], {}, None, None,
    )  # fmt: skip
    assert measure.example(moved, ("a", "b", "c"), k=2) == []


def test_figures_and_claim_are_made_from_records_and_a_second_run_adds_none(
    finished, monkeypatch
):
    folder, call, _ = finished
    shown = exhibit.read(folder)
    assert set(shown.figures) == {
        "distance_breast_cancer.png", "example_breast_cancer.png",
    }  # fmt: skip
    (claim,) = shown.claims
    assert "vanilla, 2 runs" in claim.told()
    before = (folder / "records.jsonl").read_bytes()
    text = json.loads((folder / "exhibit.json").read_text())
    monkeypatch.setattr(measure, "perturb", None)  # nothing is measured again
    call()
    assert (folder / "records.jsonl").read_bytes() == before
    assert json.loads((folder / "exhibit.json").read_text()) == text


def test_the_claim_asks_for_clearly_discordant_pairs_in_every_norm(tmp_path):
    options = type("Common", (), {"k": (8,), "methods": METHODS})
    verdicts = []
    for number, linf in enumerate((0.3, 0.02)):
        store = records.RecordStore(tmp_path / f"{number}.jsonl")
        for seed in range(4):
            cell = dict.fromkeys(records.REQUIRED) | {"fold": 0, "k": 8, "n": 1}
            cell |= {"dataset": "a", "method": "vanilla", "seed": seed}
            shares = {"l1": 0.2, "l2": 0.3, "linf": linf}
            rows = [
                {**cell, "metric": metric, "norm": norm, "pairs": "all",
                 "value": share + 0.001 * seed}
                for metric in ("discordant", "p@k_farthest")
                for norm, share in shares.items()
            ]  # fmt: skip
            store.append([*rows, {**cell, "metric": "p@k_lowest", "value": 0.2}])
        verdicts.append(report.judge(store, "a", options).held)
    assert verdicts == [True, False]
