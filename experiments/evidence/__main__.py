"""`python -m experiments.evidence`: see `experiment`."""

from experiments.console import cli
from experiments.evidence import experiment

cli.run(experiment)
