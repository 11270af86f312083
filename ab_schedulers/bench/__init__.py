"""Measurements: subjects with known solutions, metrics, the sampling loop, and the commands that print tables."""
