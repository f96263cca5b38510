"""`python -m experiments.quickstart`: see `experiment`."""

import experiments.quickstart.compiling  # noqa: F401  # isort: skip
from experiments.console import cli
from experiments.quickstart import experiment

cli.run(experiment)
