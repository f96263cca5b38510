"""`python -m experiments.explainers`: see `experiment`."""

from experiments.console import cli
from experiments.explainers import experiment

cli.run(experiment)
