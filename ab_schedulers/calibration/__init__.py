"""Fit rows and plans to a model: record its trajectories, search, refine, choose on trajectories held back."""

from .calibrate import calibrate, record
from .result import Calibration
from .search import estimated_calls
from .trajectories import Trajectories

__all__ = ["Calibration", "Trajectories", "calibrate", "estimated_calls", "record"]
