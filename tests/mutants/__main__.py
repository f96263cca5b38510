"""`python -m tests.mutants`, see runner.py."""

import sys

from tests.mutants import runner

sys.exit(runner.main())
