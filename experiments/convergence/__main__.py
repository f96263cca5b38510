"""`python -m experiments.convergence`: see `experiment`."""

from experiments.console import cli
from experiments.convergence import experiment

cli.run(experiment)
