"""`python -m experiments.faithfulness`: see `experiment`."""

from experiments.console import cli
from experiments.faithfulness import experiment

cli.run(experiment)
