"""A case study from flags to figures: what it chooses, records and draws."""

import json

import numpy as np
import pytest

from experiments.case_study import experiment
from experiments.case_study import measure as case_study_examples
from experiments.case_study import report as case_study_report
from experiments.console import cli
from experiments.models import candidates
from experiments.problems import presets, protocols, registry
from experiments.report import exhibit
from experiments.store import records
from r2et_jax import datasets
from r2et_jax.metrics.ground_truth import truth_precision

# Networks of three kinds of data are compiled and trained.
pytestmark = pytest.mark.slow

TINY = {
    "pretrain_epochs": 8, "epochs": 2, "eval_every": 1, "learning_rate": 5e-3,
    "num_valid": 4, "num_test": 12, "strongest_evaluations": 1800,
}  # fmt: skip
METHODS = ("vanilla", "wd")
DATASETS = ("digits", "planted", "breast_cancer")


@pytest.fixture(scope="module")
def tiny():
    with pytest.MonkeyPatch.context() as patch:
        for kind in ("image", "graph"):
            patch.setitem(presets.CHANGES, ("smoke", kind), TINY)
        patch.setitem(
            protocols.PRESETS, "smoke", protocols.PRESETS["smoke"]._replace(**TINY)
        )
        # Compiles in a fraction of the time.
        patch.setattr(candidates, "_ATTACK", "random")
        patch.delenv("R2ET_DEBUG", raising=False)
        yield


def call(folder, *arguments):
    options = ("--preset=smoke", "--noprogress", "--seeds=3,0", "--num_examples=2")
    options += (f"--methods={','.join(reversed(METHODS))}", "--attacks=random")
    options += (f"--datasets={','.join(DATASETS)}",)
    folders = f"--output_dir={folder}", f"--models_dir={folder / 'models'}"
    cli.call(experiment, *options, *folders, *arguments)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny):
    """The folder of a run of the three kinds of data, and the examples it drew."""
    drawn = []
    drawn_class = case_study_report.Drawn

    class Kept(drawn_class):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            drawn.append(self)

    folder = tmp_path_factory.mktemp("case_study")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(case_study_report, "Drawn", Kept)
        call(folder)
    return folder, drawn


def load(folder, dataset, method):
    cell = {"dataset": dataset, "method": method}
    return case_study_examples.load_arrays(folder, cell)


def value(store, **filters):
    (record,) = store.select(**filters)
    return record["value"]


def test_records_say_what_the_arrays_hold(finished):
    folder, _ = finished
    store = records.RecordStore(folder / "records.jsonl")
    truth = datasets.load("planted").truth
    for dataset in DATASETS:
        for method in METHODS:
            arrays = load(folder, dataset, method)
            here = {"dataset": dataset, "method": method}
            every = store.select(**here, example="all", metric="p@k_inputs")[0]
            np.testing.assert_allclose(every["values"], arrays.precision, atol=1e-4)
            assert (every["seed"], every["n"], every["tolerance"]) == (3, 12, 0.01)
            assert {r["attack"] for r in store.select(**here)} == {"random"}
            for number in (1, 2):
                cell = {**here, "example": number}
                i = store.select(**cell, metric="p@k")[0]["input"]
                k = store.select(**cell, metric="p@k")[0]["k"]
                tops = arrays.tops(k)[:, i]
                kept = (tops[0] & tops[1]).sum() / tops[0].sum()
                np.testing.assert_allclose(
                    value(store, **cell, metric="p@k"), kept, rtol=1e-5
                )
                change = arrays.perturbed[i] - arrays.x[i]
                for name, order in (("l2", 2), ("linf", np.inf)):
                    np.testing.assert_allclose(
                        value(store, **cell, metric=name),
                        np.linalg.norm(change, order),
                        rtol=1e-5,
                    )
                # One logit z: σ(z) of class 1, and the input is classified correctly.
                sign = 1 if arrays.y[i] == 1 else -1
                for name, logits in (
                    ("probability", arrays.clean_logits),
                    ("probability_attacked", arrays.best_logits),
                ):
                    np.testing.assert_allclose(
                        value(store, **cell, metric=name),
                        1 / (1 + np.exp(-sign * float(logits[i, 0]))),
                        rtol=1e-4,
                    )
                assert value(store, **cell, metric="probability") > 0.5
                if dataset == "planted":
                    for name, top in zip(
                        ("truth_precision", "truth_precision_attacked"),
                        tops,
                        strict=True,
                    ):
                        np.testing.assert_allclose(
                            value(store, **cell, metric=name),
                            (top & truth).sum() / top.sum(),
                            rtol=1e-5,
                        )
                else:
                    assert not store.select(**cell, metric="truth_precision")


def test_budgets_and_sizes_are_those_of_each_kind_of_data(finished):
    folder, _ = finished
    store = records.RecordStore(folder / "records.jsonl")
    flags = json.loads((folder / "config.json").read_text())["flags"]
    norms = {"digits": "l2", "planted": "linf", "breast_cancer": "l2"}
    for dataset, norm in norms.items():
        problem = registry.problem(datasets.load(dataset))
        epsilon = max(problem.epsilon["smoke"]) if problem.epsilon else 1.0
        k = problem.k or 8
        problem = {"k": [k], "epsilon": [epsilon], "seeds": [3, 0]}
        # Tables take what the flags say.
        told = flags if dataset == "breast_cancer" else flags["by_dataset"][dataset]
        assert {name: told[name] for name in problem} == problem
        recorded = store.select(dataset=dataset, metric=norm)
        assert len(recorded) == 2 * len(METHODS)
        assert all(0 <= r["value"] <= epsilon * (1 + 1e-4) for r in recorded)
        assert any(r["value"] > 0.5 * epsilon for r in recorded)
        assert {(r["epsilon"], r["k"]) for r in recorded} == {(epsilon, k)}


def test_examples_are_the_same_for_all_methods_and_follow_the_rule(finished):
    folder, _ = finished
    store = records.RecordStore(folder / "records.jsonl")
    text = (folder / "table.md").read_text()
    for dataset in DATASETS:
        arrays = {method: load(folder, dataset, method) for method in METHODS}
        fine = np.logical_and.reduce(
            [a.correct & np.isfinite(a.precision) for a in arrays.values()]
        )
        ranked = sorted(
            (arrays["vanilla"].precision[i], i) for i in range(12) if fine[i]
        )
        expected = [ranked[len(ranked) // 10][1], ranked[len(ranked) * 9 // 10][1]]
        for method in METHODS:
            chosen = [
                r
                for r in store.select(dataset=dataset, method=method, metric="p@k")
                if r["example"] != "all"
            ]
            assert [r["input"] for r in chosen] == expected
            assert {(r["eligible"], r["attacked"]) for r in chosen} == {
                (len(ranked), 12)
            }
        shown = f"quantiles in parentheses: {expected[0]} (0.1), {expected[1]} (0.9)"
        assert shown in text


def test_marks_are_the_top_sets_and_captions_state_the_rule(finished):
    folder, drawn = finished
    captions = json.loads((folder / "captions.json").read_text())
    shown = exhibit.read(folder)
    assert shown.figures == captions
    # The drawn methods do not include R2ET.
    assert {claim.held for claim in shown.claims} == {None}
    assert len(shown.claims) == len(DATASETS)
    pictures = sorted(path.name for path in folder.glob("*.png"))
    assert pictures == sorted(captions) and len(pictures) == 6 == len(drawn)
    for example in drawn:
        name, i = example.problem.name, example.example["input"]
        assert list(example.pairs) == ["vanilla", "wd"]  # vanilla first, in any order
        caption = captions[f"case_study_{name}_{example.number}.png"]
        assert f"test input {i}:" in caption and "Chosen by rule: quantile" in caption
        for method, (before, after) in example.pairs.items():
            arrays = load(folder, name, method)
            for explained, maps, x in (
                (before, arrays.clean_map, arrays.x),
                (after, arrays.best_map, arrays.perturbed),
            ):
                np.testing.assert_array_equal(explained.x.ravel(), x[i])
                order = sorted(range(x.shape[1]), key=lambda j: (-maps[i][j], j))
                top = {j for j in order[: example.k] if maps[i][j] > 0}
                assert set(np.flatnonzero(explained.top)) == top
        panels = [axes for axes in example.figure().axes if axes.collections]
        if name == "digits":
            marks = [c.get_offsets() for axes in panels for c in axes.collections]
            assert sum(map(len, marks)) == sum(
                explained.top.sum()
                for pair in example.pairs.values()
                for explained in pair
            )


def test_a_headline_follows_the_numbers(finished):
    _, drawn = finished
    example = next(d for d in drawn if d.kind == "image")
    whole = {m: {**v, "p@k": 1.0, "linf": 0.1} for m, v in example.values.items()}
    changed = {**whole, "wd": {**whole["wd"], "p@k": 0.625}}
    kept = example.values
    try:
        example.values = whole
        assert example.headline().startswith("The image looks the same; so does")
        example.values = changed
        assert example.headline() == (
            "The image looks the same; the explanation does not\n"
            "Share of the top 8 that stays (P@8): 1.00 (vanilla) vs .62 (wd)"
        )
        example.values = {m: {**v, "linf": 0.5} for m, v in changed.items()}
        assert "No pixel changes by more than .50" in example.headline()
    finally:
        example.values = kept


def test_a_second_run_attacks_and_trains_nothing(finished, monkeypatch):
    folder, _ = finished

    def forbidden(*arguments, **keywords):
        raise AssertionError("measured again")

    monkeypatch.setattr(case_study_examples, "attack_inputs", forbidden)
    monkeypatch.setattr(case_study_examples.setup.Fitter, "fit", forbidden)
    names = ("records.jsonl", "table.md", "captions.json", "case_study_digits_1.png")
    before = {name: (folder / name).read_bytes() for name in names}
    call(folder)
    assert {name: (folder / name).read_bytes() for name in names} == before


def test_a_killed_run_goes_on_where_it_stopped(finished, tmp_path, monkeypatch):
    folder, _ = finished
    lines = (folder / "records.jsonl").read_text().splitlines(keepends=True)
    of_data = [line for line in lines if json.loads(line)["dataset"] == "digits"]
    first = [
        line
        for line in of_data
        if json.loads(line)["method"] == "vanilla"
        and json.loads(line)["example"] == "all"
    ]
    call(tmp_path, "--datasets=digits", f"--models_dir={folder / 'models'}")
    whole = (tmp_path / "records.jsonl").read_text()
    assert whole == "".join(of_data)  # deterministic
    (tmp_path / "records.jsonl").write_text("".join([*first, of_data[len(first)][:40]]))
    attacked = []
    attack = case_study_examples.attack_inputs

    def counted(problem, model, params, cell, *rest):
        attacked.append(cell["method"])
        return attack(problem, model, params, cell, *rest)

    monkeypatch.setattr(case_study_examples, "attack_inputs", counted)
    call(tmp_path, "--datasets=digits", f"--models_dir={folder / 'models'}")
    assert attacked == ["wd"]
    assert (tmp_path / "records.jsonl").read_text() == whole


def test_lost_arrays_are_named(finished, tmp_path, capsys):
    folder, _ = finished
    for name in ("records.jsonl", "config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(SystemExit):
        call(tmp_path)
    assert "arrays/digits_vanilla.npz belongs to the records" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--attacks=er,mse", "--attacks takes one entry here, got er,mse"),
        ("--k=8,9", "--k takes one entry here, got 8,9"),
        ("--epsilon=.1,.2", "--epsilon takes one entry here, got 0.1,0.2"),
        ("--num_examples=0", "num_examples must be"),
        ("--tolerance=.5", "unknown tolerance 0.5; known: 0.003, 0.01"),
        ("--methods=cert_rank", "cert_rank is for tabular data"),
        ("--datasets=digitz", "digitz"),
        ("--k=64", "k must"),
    ],
)
def test_wrong_flags_end_before_any_work(tiny, tmp_path, capsys, flag, message):
    with pytest.raises(SystemExit):
        call(tmp_path, flag)
    assert message in capsys.readouterr().err
    assert not (tmp_path / "config.json").exists()


def test_quantiles_of_the_order_with_ties_and_without_unexplained_inputs():
    correct = np.ones((2, 13), bool)
    correct[1, 4] = False
    precision = np.zeros((2, 13))
    precision[0] = [0.5, 0.5, 0.1, 0.9, 0.0, 0.3, 0.5, 1, 0.8, 0.2, 0.7, 0.6, 0.4]
    precision[1, 7] = np.nan
    precision[1, 3] = 1.0  # of the second method: no matter
    # By P@k, then index: 2, 9, 5, 12, 0, 1, 6, 11, 10, 8, 3.
    examples = case_study_examples.choose(correct, precision, 3)
    assert [e.index for e in examples] == [9, 1, 8]
    assert [e.quantile for e in examples] == pytest.approx([0.1, 0.5, 0.9])
    assert {(e.eligible, e.attacked) for e in examples} == {(11, 13)}
    (middle,) = case_study_examples.choose(correct, precision, 1)
    assert (middle.index, middle.quantile) == (1, 0.5)
    # 0.9 · 10 is position 9, for all that a float makes of it.
    some = np.ones((1, 10), bool), np.arange(10.0)[None]
    assert [e.index for e in case_study_examples.choose(*some, 3)] == [1, 5, 9]


def test_too_few_eligible_inputs():
    correct = np.array([[True, True, False, False]])
    with pytest.raises(ValueError, match="--num_examples=3 is too many.* 2 of 4"):
        case_study_examples.choose(correct, np.zeros((1, 4)), 3)


def test_probabilities_are_of_the_class_predicted_before():
    logits = np.array([[2.0], [-1.0]])
    after = np.array([[-0.5], [-3.0]])
    zeros = np.zeros((2, 4))
    attacked = case_study_examples.Attacked(
        zeros, np.array([1, 1]), zeros, np.ones(2), zeros, zeros, logits, after
    )
    assert attacked.correct.tolist() == [True, False]
    sigmoid = [[2.0, 1.0], [-0.5, 3.0]]
    np.testing.assert_allclose(
        attacked.probabilities(), 1 / (1 + np.exp(-np.array(sigmoid))), rtol=1e-5
    )


def test_precision_of_records_is_the_metric_of_the_library():
    maps = np.random.default_rng(0).random((5, 9))
    truth = np.arange(9) < 3
    summary = truth_precision(truth, maps, k=4)
    logits = np.zeros((5, 1))
    attacked = case_study_examples.Attacked(
        maps, np.zeros(5, int), maps, np.ones(5), maps, maps, logits, logits
    )
    dataset = datasets.load("planted")._replace(truth=truth)
    recorded = {
        r["metric"]: r["value"]
        for r in case_study_examples.whole_records({"k": 4}, attacked, dataset)
    }
    assert recorded["truth_precision"] == pytest.approx(float(summary.mean))
    assert recorded["truth_precision_attacked"] == recorded["truth_precision"]
