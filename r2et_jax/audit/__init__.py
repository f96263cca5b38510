"""The audit of a model: how far its top features can be trusted.

`r2et_jax.audit(model, params, x, k=8)` calls the function `audit` of this package;
`r2et_jax.harden(model, params, data, k=8)` trains the model until they hold.
"""

from r2et_jax.audit.comparison import compare
from r2et_jax.audit.hardening import harden
from r2et_jax.audit.result import Audit
from r2et_jax.audit.whole import audit

__all__ = ["Audit", "audit", "compare", "harden"]
