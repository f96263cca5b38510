"""UCI Adult: does a person earn more than 50,000 dollars a year (1994 census)?

28 columns. Numeric, standardised: age, education_num, capital_gain, capital_loss
(both heavy-tailed: log1p first), hours_per_week. Binary: sex_male, native_us. One-hot:
workclass (4 levels), marital (4), occupation (8), race (5).

Left out: fnlwgt (a sampling weight), education (education_num says the same) and
relationship (nearly a function of sex and marital status). A missing '?' becomes
"other"; a missing native country counts as not known to be the United States,
native_us = 0. adult.data and adult.test are pooled; the split keeps copies together.

Immutable: age, sex_male, native_us and race.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from data_prep.tables import Table, build, mapped, numbers, one_hot, read_rows

FIELDS = (
    "age", "workclass", "fnlwgt", "education", "education_num", "marital_status",
    "occupation", "relationship", "race", "sex", "capital_gain", "capital_loss",
    "hours_per_week", "native_country", "income",
)  # fmt: skip

WORKCLASS = {
    "Private": "private",
    "Self-emp-inc": "self_employed",
    "Self-emp-not-inc": "self_employed",
    "Federal-gov": "government",
    "Local-gov": "government",
    "State-gov": "government",
    "Without-pay": "other",
    "Never-worked": "other",
    "?": "other",
}
MARITAL = {
    "Married-civ-spouse": "married",
    "Married-AF-spouse": "married",
    "Never-married": "never_married",
    "Divorced": "divorced_or_separated",
    "Separated": "divorced_or_separated",
    "Married-spouse-absent": "divorced_or_separated",
    "Widowed": "widowed",
}
OCCUPATION = {
    "Exec-managerial": "managerial",
    "Prof-specialty": "professional",
    "Tech-support": "technical",
    "Adm-clerical": "clerical",
    "Sales": "sales",
    "Other-service": "service",
    "Protective-serv": "service",
    "Priv-house-serv": "service",
    "Craft-repair": "blue_collar",
    "Machine-op-inspct": "blue_collar",
    "Transport-moving": "blue_collar",
    "Handlers-cleaners": "blue_collar",
    "Farming-fishing": "blue_collar",
    "Armed-Forces": "other",
    "?": "other",
}
RACE = {
    "White": "white",
    "Black": "black",
    "Asian-Pac-Islander": "asian_pacific",
    "Amer-Indian-Eskimo": "native",
    "Other": "other",
}
# The labels of adult.test end in a full stop.
INCOME = {"<=50K": 0, ">50K": 1, "<=50K.": 0, ">50K.": 1}


def table(contents: Mapping[str, bytes]) -> Table:
    """Return the table of both raw files, adult.data first."""
    rows = [
        row
        for file, content in contents.items()
        for row in read_rows(
            content,
            file,
            columns=FIELDS,
            needed=FIELDS,
            # adult.test opens with the line "|1x3 Cross validator".
            skip=lambda first: first.startswith("|"),
        )
    ]
    coded = {"workclass": WORKCLASS, "marital": MARITAL, "occupation": OCCUPATION,
             "race": RACE}  # fmt: skip
    groups = {}
    for group, mapping in coded.items():
        field = "marital_status" if group == "marital" else group
        levels = tuple(dict.fromkeys(mapping.values()))
        groups[group] = one_hot(group, levels, mapped(rows, field, mapping))
    return build(
        numeric={
            "age": numbers(rows, "age", minimum=0),
            "education_num": numbers(rows, "education_num", minimum=0),
            "capital_gain": np.log1p(numbers(rows, "capital_gain", minimum=0)),
            "capital_loss": np.log1p(numbers(rows, "capital_loss", minimum=0)),
            "hours_per_week": numbers(rows, "hours_per_week", minimum=0),
        },
        binary={
            "sex_male": mapped(rows, "sex", {"Female": 0, "Male": 1}),
            "native_us": np.array(
                [r.fields["native_country"] == "United-States" for r in rows]
            ),
        },
        groups=groups,
        y=mapped(rows, "income", INCOME),
        immutable=("age", "sex_male", "native_us", "race"),
        target="1: income above 50,000 dollars a year",
        notes={
            "capital_gain": "log1p of dollars, then standardised",
            "capital_loss": "log1p of dollars, then standardised",
            "workclass": "other: without pay, never worked, missing",
            "occupation": "other: armed forces, missing",
            "native_us": "0: another country, or missing",
        },
    )
