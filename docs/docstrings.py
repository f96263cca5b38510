"""Docstrings as this project writes them, for the parser of the API pages.

The parser shows the `>>>` lines of `Examples:` as code, where the section is called
`Example:` here, and takes what stands before a colon in the first line of `Returns:`
for a type, where all of it is text here.
"""

import re

import griffe


class Sections(griffe.Extension):
    """Each docstring's sections as the parser expects them."""

    def on_object(self, *, obj: griffe.Object, **_) -> None:
        if obj.docstring:
            text = re.sub(r"(?m)^Example:$", "Examples:", obj.docstring.value)
            obj.docstring.value = re.sub(r"(?m)^(Returns:\n +)", r"\1: ", text)
