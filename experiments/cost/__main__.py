"""`python -m experiments.cost`: see `experiment`."""

from experiments.console import cli
from experiments.cost import experiment

cli.run(experiment)
