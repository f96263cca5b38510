"""`python -m experiments.gradient_profile`: see `experiment`."""

from experiments.console import cli
from experiments.gradient_profile import experiment

cli.run(experiment)
