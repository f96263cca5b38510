"""`python -m experiments.case_study`: see `experiment`."""

from experiments.case_study import experiment
from experiments.console import cli

cli.run(experiment)
