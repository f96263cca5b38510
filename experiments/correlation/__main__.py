"""`python -m experiments.correlation`: see `experiment`."""

from experiments.console import cli
from experiments.correlation import experiment

cli.run(experiment)
