"""Bounds: solvers that may say proved. Interval, backward CROWN and alpha-CROWN share one backward pass."""
