"""What the experiments know of each method of training: a row for each.

A method of the library without a row can be named in `--methods` all the same; it
counts as one of ours, so that it is never a baseline by accident.
"""

from __future__ import annotations

from typing import NamedTuple

FAMILIES = ("baseline", "R2ET", "ours", "linear")


class Row(NamedTuple):
    """A method, or a sum of several.

    Attributes:
      family: of `FAMILIES`. A baseline was published before R2ET, or is an ablation of
        it without a ranking term; R2ET's are proposed in its papers, thickness in its
        direct forms included.
      beside: whether R2ET was compared with it where it was published, weight decay
        apart.
      structured: whether images and graphs are trained with it where no method is
        named; closed forms for small tables are left out.
    """

    family: str
    beside: bool = False
    structured: bool = False


# In the order in which images and graphs are trained.
ROWS = {
    "vanilla": Row("baseline", beside=True, structured=True),
    "wd": Row("baseline", structured=True),
    "wd_decoupled": Row("baseline"),
    "sp": Row("baseline", beside=True, structured=True),
    "skip": Row("ours"),
    "est_h": Row("baseline", beside=True, structured=True),
    "est_h_fd": Row("baseline"),
    "exact_h": Row("baseline", beside=True, structured=True),
    "hutchinson_h": Row("baseline", beside=True),
    "ssr": Row("baseline", beside=True, structured=True),
    "cl": Row("baseline"),
    "cure": Row("baseline"),
    "ig_norm": Row("baseline"),
    "at": Row("baseline", beside=True, structured=True),
    "at_mixed": Row("baseline"),
    # The adversarial form that R2ET bounds: one more baseline can only make the
    # comparison harder for the others.
    "adv_gap": Row("baseline"),
    "rat": Row("ours", structured=True),
    "logit_h": Row("ours", structured=True),
    "r2et_nh": Row("R2ET", structured=True),
    "r2et": Row("R2ET", structured=True),
    "r2et_exp": Row("R2ET"),
    "r2et_mm_nh": Row("R2ET", structured=True),
    "r2et_mm": Row("R2ET", structured=True),
    "r2et_mm_k": Row("R2ET"),
    "r2et_mm_exp": Row("R2ET"),
    "r2et_anchored": Row("R2ET"),
    "ratio": Row("R2ET"),
    "ratio_hinge": Row("ours"),
    "mc_thickness": Row("R2ET"),
    "cert_rank": Row("ours"),
    "wd+r2et_nh": Row("R2ET"),
    "r2et_nh+logit_h": Row("ours", structured=True),
    "skip+cert_rank": Row("ours"),
    "logistic": Row("linear"),
}
# Sums that stand in the full table.
SUMS = tuple(name for name in ROWS if "+" in name)


def family(method: str) -> str:
    """Which of `FAMILIES` a method belongs to; a sum to the latest of its parts.

    A name of none of them counts as ours.
    """
    of = [ROWS[part].family if part in ROWS else "ours" for part in method.split("+")]
    return max(of, key=FAMILIES.index)


def names(family: str) -> frozenset[str]:
    """The methods of a family, without sums."""
    return frozenset(n for n, row in ROWS.items() if row.family == family) - set(SUMS)
