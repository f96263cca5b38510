"""`python -m experiments.thickness`: see `experiment`."""

from experiments.console import cli
from experiments.thickness import experiment

cli.run(experiment)
