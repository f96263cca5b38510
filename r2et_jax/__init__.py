"""Robust top-k explanations in JAX: training, attacks, metrics and curvature.

Start with `r2et_jax.audit.audit` for a model that you have, or with
`r2et_jax.objectives` and `r2et_jax.training` to train one whose ranking holds.
"""
