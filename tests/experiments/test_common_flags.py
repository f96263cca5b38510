from pathlib import Path

import pytest
from absl import flags as absl_flags

from experiments.console import flags

DEFAULTS = {
    "datasets": {"smoke": "breast_cancer", "standard": "adult", "paper": "adult,bank"},
    "methods": "vanilla,r2et",
    "epsilon": "0.1,1",
    "seeds": {"smoke": "0", "standard": "0,1,2", "paper": "0,1,2,3,4"},
}
KNOWN = dict(
    datasets=("breast_cancer", "adult", "bank"),
    methods=("vanilla", "wd", "r2et"),
    attacks=("er", "mse"),
)


def read(*arguments, known=KNOWN):
    def define(values):
        absl_flags.DEFINE_integer("steps", 7, "own flag", flag_values=values)
        absl_flags.DEFINE_integer("other", 1, "no part of config", flag_values=values)

    described = flags.describe(
        "robustness", defaults=DEFAULTS, further=("steps",), define=define
    )
    values = described.define()
    values(["binary", *arguments])
    return described.read(values, **known)


def test_defaults_follow_the_preset():
    options = read()
    assert options.preset == "standard" and options.progress
    assert options.datasets == ("adult",) and options.seeds == (0, 1, 2)
    assert options.epsilon == (0.1, 1.0)
    assert options.k == () and options.attacks == ()
    assert options.data_dir == Path("data")
    assert options.output_dir == Path("results/robustness")
    smoke = read("--preset=smoke", "--noprogress")
    assert smoke.datasets == ("breast_cancer",) and smoke.seeds == (0,)
    assert not smoke.progress


def test_given_lists_win_over_the_preset():
    options = read(
        "--preset=paper", "--seeds=3, 1", "--k=8,10", "--epsilon=0", "--attacks=mse,er",
        "--methods=wd+r2et,vanilla",
    )  # fmt: skip
    assert (
        options.seeds == (3, 1) and options.k == (8, 10) and options.epsilon == (0.0,)
    )
    assert options.attacks == ("mse", "er") and options.methods == (
        "wd+r2et",
        "vanilla",
    )
    assert options.datasets == ("adult", "bank")


def test_config_holds_every_flag_resolved():
    options = read("--steps=9", "--k=8")
    assert options.config == {
        "attacks": (), "data_dir": "data", "datasets": ("adult",),
        "epsilon": (0.1, 1.0), "k": (8,), "methods": ("vanilla", "r2et"),
        "models_dir": "results/models", "output_dir": "results/robustness",
        "preset": "standard", "progress": True,
        "seeds": (0, 1, 2), "steps": 9,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--k=abc", "--k takes integers, comma-separated, got 'abc'"),
        ("--k=8,1.5", "got '1.5'"),
        ("--k=0", "k must be an integer of at least 1, got 0"),
        ("--k=8,8", "--k repeats '8'"),
        ("--epsilon=-1", "epsilon must be nonnegative and finite, got -1.0"),
        ("--epsilon=nan", "epsilon must be nonnegative and finite, got nan"),
        ("--epsilon=x", "--epsilon takes numbers, comma-separated, got 'x'"),
        ("--epsilon=1,1.0", "--epsilon repeats '1.0'"),
        ("--seeds=-1", "seeds must be an integer of at least 0, got -1"),
        ("--seeds=", "--seeds must name at least one"),
        ("--seeds=1,", "got ''"),
        ("--seeds=5,4294967301", "at most 4294967295, got 4294967301"),
        ("--seeds=100000000000000000000", "at most 4294967295, got 1000000000000000"),
        ("--k=1000000000000", "k must be an integer of at most 2147483647"),
        ("--epsilon=1e39", "epsilon must be finite in float32, got 1e+39"),
        ("--output_dir=", "--output_dir must name a folder, got an empty name"),
        ("--models_dir=", "--models_dir must name a folder, got an empty name"),
        ("--data_dir= ", "--data_dir must name a folder, got an empty name"),
        ("--datasets=iris", "'iris'; known: adult, bank, breast_cancer"),
        ("--datasets=adult,adult", "--datasets repeats 'adult'"),
        ("--attacks=fgsm", "unknown entry of --attacks 'fgsm'; known: er, mse"),
        ("--methods=wd+foo", "'foo'; known: r2et, vanilla, wd"),
        ("--methods=wd+", "--methods has an empty entry: 'wd+'"),
    ],
)
def test_errors_name_the_flag_and_the_value(argument, message):
    with pytest.raises(ValueError) as caught:
        read(argument)
    assert message in str(caught.value)


def test_without_known_names_any_is_admitted():
    assert read("--methods=mine", known={}).methods == ("mine",)


def test_defaults_are_checked():
    for defaults in ({"dataset": "adult"}, {"seeds": {"smoke": "0"}}):
        with pytest.raises(ValueError, match="dataset|smoke, standard, paper"):
            flags.describe("x", defaults=defaults)


def test_two_experiments_fit_into_one_process():
    first, second = (
        flags.describe(name, defaults={"k": k})
        for name, k in (("one", "1"), ("two", "2"))
    )
    values, others = second.define(), first.define()
    values(["binary"])
    others(["binary", "--k=5"])
    options = second.read(values)
    assert (
        options.k == (2,)
        and options.given["k"] is None
        and first.read(others).k == (5,)
    )
    assert options.output_dir == Path("results/two")
    assert "results/two" == options.config["output_dir"]


def test_a_file_is_its_name_and_its_folder(tmp_path):
    mine, other = tmp_path / "mine.npz", tmp_path / "other" / "more.npz"
    other.parent.mkdir()
    for path in (mine, other):
        path.write_bytes(b"")

    def resolved(*arguments):
        values = flags.describe("robustness", defaults=DEFAULTS).define()
        values(["binary", *arguments])
        flags.resolve_files(values)
        return values["datasets"].value, values["data_dir"].value, values

    assert resolved("--datasets=adult")[:2] == (["adult"], "data")
    assert resolved()[:2] == (None, "data")
    items, folder, values = resolved(f"--datasets=breast_cancer,{mine}")
    assert items == ["breast_cancer", "mine"] and folder == str(tmp_path)
    assert values["data_dir"].present
    assert resolved(f"--datasets={mine}", f"--data_dir={tmp_path}")[0] == ["mine"]
    with pytest.raises(ValueError, match="there is no file .*none.npz"):
        resolved(f"--datasets={tmp_path / 'none.npz'}")
    for further in (f"--datasets={mine},{other}", f"--datasets={mine}"):
        with pytest.raises(ValueError, match="must lie in one folder"):
            resolved(further, f"--data_dir={other.parent}")
