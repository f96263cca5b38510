"""What the drill breaks: made-up raw files, prepared data, finished runs.

All paths are relative to a folder that is copied for each case.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from data_prep import sources
from tests.drill import children
from tests.drill.children import Outcome, Program

OUT, KEPT, DATA, RAW = "run_out", "kept_models", "prepared", "raw_files"
VICTIM, ATTACKED = "other", "attack_out"
OWN, MODEL = f"{RAW}/own.npz", f"{OUT}/models/breast_cancer-wd-seed0-tolerance0.01"
COMPAS, BANK = "compas-scores-two-years.csv", "bank-additional.zip"
_BANK = "bank-additional-full.csv"
_FOLDERS = (f"--output_dir={OUT}", f"--models_dir={KEPT}", f"--data_dir={DATA}")
_SMOKE = ("--preset=smoke", "--noprogress", "--k=3", "--seeds=0", *_FOLDERS)
# Records of how long something took: no two runs agree.
_TIMES = re.compile("seconds|_time|time_")
_RANDOM_NAME = re.compile("params-[0-9a-f]{12}")


def use_made_up_raw() -> None:
    """Let data_prep expect the made-up raw files, in this process."""
    for name in ("bank", "compas"):
        content = {"bank": _bank, "compas": _compas}[name]()
        (source,) = sources.SOURCES[name]
        digest = hashlib.sha256(content).hexdigest()
        sources.SOURCES[name] = (source._replace(sha256=digest, size=len(content)),)


def _compas() -> bytes:
    rng = np.random.default_rng(0)
    rows = ["sex,age,race,juv_fel_count,juv_misd_count,juv_other_count,priors_count,"
            "days_b_screening_arrest,c_jail_in,c_jail_out,c_charge_degree,is_recid,"
            "score_text"]  # fmt: skip
    for _ in range(240):
        risk, age = rng.normal(), rng.integers(18, 70)
        pick = {
            "sex": rng.choice(["Male", "Female"]),
            "race": rng.choice(["African-American", "Caucasian", "Other", "Asian"]),
            "charge": rng.choice(["F", "M"]),
            "score": "High" if risk + (40 - age) / 20 > 0 else "Low",
        }
        juvenile = ",".join(map(str, rng.poisson(1, 3)))
        rows.append(
            f"{pick['sex']},{age},{pick['race']},{juvenile},{max(0, int(4 * risk + 4))}"
            f",0,2013-08-13 06:03:42,2013-08-{14 + rng.integers(10)} 06:03:42,"
            f"{pick['charge']},0,{pick['score']}"
        )
    return "\n".join([*rows, ""]).encode()


def _bank() -> bytes:
    rng = np.random.default_rng(1)
    numeric = ("age", "campaign", "pdays", "previous", "emp.var.rate", "cons.price.idx",
               "cons.conf.idx", "euribor3m", "nr.employed")  # fmt: skip
    chosen = {
        "marital": ["married", "single", "divorced"],
        "education": ["basic.4y", "high.school", "university.degree", "unknown"],
        **{name: ["yes", "no"] for name in ("default", "housing", "loan", "y")},
        "contact": ["cellular", "telephone"],
        "poutcome": ["success", "failure", "nonexistent"],
    }
    rows = [";".join([*numeric, *chosen])]
    for _ in range(200):
        values = [*rng.integers(1, 60, len(numeric)), *map(rng.choice, chosen.values())]
        rows.append(";".join(map(str, values)))
    return "\n".join([*rows, ""]).encode()


def train(*methods: str, dataset: str = "breast_cancer") -> Program:
    """A smoke run of experiments.train."""
    asked = f"--methods={','.join(methods or ('vanilla',))}", f"--datasets={dataset}"
    return Program("experiments.train", (*_SMOKE, *asked))


def robustness() -> Program:
    """A smoke run of experiments.robustness."""
    asked = ("--methods=vanilla", "--datasets=breast_cancer", "--attacks=er,random",
             "--epsilon=1")  # fmt: skip
    return Program("experiments.robustness", (*_SMOKE, *asked))


def tabular(*names: str) -> Program:
    """Preparation of the made-up raw files."""
    return Program(
        "data_prep.tabular",
        (f"--datasets={','.join(names)}", f"--raw_dir={RAW}", f"--data_dir={DATA}"),
        before=use_made_up_raw,
    )


def attack(model: str) -> Program:
    """An attack on a saved model."""
    flags = (f"--model={model}", "--attacks=random", "--epsilon=1", "--k=3")
    where = (f"--output_dir={ATTACKED}", f"--data_dir={DATA}", "--noprogress")
    return Program("experiments.attack", (*flags, *where))


def make(folder: Path, *programs: Program, deadline: float) -> list[Outcome]:
    """A folder with raw files and somebody else's, and what programs make of it."""
    for name in (RAW, VICTIM):
        (folder / name).mkdir(parents=True)
    folder.chmod(0o755)
    (folder / RAW / COMPAS).write_bytes(_compas())
    with zipfile.ZipFile(folder / RAW / BANK, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo(f"bank-additional/{_BANK}"), _bank())
    rng = np.random.default_rng(2)
    graphs = rng.integers(0, 2, (40, 5, 5)).astype(float)
    np.savez(folder / OWN, adjacency=graphs + graphs.mT, labels=np.arange(40) % 2)
    (folder / VICTIM / "precious.txt").write_text("not yours\n")
    outcomes = []
    for program in programs:
        outcomes.append(children.run(program, folder, deadline=deadline))
        if outcomes[-1].status != 0:
            raise RuntimeError(f"{program} does not run unharmed: {outcomes[-1]}")
    return outcomes


def copy(world: Path, folder: Path) -> Path:
    """A world for one case."""
    shutil.copytree(world, folder, symlinks=True)
    return folder


def results(folder: Path, *outputs: str) -> dict[str, Any]:
    """All that a user sees of runs and prepared data: values, times aside."""
    seen: dict[str, Any] = {}
    for output in outputs:
        for path in sorted((folder / output).rglob("*")):
            name = _RANDOM_NAME.sub("*", str(path.relative_to(folder)))
            if path.name == "records.jsonl":
                seen[name] = [_record(line) for line in path.open()]
            elif path.name == "config.json":
                content = json.loads(path.read_text())
                kept = ("experiment", "flags", "data_sha256")
                seen[name] = {key: content[key] for key in kept}
            elif path.name == "description.json":
                content = json.loads(path.read_text())
                seen[name] = content.get("params_sha256")
            elif path.suffix == ".npz":
                with np.load(path) as file:
                    seen[name] = {key: file[key].tolist() for key in file.files}
    return seen


def names(folder: Path, *outputs: str) -> Counter[str]:
    """How often there is a file of each name: tells litter and loss.

    What is random in names is left out, and with it what Orbax writes in its folders.
    """
    return Counter(
        _RANDOM_NAME.sub("*", str(path.relative_to(folder)))
        for output in outputs
        for path in (folder / output).rglob("*")
        if not any(_RANDOM_NAME.fullmatch(above.name) for above in path.parents)
    )


def tree(folder: Path, *without: str) -> dict[str, str]:
    """Every file of a folder and its digest, some subfolders aside."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.relative_to(folder).parts[0] not in without
    }


def difference(old: dict[str, Any] | Counter, new: dict[str, Any] | Counter) -> str:
    """What differs, in a few words; empty where nothing does."""
    told = [f"{key} is gone" for key in old if key not in new]
    told += [f"{key} is new" for key in new if key not in old]
    told += [f"{key} is another" for key in old if key in new and old[key] != new[key]]
    return ", ".join(told[:3]) + (" …" if len(told) > 3 else "")


def _record(line: str) -> dict[str, Any]:
    record = json.loads(line)
    record.pop("cell_sha256", None)
    if _TIMES.search(record["metric"]):
        record.pop("value")
    return record
