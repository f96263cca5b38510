"""`python -m experiments.train`: see `experiment`."""

from experiments.console import cli
from experiments.train import experiment

cli.run(experiment)
