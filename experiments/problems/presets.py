"""Every number of the presets smoke, standard and paper, in one place.

What each experiment looks at where no flag says otherwise, how models are trained, and
how much is measured.
"""

from __future__ import annotations

from experiments.problems import methods
from r2et_jax import objectives
from r2et_jax.attacks.protocols import SURROGATE_RHO as SURROGATE_RHO
from r2et_jax.training.weights import GRID, HALVING, PAIRED

SCHEDULES = ("pretrain", "scratch")
REFERENCES = ("self", "previous_epoch", "vanilla")

# Validation AUC that a chosen checkpoint may give up against the vanilla model.
TOLERANCES = (0.01, 0.003)
MAIN_TOLERANCE = TOLERANCES[0]
# Features in the top set of tabular data, as published.
TABULAR_K = 8

# The flags of each experiment where they are not given, as they would be typed. Images
# and graphs have k, budgets and seeds of their own, in some experiments also methods.
_EVERY = ",".join(["logistic", *objectives.NAMES, *methods.SUMS])
_SHORT = "vanilla,wd,r2et_nh,r2et"
_BUDGETS = ".1,.25,.5,1"


def _two(smoke: str, others: str) -> dict[str, str]:
    return {"smoke": smoke, "standard": others, "paper": others}


def _three(smoke: str, standard: str, paper: str) -> dict[str, str]:
    return {"smoke": smoke, "standard": standard, "paper": paper}


def _flags(methods, attacks="", epsilon="", **others):
    usual = {
        "datasets": _two("breast_cancer", "adult,bank,compas"),
        "k": str(TABULAR_K),
        "seeds": _two("0,1", "0,1,2,3,4"),
    }
    return {
        **usual,
        "methods": methods,
        "attacks": attacks,
        "epsilon": epsilon,
        **others,
    }


# Where an attack judges, it is not the one that chooses checkpoints.
FLAGS = {
    "motivation": _flags(
        _two("vanilla,r2et", "vanilla,wd,sp,r2et_nh,r2et"),
        "random,er_surrogate,mse",
        "1",
    ),
    "robustness": _flags(
        _two(f"logistic,{_SHORT}", _EVERY),
        _three(
            "er,er_surrogate,mse,random,strongest",
            "er,er_surrogate,mse,random,strongest",
            "er,er_segment,er_surrogate,mse,random,strongest",
        ),
        _two("0.5,1", _BUDGETS),
    ),
    "tradeoff": _flags(_two(f"logistic,{_SHORT}", _EVERY), "strongest", "1"),
    "thickness": _flags(
        _two(_SHORT, "vanilla,wd,sp,r2et_nh,r2et,rat"),
        "er_surrogate",
        _two(".5,1", _BUDGETS),
    ),
    "correlation": _flags(
        _two("vanilla,r2et_nh", "vanilla,wd,sp,r2et_nh,r2et"), "er_surrogate", "1"
    ),
    "constrained_attack": _flags("vanilla", "constrained", "1"),
    "sensitivity": _flags(
        _two("vanilla,r2et_mm", "vanilla,r2et,r2et_mm,r2et_anchored"),
        "strongest",
        "1",
        datasets=_three("breast_cancer", "compas", "adult,bank,compas"),
    ),
    "gradient_profile": _flags(_two(_SHORT, "vanilla,wd,sp,r2et_nh,r2et,rat"), "none"),
    "explainers": _flags(
        _two(_SHORT, "vanilla,wd,sp,r2et_nh,r2et,rat"), "er_surrogate", "1"
    ),
    "faithfulness": _flags(_two(_SHORT, "vanilla,wd,sp,r2et_nh,r2et,r2et_mm,rat")),
    "case_study": _flags(
        "vanilla,wd,sp,r2et",
        "strongest",
        "1",
        datasets=_two("digits,planted", "mnist,hiv,planted"),
    ),
    "convergence": _flags(
        _two("vanilla,r2et_nh", "vanilla,r2et_nh,r2et,wd"), "multiobjective"
    ),
    "certify": _flags(
        _three(
            "vanilla,skip+cert_rank",
            "vanilla,sp,wd,cert_rank,skip+cert_rank",
            "logistic,vanilla,sp,wd,r2et,r2et_nh,cert_rank,skip+cert_rank",
        ),
        "strongest",
        _BUDGETS,
    ),
    "cost": _flags(
        _two("vanilla,r2et,r2et_nh", ",".join(objectives.NAMES)),
        _two("er,random", "er,er_segment,er_surrogate,mse,random"),
        "1.0",
        datasets=_three("breast_cancer", "adult", "adult,bank,compas,breast_cancer"),
        seeds="0",
    ),
    "train": _flags("r2et", datasets=_two("breast_cancer", "adult"), seeds="0"),
    # The models say of what they are.
    "attack": {"attacks": "er,er_surrogate,strongest", "epsilon": "1"},
    # Each claim names its data sets.
    "evidence": {"k": "8", "epsilon": "1", "seeds": "0,1,2,3,4"},
    "reproduce": {
        "datasets": _three(
            "breast_cancer",
            "adult,bank,compas",
            "adult,bank,compas,mnist,hiv,adhd,planted",
        )
    },
}

# Further flags. Folds of graphs; robustness: methods that are measured with one level
# of each category dropped as well; constrained_attack: learning rates, weights of the
# ranking.
FOLDS = _two("0", "0,1,2,3,4")
REFERENCE_METHODS = _two(
    "", "logistic,vanilla,wd,sp,exact_h,r2et_nh,r2et,r2et_mm,skip+cert_rank"
)
LEARNING_RATES = _three(".1,1", ".01,.1,1", ".003,.01,.03,.1,.3,1")
RANKING_WEIGHTS = _three(".5,.9", ".1,.3,.5,.7,.9", ".05,.1,.3,.5,.7,.9,.95")

# How models of tables are trained and measured: fields of `protocols.Protocol`.
# Weights: those that the library's search tries.
_TABLES = {
    "batch_size": 256, "learning_rate": 1e-3, "grid": GRID, "paired": PAIRED,
    "num_valid": 500,
}  # fmt: skip
PROTOCOLS = {
    "smoke": _TABLES | {
        "pretrain_epochs": 20, "epochs": 20, "eval_every": 10, "batch_size": 64,
        "learning_rate": 1e-2, "num_valid": 50, "num_test": 50,
        "grid": {name: weights[5:6] for name, weights in GRID.items()},
        "paired": {name: weights[1:2] for name, weights in PAIRED.items()},
        "strongest_evaluations": 4200, "everywhere": ("er_surrogate",),
    },
    "standard": _TABLES | {
        "pretrain_epochs": 40, "epochs": 40, "eval_every": 4, "num_test": 500,
        "strongest_evaluations": 12_000, "everywhere": ("er_surrogate",),
        "pruning": HALVING,
    },
    "paper": _TABLES | {
        "pretrain_epochs": 300, "epochs": 300, "eval_every": 20, "num_test": 1000,
        "strongest_evaluations": 16_000, "everywhere": None,
    },
}  # fmt: skip

# The same of images and graphs: see `protocols.methods` and `protocols.protocol`.
# Methods where none is named, as `methods.ROWS` says.
STRUCTURED_METHODS = tuple(n for n, row in methods.ROWS.items() if row.structured)
# Neither a graph's normalisation nor that of a ResNet-9's channels is piecewise linear:
# the Frobenius norm is estimated there.
ESTIMATED = {"exact_h": "hutchinson_h"}
STRUCTURED_SMOKE = ("vanilla", "wd", "r2et_nh", "r2et")

# Four weights on images, and two beside another penalty: curvature in units of pixels.
_OF_CURVATURE = (0.03, 0.3, 3.0, 30.0), (0.3, 3.0)
IMAGE_WEIGHTS = {
    "l2": ((0.1, 0.3, 1.0, 3.0), (0.1, 0.4)),
    "curvature": _OF_CURVATURE,
    "curvature_fd": _OF_CURVATURE,
    "frobenius": _OF_CURVATURE,
    "spectral": _OF_CURVATURE,
    "logit_curvature": ((0.03, 0.1, 0.3, 1.0), (0.1, 0.3)),
    # A sum over the features.
    "adv_hinge": ((1e-4, 5e-4, 2e-3, 1e-2), (5e-4, 5e-3)),
}

# What differs from the tabular preset.
CHANGES = {
    ("smoke", "image"): {
        "pretrain_epochs": 10, "epochs": 10, "eval_every": 5, "learning_rate": 3e-3,
        "num_valid": 40, "num_test": 40, "strongest_evaluations": 1800,
    },
    ("standard", "image"): {
        "pretrain_epochs": 20, "epochs": 8, "eval_every": 4, "batch_size": 64,
        "num_train": 4000, "num_valid": 100, "num_test": 100,
        "strongest_evaluations": 7000,
    },
    ("paper", "image"): {
        "pretrain_epochs": 100, "epochs": 100, "eval_every": 10, "batch_size": 64,
        "num_test": 500,
    },
    # Two settings at a time: second derivatives of a ResNet-9 fill an accelerator.
    ("smoke", "single"): {
        "pretrain_epochs": 2, "epochs": 2, "eval_every": 1, "batch_size": 32,
        "learning_rate": 1e-3, "num_train": 256, "num_valid": 8, "num_test": 8,
        "strongest_evaluations": 1100, "max_models": 2,
    },
    ("standard", "single"): {
        "pretrain_epochs": 20, "epochs": 8, "eval_every": 4, "batch_size": 128,
        "num_train": 10_000, "num_valid": 100, "num_test": 100,
        "strongest_evaluations": 3500, "max_models": 2,
    },
    ("paper", "single"): {
        "pretrain_epochs": 100, "epochs": 100, "eval_every": 10, "batch_size": 128,
        "num_test": 500, "max_models": 2,
    },
    # One setting at a time: dense graphs have nothing to share, and the settings of the
    # one seed go to all cores.
    ("smoke", "graph"): {
        "pretrain_epochs": 6, "epochs": 4, "eval_every": 2, "learning_rate": 5e-3,
        "num_valid": 16, "num_test": 16, "strongest_evaluations": 1800, "max_models": 1,
    },
    ("standard", "graph"): {
        "pretrain_epochs": 20, "epochs": 10, "eval_every": 2, "batch_size": 64,
        "learning_rate": 3e-3, "num_valid": 48, "num_test": 48,
        "strongest_evaluations": 3500, "max_models": 1,
    },
    ("paper", "graph"): {
        "pretrain_epochs": 10, "epochs": 10, "eval_every": 2, "batch_size": 32,
        "num_test": 500, "max_models": 1,
    },
}  # fmt: skip

# Budgets of the attacks, the largest two in smoke: l2 of images, of those smaller than
# the published models take, and l∞ of images and graphs.
BUDGETS = {
    "l2": (0.05, 0.1, 0.25),
    "small": (0.05, 0.1, 0.2),
    "linf": (0.005, 0.01, 0.02),
}

# certify: l2 budgets of images and graphs, the methods that are certified there, and
# test inputs by preset and kind, where they are not those of the attacks.
CERTIFIED_BUDGETS = {"image": (0.005, 0.01, 0.02, 0.03), "graph": (0.003, 0.01, 0.03)}
CERTIFIED_METHODS = ("vanilla", "sp", "logit_h")
CERTIFIED_INPUTS = {
    ("smoke", "image"): 8, ("smoke", "graph"): 4,
    ("standard", "image"): 200, ("standard", "graph"): 24,
    ("paper", "image"): 200, ("paper", "graph"): 200,
}  # fmt: skip
# certify: test inputs on which ways to bound are compared, at most.
VARIANT_INPUTS = 100

# How much is measured, by preset, of tables (True) and of all other data (False).
# thickness, correlation: test inputs, draws of each distribution, points on a segment.
THICKNESS = {
    ("smoke", True): (24, 8, 5),
    ("standard", True): (200, 32, 10),
    ("paper", True): (500, 64, 20),
    ("smoke", False): (12, 4, 4),
    ("standard", False): (48, 16, 5),
    ("paper", False): (500, 64, 20),
}
# thickness, models learnt from samples: their sizes, steps, batch, learning rate,
# unseen inputs, draws, points.
STABILITY = {
    ("smoke", True): ((16, 64), 100, 16, 1e-2, 64, 4, 4),
    ("standard", True): ((32, 128, 512, 2048), 1024, 32, 3e-3, 8192, 8, 5),
    ("paper", True): ((32, 128, 512, 2048), 8192, 32, 1e-3, 8192, 32, 10),
    ("smoke", False): ((16, 64), 100, 16, 3e-3, 64, 2, 4),
    ("standard", False): ((16, 64, 256, 1024), 512, 32, 3e-3, 512, 4, 4),
    ("paper", False): ((16, 64, 256, 1024), 4096, 32, 1e-3, 2048, 16, 5),
}
# explainers: test inputs, draws of SmoothGrad, points of the integral.
EXPLAINERS = {
    ("smoke", True): (20, 4, 4),
    ("standard", True): (200, 16, 16),
    ("paper", True): (500, 50, 100),
    ("smoke", False): (20, 4, 4),
    ("standard", False): (48, 8, 8),
    ("paper", False): (500, 50, 100),
}
# faithfulness: test inputs, at most.
FAITHFULNESS = {"smoke": 50, "standard": 500, "paper": 1000}
# convergence: inputs, steps of unbounded length, steps of bounded length.
CONVERGENCE = {
    "smoke": (16, 100, 100),
    "standard": (32, 400, 300),
    "paper": (100, 2000, 1000),
}
# sensitivity: levels that are tried beside the default.
_LEVELS = {
    "k": (2, 5, 12), "k_prime": (1, 2, 6), "lambda": (0.1, 0.3, 3.0, 10.0),
    "schedule": SCHEDULES, "reference": REFERENCES,
}  # fmt: skip
LEVELS = {
    "smoke": {
        "k": (3,), "k_prime": (1,), "lambda": (0.1,), "schedule": SCHEDULES,
        "reference": REFERENCES[:2],
    },
    "standard": _LEVELS,
    "paper": _LEVELS | {
        "k": (2, 5, 10, 12), "k_prime": (1, 2, 3, 5, 6, 7),
        "lambda": (0.03, 0.1, 0.3, 3.0, 10.0, 30.0),
    },
}  # fmt: skip
# The same at every preset. motivation: random directions of an input. thickness:
# methods that are learnt from samples, and the weights of their penalties on tables.
# gradient_profile: maps of chance. faithfulness: draws of what a removed feature is
# replaced by. constrained_attack: steps, and steps between two that are judged.
NUM_DIRECTIONS = 16
LEARNT_METHODS = {"vanilla": (), "r2et_nh": (3.0,)}
CHANCE_MAPS = 1000
REMOVAL_DRAWS = 10
CONSTRAINED_STEPS, CONSTRAINED_EVERY = 200, 5
# evidence, saturation: methods, and test inputs of each data set at most.
SATURATION_METHODS = ("vanilla", "sp", "wd")
SATURATION_INPUTS = 200
# evidence, radii: methods; by preset the validation inputs, the largest budget that is
# looked at, evaluations of strongest at each budget, budgets of each input, and the
# test inputs whose certificates are timed; how near the ends of an input's interval
# have to come, in its upper one.
RADII_METHODS = ("vanilla", "wd", "sp", "skip+cert_rank")
RADII = {
    "smoke": (6, 4.0, 2000, 4, 40),
    "standard": (24, 4.0, 4200, 12, 1000),
    "paper": (200, 4.0, 16_000, 16, 1000),
}
RADII_PRECISION = 0.002
# many_radii: budgets, networks, methods, and the time for all of it.
NUM_RADII, RADII_NETWORKS = 10, ((32,), (32, 32))
TIMED_METHODS, MOST_SECONDS = ("vanilla", "sp"), 60.0
# gradcert: by preset training images, epochs, validation and test images with
# intervals, test images with certified P@k. Radius -> accuracy that they publish and
# that is asked of ours; the widths of their network; what theirs may stay below the
# published one, and a standard error of the validation accuracy.
GRADCERT = {
    "smoke": (600, 1, 50, 2),
    "standard": (None, 10, 2000, 500),
    "paper": (None, 30, 10_000, 2000),
}
GRADCERT_GOALS = {0.025: (0.88, 0.97), 0.05: (0.85, 0.95), 0.1: (0.74, 0.9)}
GRADCERT_HIDDEN, GRADCERT_K = (128,), 50
GRADCERT_MARGIN, GRADCERT_ERROR = 0.03, 0.002
# quickstart: its training, the evaluations and the test inputs of its audits, and how
# its search trains.
QUICKSTART_EPOCHS = 40
QUICKSTART_INPUTS, QUICKSTART_EVALUATIONS = 40, 4200
QUICKSTART_SEARCH = {"num_epochs": 20, "eval_every": 10, "learning_rate": 2e-3}
# cost: data sets of images that it takes; fields of `Sizes` on tables, of `Work` on
# images; features of made-up inputs whose steps are counted and whose memory is
# watched; inputs under `strongest`.
COST_IMAGES = ("mnist", "cifar10")
_ROUNDS = (200, 4096, None, 16384, 200,
           (256, 512, 1024, 2048, 4096, 8192, 16384), 8, 100_000)  # fmt: skip
SIZES = {
    "smoke": (3, 20, 512, 2, 2048, 20, (512, 2048), 2, 4096),
    "standard": (9, *_ROUNDS),
    "paper": (25, *_ROUNDS),
}
WORK = {
    "smoke": {"mnist": (32, 10, 3, 1), "cifar10": (2, 10, 2)},
    "standard": {"mnist": (256, 50, 9), "cifar10": (16, 10, 5)},
    "paper": {"mnist": (256, 50, 25), "cifar10": (16, 10, 25)},
}
_WIDTHS = (32, 64, 128, 256, 512, 1024)
STEP_WIDTHS = {"smoke": (32, 128), "standard": _WIDTHS, "paper": _WIDTHS}
# What growth is measured over, one size at a time; inputs that are attacked at once.
_GROWTH = {
    "n": (32, 64, 128, 256, 512, 1024, 2048, 4096),
    "inputs": (100, 1000, 10_000, 100_000, 1_000_000),
    "depth": (1, 2, 4, 8),
    "k": (2, 4, 8, 16, 32),
    "devices": (1, 2, 4, 8),
}
GROWTH = {
    "smoke": {"n": (32, 128), "inputs": (64, 256), "devices": (1, 2)},
    "standard": _GROWTH,
    "paper": _GROWTH,
}
_MANY = (100_000, 300_000, 1_000_000)
MANY_INPUTS = {"smoke": (2048, 4096), "standard": _MANY, "paper": _MANY}
MEMORY_WIDTHS = {"smoke": 256, "standard": 3072, "paper": 3072}
# Inputs that are explained here and by other libraries, and rounds of both in turn.
EXPLAINED = {"smoke": (32, 2), "standard": (1024, 9), "paper": (1024, 25)}
STRONGEST_INPUTS = {"smoke": 64, "standard": 1000, "paper": 1000}
# reproduce: time of a preset and of a kind of data, in that of a table at standard.
PRESET_TIME = {"smoke": 0.1, "standard": 1.0, "paper": 20.0}
KIND_TIME = {"tabular": 1.0, "image": 4.0, "graph": 2.0, "single": 20.0}
