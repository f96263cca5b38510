"""`python -m tests.drill`, see runner.py."""

import os
import sys

# Before JAX is imported. Optimising programs would take longer than running them.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
os.environ["MPLBACKEND"] = "Agg"
os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"

from tests.drill import runner

sys.exit(runner.main())
