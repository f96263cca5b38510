"""`python -m experiments.attack`: see `experiment`."""

from experiments.attack import experiment
from experiments.console import cli

cli.run(experiment)
