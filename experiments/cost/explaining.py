"""The part of the experiment `cost` that compares explanations with other libraries'.

Captum's saliency, SmoothGrad and Integrated Gradients on a network of the data set, and
the explanations that Quantus' MaxSensitivity takes in a second. All on the same
weights, inputs and number of threads, warmed, in turn.
"""

from __future__ import annotations

import functools
import os
import time
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.cost import costs
from experiments.cost import images as cost_images
from experiments.cost.workload import Workload
from experiments.problems import presets
from r2et_jax import metrics, models, saliency
from r2et_jax.subject import Subject, explain, subject
from r2et_jax.threat import threat_model

POINTS, SIGMA = 50, 0.1
# Draws, or points, that Captum takes at a time: its best is what counts.
CAPTUM_SIZES = (1, 10, 50)
# Quantus' default of draws, and a ball of that radius.
DRAWS, RADIUS = 20, 0.2
STARTS, STEPS = 4, 50
EXPLAINERS = {
    "gradient": saliency.gradient,
    "smooth_grad": lambda score, **options: functools.partial(
        saliency.smooth_grad(score, num_samples=POINTS, sigma=SIGMA, **options),
        key=jax.random.key(0),
    ),
    "integrated_gradients": functools.partial(
        saliency.integrated_gradients, num_points=POINTS
    ),
}


class Network(NamedTuple):
    """A network with one logit, here and in PyTorch, and inputs of both."""

    model: Any
    params: Any
    x: np.ndarray
    torch_net: Any
    torch_x: np.ndarray


def network(workload: Workload, count: int) -> Network:
    """The published MLP, or of images the CNN by itself."""
    from experiments.cost import torch_explaining as theirs

    if workload.dataset not in presets.COST_IMAGES:
        examined = workload.victim(count)
        x = np.asarray(examined.x)
        net = theirs.mlp(examined.params)
        return Network(examined.model, examined.params, x, net, x)
    shape = cost_images.SHAPES["mnist"]
    images = cost_images.load(workload.dataset, data_dir=workload.data_dir, limit=count)
    x = images.repeated(count).x
    model = models.CNN(num_outputs=1, shape=shape)
    params = model.init(jax.random.key(workload.seed), x[0])
    net = theirs.cnn(params)
    return Network(model, params, x, net, x.reshape(count, 1, *shape[:2]))


def examined(made: Network, name: str) -> Subject:
    """The subject whose explanation is timed."""
    return subject(made.model, made.params, explainer=EXPLAINERS[name])


def measure_captum(workload: Workload) -> list[dict]:
    """Captum's seconds over ours for three explanations of the same inputs."""
    import torch

    from experiments.cost import torch_explaining as theirs

    count, rounds = presets.EXPLAINED[workload.preset]
    made, cores = network(workload, count), _num_cores()
    x = torch.tensor(made.torch_x)
    torch.set_num_threads(cores)
    records = []
    for name in EXPLAINERS:
        build = functools.partial(
            theirs.captum, name, made.torch_net, x, points=POINTS, sigma=SIGMA
        )
        sizes = (1,) if name == "gradient" else CAPTUM_SIZES
        size = costs.fastest({s: build(size=s) for s in sizes}, rounds=1)
        ours = functools.partial(explain, examined(made, name), made.x)
        runs = {"ours": ours, "theirs": build(size=size)}
        note = f"{count} inputs, {cores} threads each"
        note += "" if name == "gradient" else f"; {POINTS} points, Captum {size} a time"
        records += _compared(
            workload,
            "explain",
            runs,
            count,
            rounds,
            against=f"captum {name}",
            note=note,
        )
    return records


def measure_quantus(workload: Workload) -> list[dict]:
    """Evaluations of an explanation a second: `sensitivity_max` and Quantus'.

    Here the draws are followed by an ascent from the best of them, each step of which
    is one evaluation, as a draw is.
    """
    import torch

    from experiments.cost import torch_explaining as theirs

    if workload.dataset in presets.COST_IMAGES:
        return []
    count, rounds = presets.EXPLAINED[workload.preset]
    made, cores = network(workload, count), _num_cores()
    torch.set_num_threads(cores)
    measured = functools.partial(
        metrics.sensitivity_max,
        examined(made, "gradient"),
        made.x,
        threat_model("linf", RADIUS),
        key=jax.random.key(workload.seed),
        num_draws=DRAWS,
        num_starts=STARTS,
        num_steps=STEPS,
    )
    other = theirs.quantus(made.torch_net, made.torch_x, draws=DRAWS, radius=RADIUS)
    evaluations = {"ours": count * (DRAWS + STARTS * STEPS), "theirs": count * DRAWS}
    return _compared(
        workload,
        "evaluation",
        {"ours": measured, "theirs": other},
        evaluations,
        rounds,
        against="quantus sensitivity",
        note=f"{count} inputs, {cores} threads each; {DRAWS} draws each, here "
        f"{STARTS} ascents of {STEPS} steps besides",
    )


def _compared(workload, what, runs, work, rounds, **fields) -> list[dict]:
    """Rates and their ratio, by the clock and by CPU seconds of the process."""
    spent = costs.interleaved(runs, rounds=rounds, pause=0.05, clock=_clocks)
    work = work if isinstance(work, dict) else dict.fromkeys(runs, work)
    rate = {name: work[name] / np.maximum(spent[name], 1e-9) for name in runs}
    wall, cpu = (rate["ours"] / rate["theirs"]).T
    return [
        *workload.spread(f"{what}_ratio", wall, **fields),
        *workload.spread(f"{what}_ratio_cpu", cpu, **fields),
        *workload.spread(f"{what}_rate", rate["ours"][:, 0], **fields),
        *workload.spread(f"{what}_rate_theirs", rate["theirs"][:, 0], **fields),
    ]


def _clocks() -> np.ndarray:
    return np.array([time.perf_counter(), time.process_time()])


def _num_cores() -> int:
    return len(os.sched_getaffinity(0))
