"""`python -m experiments.certify`: see `experiment`."""

from experiments.certify import experiment
from experiments.console import cli

cli.run(experiment)
