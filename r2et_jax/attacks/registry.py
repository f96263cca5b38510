"""Attacks by name, each called in one line on a subject."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from r2et_jax.attacks.ensemble import DEFAULT_EVALUATIONS, default_ensemble
from r2et_jax.attacks.protocols import SINGLE, SURROGATE_RHO, protocol
from r2et_jax.attacks.results import AttackResult
from r2et_jax.attacks.runner import compile_attack
from r2et_jax.attacks.strongest import compile_strongest
from r2et_jax.checks import check_count, check_in, check_key, check_positive
from r2et_jax.execution import kept
from r2et_jax.score import check_takes
from r2et_jax.subject import Form, Subject
from r2et_jax.threat import ThreatModel
from r2et_jax.threat.definition import check_threat, with_epsilon
from r2et_jax.tracing import traced_once
from r2et_jax.types import Array

STRONGEST = "strongest"
NAMES = (*SINGLE, STRONGEST)

# What each one does, for tables and messages.
DESCRIPTIONS = {
    "er": "ERAttack as published: greedy, unnormalised saliency, 1000 steps of ε/1000",
    "er_segment": "ERAttack on the integral over the segment, 10 points, 100 steps",
    "er_surrogate": "ERAttack through smooth activations, normalised saliency, "
    "200 projected steps of ε/100",
    "mse": "MSE attack, unnormalised saliency, 1000 steps of ε/1000",
    "random": "300 random directions on the boundary of the budget",
    STRONGEST: "the lowest P@k of each input over an ensemble of attacks",
}


def attack(
    name: str = STRONGEST,
    *,
    k: int,
    num_steps: int | None = None,
    track_every: int | None = None,
    rho: float = SURROGATE_RHO,
    evaluations: int = DEFAULT_EVALUATIONS,
    batch_size: int | None = None,
    host_driven: bool | None = None,
) -> Callable[..., AttackResult]:
    """The attack of that name on the top-k set of a model's explanation.

    What moves the input takes norm and budget from the threat model, and gradients of a
    kinked model go through its smooth stand-in, see `Subject`. It compiles once in a
    process for each form of a subject and shape of a batch, also across calls.

    Args:
      name: one of `NAMES`, see `DESCRIPTIONS`; `strongest` is what a defence has to
        withstand.
      k: size of the top set.
      num_steps: steps in place of the published ones, also of those in `strongest`; the
        sum of their lengths stays.
      track_every: every so many steps of an attack of one run the input is judged by
        the model; by default as published.
      rho: sharpness ρ of the smooth stand-in in `er_surrogate`.
      evaluations: of the gradient by `strongest` for each input, at most.
      batch_size: inputs that are attacked at a time on each device, at most; bounds
        the memory.
      host_driven: as in `compile_attack`.

    Returns:
      `run(subject, x [m, n], threat, *, key, epsilon=None) -> AttackResult` with
      leading axis m, NumPy arrays. A list of ε in place of the threat model's own gives
      a list of results, one for each.

    Raises:
      ValueError: for an unknown name, counts below 1; when called, for inputs that the
        threat model does not fit, k out of range.

    Example:
      >>> import jax
      >>> from r2et_jax.models import MLP
      >>> from r2et_jax.subject import subject
      >>> from r2et_jax.threat import threat_model
      >>> x = jax.random.normal(jax.random.key(0), (4, 6))
      >>> model = MLP()
      >>> examined = subject(model, model.init(jax.random.key(1), x[0]))
      >>> run = attack("er_surrogate", k=2, num_steps=20)
      >>> attacked = run(examined, x, threat_model("l2", 0.5), key=jax.random.key(2))
      >>> attacked.precision.shape, attacked.perturbed.shape
      ((4,), (4, 6))
    """
    check_in("attack", name, NAMES)
    check_count("k", k)
    check_count("evaluations", evaluations)
    check_positive("rho", rho)
    settings = (
        name, k, num_steps, track_every, rho, evaluations, batch_size, host_driven,
    )  # fmt: skip
    if name != STRONGEST and num_steps is not None:
        check_count("num_steps", num_steps)

    def run(
        subject: Subject,
        x: Array,
        threat: ThreatModel,
        /,
        *,
        key: Array,
        epsilon: float | Sequence[float] | None = None,
    ) -> Any:
        if not isinstance(subject, Subject):
            raise ValueError(
                "an attack takes a subject, such as subject(model, params), got "
                f"{type(subject).__name__}"
            )
        check_threat(threat)
        check_key(key)
        check_takes(subject, x)
        program = _compiled(subject.form, *settings)

        def at(threat):
            return program(subject.params, x, threat, key=key, context=subject.context)

        if epsilon is None:
            return at(threat)
        if isinstance(epsilon, Sequence) or getattr(epsilon, "ndim", 0):
            return [at(with_epsilon(threat, float(value))) for value in epsilon]
        return at(with_epsilon(threat, epsilon))

    return run


@kept
def _compiled(
    form: Form, name, k, num_steps, track_every, rho, evaluations, batch_size,
    host_driven,
):  # fmt: skip
    """The compiled attack, kept for the process."""
    form = traced_once(form)
    options = {"batch_size": batch_size, "host_driven": host_driven}
    if name == STRONGEST:
        members = default_ensemble(
            form, k=k, num_steps=num_steps, rho=rho, evaluations=evaluations
        )
        return compile_strongest(members, evaluations=evaluations, **options)
    named = protocol(name, form, k=k, num_steps=num_steps, rho=rho)
    return compile_attack(
        named.attack,
        num_steps=named.num_steps,
        track_every=named.track_every if track_every is None else track_every,
        **options,
    )
