"""The pictures of the theory pages: the numbers of each, how it is drawn, and what there is to see.

`PLOTS` lists them. `series` computes the numbers with the functions that run and rounds them; `drawings` draws
from the rounded numbers alone, in a light and in a dark version, with matplotlib (the extra ``docs``).
"""

from .catalogue import FOLDER, PLOTS, Plot, markdown, write

__all__ = ["FOLDER", "PLOTS", "Plot", "markdown", "write"]
