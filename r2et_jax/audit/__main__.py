"""`python -m r2et_jax.audit`: the audit as a command."""

import sys

from r2et_jax.audit.command import main

sys.exit(main())
