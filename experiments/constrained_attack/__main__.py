"""`python -m experiments.constrained_attack`: see `experiment`."""

from experiments.console import cli
from experiments.constrained_attack import experiment

cli.run(experiment)
