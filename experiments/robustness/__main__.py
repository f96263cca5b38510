"""`python -m experiments.robustness`: see `experiment`."""

from experiments.console import cli
from experiments.robustness import experiment

cli.run(experiment)
