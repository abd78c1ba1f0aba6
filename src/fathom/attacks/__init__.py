"""Attacks: solvers that search for small margins. They may say broken, through `confirm`, and never proved."""
