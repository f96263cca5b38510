"""ProPublica's COMPAS file: is a defendant's risk score above "Low"?

16 columns. Numeric, standardised: age, priors_count, juv_fel_count, juv_misd_count,
juv_other_count, length_of_stay (days in jail, from c_jail_in to c_jail_out; entries
that end before they begin count as 0; log1p; missing: the training split's median).
One-hot: sex (2 levels), charge_degree (F felony, M misdemeanour), race (6).

Rows kept are ProPublica's: screened within 30 days of the arrest, is_recid known (not
−1), no ordinary traffic offence (charge degree O), a score on record (6,172 of 7,214).

Immutable: age, sex, race and the juvenile record.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

import numpy as np

from data_prep.tables import (
    Row,
    Table,
    build,
    mapped,
    number,
    numbers,
    one_hot,
    read_rows,
)

JUVENILE = ("juv_fel_count", "juv_misd_count", "juv_other_count")
NEEDED = (
    "sex", "age", "race", *JUVENILE, "priors_count", "days_b_screening_arrest",
    "c_jail_in", "c_jail_out", "c_charge_degree", "is_recid", "score_text",
)  # fmt: skip
RACE = {
    "African-American": "african_american",
    "Asian": "asian",
    "Caucasian": "caucasian",
    "Hispanic": "hispanic",
    "Native American": "native_american",
    "Other": "other",
}
CHARGE = {"F": "F", "M": "M"}
SEX = {"Female": "female", "Male": "male"}
SCORE = {"Low": 0, "Medium": 1, "High": 1}
GROUPS = {
    "sex": ("sex", SEX),
    "charge_degree": ("c_charge_degree", CHARGE),
    "race": ("race", RACE),
}


def table(contents: Mapping[str, bytes]) -> Table:
    """Return the table of the one raw file."""
    ((file, content),) = contents.items()
    rows = [row for row in read_rows(content, file, needed=NEEDED) if _kept(row)]
    if not rows:
        raise ValueError(f"{file} holds no rows that pass ProPublica's filters")
    return build(
        numeric={
            "age": numbers(rows, "age", minimum=0),
            "priors_count": numbers(rows, "priors_count", minimum=0),
            **{name: numbers(rows, name, minimum=0) for name in JUVENILE},
            "length_of_stay": np.log1p(_days_in_jail(rows)),
        },
        binary={},
        groups={
            group: one_hot(group, tuple(levels.values()), mapped(rows, field, levels))
            for group, (field, levels) in GROUPS.items()
        },
        y=mapped(rows, "score_text", SCORE),
        immutable=("age", *JUVENILE, "sex", "race"),
        target='1: risk-of-recidivism score Medium or High (above "Low")',
        notes={
            "length_of_stay": "log1p of days in jail (negative: 0), then standardised; "
            "missing: the training split's median",
            "charge_degree": "F felony, M misdemeanour",
            "rows": "ProPublica's filters",
        },
    )


def _kept(row: Row) -> bool:
    place, fields = row
    days = fields["days_b_screening_arrest"]
    return (
        days != ""
        and abs(number(place, "days_b_screening_arrest", days)) <= 30
        and number(place, "is_recid", fields["is_recid"]) != -1
        and fields["c_charge_degree"] != "O"
        and fields["score_text"] not in ("", "N/A")
    )


def _days_in_jail(rows: Sequence[Row]) -> np.ndarray:
    days = np.full(len(rows), np.nan)
    for i, (place, fields) in enumerate(rows):
        if fields["c_jail_in"] and fields["c_jail_out"]:
            begin = _time(place, "c_jail_in", fields["c_jail_in"])
            end = _time(place, "c_jail_out", fields["c_jail_out"])
            days[i] = max((end - begin).total_seconds() / 86400, 0)
    return days


def _time(place: str, name: str, text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            f"{place}: {name} is {text!r}, expected a time such as 2013-08-13 06:03:42"
        ) from None
