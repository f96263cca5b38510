"""`python -m experiments.tradeoff`: see `experiment`."""

from experiments.console import cli
from experiments.tradeoff import experiment

cli.run(experiment)
