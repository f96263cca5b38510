"""`python -m experiments.reproduce`: see `experiment`."""

from experiments.console import cli
from experiments.reproduce import experiment

cli.run(experiment)
