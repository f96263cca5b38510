"""The presets against what they are spent on."""

import pytest

from experiments.problems import protocols
from experiments.problems.views import GRAPH, IMAGE, TABULAR
from r2et_jax.attacks import ensemble
from r2et_jax.attacks.ensemble import default_ensemble, round_cost
from r2et_jax.models import MLP
from r2et_jax.subject import Form

KINDS = {
    "tabular": (TABULAR, protocols.PRESETS.__getitem__),
    "image": (IMAGE, lambda preset: protocols.protocol(preset, "image", 784)),
    "single": (IMAGE, lambda preset: protocols.protocol(preset, "single", 1024)),
    "graph": (GRAPH, lambda preset: protocols.protocol(preset, "graph", 4005)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("preset", protocols.PRESETS)
def test_every_member_of_strongest_runs_once_within_its_evaluations(kind, preset):
    view, protocol = KINDS[kind]
    evaluations = protocol(preset).strongest_evaluations
    members = default_ensemble(
        Form(MLP().apply),
        k=8,
        num_steps=view.num_steps,
        rho=view.rho,
        evaluations=evaluations,
    )
    # Cells are searched of tables alone, which have room for all that a round may draw.
    kinds = ensemble.KINDS if kind == "tabular" else ("smooth", "many_kinks")
    assert round_cost(members, kinds) <= evaluations
    longest = max(member.num_steps for member in members if member.suited == "cells")
    assert kind != "tabular" or preset == "smoke" or longest == 45
