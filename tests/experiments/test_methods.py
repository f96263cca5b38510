"""A method of training is added in two places, and every table knows it then."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
# File -> (a line, what is written below it).
PLACES = {
    "r2et_jax/objectives/methods.py": (
        (
            "TERMS: dict[str, Term] = {\n",
            '    "made": Term(lambda apply, s: penalties.mean_gap(apply, k=s.k)),\n',
        ),
        (
            "METHODS: dict[str, Method] = {\n",
            '    "made_up": Method("a made-up penalty", ("made",)),\n',
        ),
    ),
    "experiments/problems/methods.py": (
        ("ROWS = {\n", '    "made_up": Row("baseline", structured=True),\n'),
    ),
}
SEEN = """
import json
from experiments.console import cli
from experiments.loop import asked
from experiments.problems import methods, presets, protocols
from experiments.robustness import claims, tables
from experiments.train import experiment
print(json.dumps({
    "known": "made_up" in asked.WITH_LOGISTIC,
    "full table": "made_up" in presets.FLAGS["robustness"]["methods"]["paper"],
    "images": "made_up" in protocols.methods("standard", "image"),
    "family": methods.family("wd+made_up"),
    "to beat": "made_up" in claims.OTHERS,
    "described": tables.describe("wd+made_up"),
    "settings": len(protocols.weight_grid("made_up", protocols.PRESETS["paper"])),
}))
cli.call(experiment, "--preset=smoke", "--noprogress", "--methods=made_up",
         "--models_dir=models", "--output_dir=out")
"""


def test_a_method_is_added_in_two_places(tmp_path):
    for folder in ("r2et_jax", "experiments"):
        shutil.copytree(CHECKOUT / folder, tmp_path / folder)
    for name, edits in PLACES.items():
        text = (tmp_path / name).read_text(encoding="utf-8")
        for line, added in edits:
            assert text.count(line) == 1, f"{name} has no line {line!r}"
            text = text.replace(line, line + added)
        (tmp_path / name).write_text(text, encoding="utf-8")
    run = subprocess.run(
        [sys.executable, "-c", SEEN],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout.splitlines()[0]) == {
        "known": True,
        "full table": True,
        "images": True,
        "family": "baseline",
        "to beat": True,
        "described": "coupled L2 of the weight matrices; plus a made-up penalty "
        "(baseline)",
        "settings": 12,
    }
    trained = (tmp_path / "out" / "records.jsonl").read_text(encoding="utf-8")
    assert {json.loads(line)["method"] for line in trained.splitlines()} == {"made_up"}
