"""The probability of failure under a named distribution of inputs: bounds with confidence, estimates, and rigorous brackets.

Each method is one file and gives one `Part` with a claim of its own; they stand side by side and are never averaged.
"""
