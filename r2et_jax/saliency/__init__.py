"""Explanations of a score: nonnegative importances of the features of one input.

Every factory returns `saliency(params, x, target) -> map`, differentiable in `params`
and in `x`, so that explanations serve inside losses and attacks. Maps are divided by
their sum by default; a map of zeros stays zero, in value and derivative. A gradient
with NaN or ∞ gives a map with NaN, never one of plausible numbers. `smooth_grad` and
`expected_gradients` draw and take a keyword `key` besides.

Explanations that are means over many points evaluate `chunk_size` of them at a time,
forward and backward, so that their memory is that of one chunk. A batch of inputs
multiplies it: bound that by `execution.map_batched`. Captum calls it
`internal_batch_size`.
"""

from r2et_jax.saliency.gradients import gradient, gradient_times_input
from r2et_jax.saliency.grouped import by_variable, of_pixels
from r2et_jax.saliency.means import (
    convergence_delta,
    expected_gradients,
    integrated_gradients,
    smooth_grad,
)
from r2et_jax.saliency.occluding import occlusion

__all__ = [
    "by_variable",
    "convergence_delta",
    "expected_gradients",
    "gradient",
    "gradient_times_input",
    "integrated_gradients",
    "occlusion",
    "of_pixels",
    "smooth_grad",
]
