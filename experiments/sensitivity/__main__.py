"""`python -m experiments.sensitivity`: see `experiment`."""

from experiments.console import cli
from experiments.sensitivity import experiment

cli.run(experiment)
