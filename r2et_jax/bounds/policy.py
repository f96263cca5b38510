"""What may be chosen about bounds: slopes, how finely functions are cut, memory."""

from __future__ import annotations

import dataclasses

from r2et_jax.checks import check_count, check_in

SLOPES = ("best", "chord", "flat")


@dataclasses.dataclass(frozen=True)
class Policy:
    """How a program is bounded. Every choice is sound; they differ in width and cost.

    Attributes:
      slope: of the two parallel lines around a nonlinear function: "best" takes, entry
        by entry, the slope with the smallest gap of a few candidates; "chord" that of
        the chord, which keeps more of what entries have in common; "flat" 0, an
        interval.
      num_cells: parts into which a nonlinear function's interval is cut.
      max_symbols: noise symbols that one value may carry. Beyond it the value's largest
        groups of symbols (of ties, the oldest) become a box of its own: entry by entry
        Σ|coefficients|, no longer shared with other values. Memory is about
        (n + max_symbols) floats for each entry of the largest value. None for no limit.
      max_coefficients: coefficients of noise that one value may carry, its entries
        times its symbols. Beyond it noise is condensed into one fresh symbol for each
        entry, where it is narrowest. None for no limit.
      quadratic: bound products by squares of sums and differences, which sees what the
        factors have in common, at the cost of two more passes over both.
      max_turns: turns of a scan, which is unrolled.
      max_chain: elementwise steps that are bounded as one function.

    Raises:
      ValueError: for another slope, and counts out of range.
    """

    slope: str = "best"
    num_cells: int = 16
    max_symbols: int | None = None
    max_coefficients: int | None = 2**22
    quadratic: bool = True
    max_turns: int = 256
    max_chain: int = 64

    def __post_init__(self):
        check_in("slope", self.slope, SLOPES)
        check_count("num_cells", self.num_cells, minimum=2)
        if self.max_symbols is not None:
            check_count("max_symbols", self.max_symbols, minimum=0)
        if self.max_coefficients is not None:
            check_count("max_coefficients", self.max_coefficients, minimum=0)
        check_count("max_turns", self.max_turns)
        check_count("max_chain", self.max_chain)
