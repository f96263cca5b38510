"""UCI Bank Marketing (bank-additional-full): does a called client subscribe a deposit?

18 columns. Numeric, standardised: age, education (years of schooling: illiterate 0,
basic 4, 6 and 9, high school 12, professional course 13, university degree 16; unknown:
the training split's median), campaign, previous, emp_var_rate, cons_price_idx,
cons_conf_idx, euribor3m, nr_employed. Binary: previously_contacted (pdays is not 999),
default_known_no, housing, loan (1 for "yes", 0 for "no" and unknown),
contact_cellular, previous_success. One-hot: marital (3 levels; the 80 unknown ones
count as married, the mode).

Left out: duration, which is known only after the call, when the answer is known as
well; job, month and day_of_week. The raw file is sorted by date; the split is random.

Immutable: age, the record of earlier campaigns (previous, previously_contacted,
previous_success) and the state of the economy (the last five numeric columns).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from data_prep.tables import Table, build, mapped, numbers, one_hot, read_rows

EDUCATION = {
    "illiterate": 0.0,
    "basic.4y": 4.0,
    "basic.6y": 6.0,
    "basic.9y": 9.0,
    "high.school": 12.0,
    "professional.course": 13.0,
    "university.degree": 16.0,
    "unknown": np.nan,
}
MARITAL = {
    "married": "married",
    "single": "single",
    "divorced": "divorced",
    "unknown": "married",
}
YES = {"yes": 1, "no": 0, "unknown": 0}
ECONOMY = {
    "emp_var_rate": "emp.var.rate",
    "cons_price_idx": "cons.price.idx",
    "cons_conf_idx": "cons.conf.idx",
    "euribor3m": "euribor3m",
    "nr_employed": "nr.employed",
}
NEEDED = (
    "age", "marital", "education", "default", "housing", "loan", "contact", "campaign",
    "pdays", "previous", "poutcome", *ECONOMY.values(), "y",
)  # fmt: skip


def table(contents: Mapping[str, bytes]) -> Table:
    """Return the table of the one raw file."""
    ((file, content),) = contents.items()
    rows = read_rows(content, file, needed=NEEDED, delimiter=";")
    known_no = {"no": 1, "yes": 0, "unknown": 0}
    outcome = {"success": 1, "failure": 0, "nonexistent": 0}
    contact = {"cellular": 1, "telephone": 0}
    marital = mapped(rows, "marital", MARITAL)
    levels = ("married", "single", "divorced")
    return build(
        numeric={
            "age": numbers(rows, "age", minimum=0),
            "education": mapped(rows, "education", EDUCATION),
            "campaign": numbers(rows, "campaign", minimum=0),
            "previous": numbers(rows, "previous", minimum=0),
            **{name: numbers(rows, field) for name, field in ECONOMY.items()},
        },
        binary={
            "previously_contacted": numbers(rows, "pdays", minimum=0) != 999,
            "default_known_no": mapped(rows, "default", known_no),
            "housing": mapped(rows, "housing", YES),
            "loan": mapped(rows, "loan", YES),
            "contact_cellular": mapped(rows, "contact", contact),
            "previous_success": mapped(rows, "poutcome", outcome),
        },
        groups={"marital": one_hot("marital", levels, marital)},
        y=mapped(rows, "y", {"no": 0, "yes": 1}),
        immutable=(
            "age",
            "previous",
            *ECONOMY,
            "previously_contacted",
            "previous_success",
        ),
        target="1: the client subscribed a term deposit",
        notes={
            "education": "years of schooling; unknown: the training split's median",
            "previously_contacted": "pdays is not 999",
            "default_known_no": "1: known to have no default; 0: yes, unknown",
            "housing": "0: no, unknown",
            "loan": "0: no, unknown",
            "marital": "unknown counts as married, the mode",
            "duration": "left out: known only after the call",
        },
    )
