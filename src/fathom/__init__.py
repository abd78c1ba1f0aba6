"""Fathom finds, proves, explains and repairs the worst case of a neural network."""
