"""`python -m experiments.motivation`: see `experiment`."""

from experiments.console import cli
from experiments.motivation import experiment

cli.run(experiment)
