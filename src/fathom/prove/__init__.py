"""Branch and bound: proofs and witnesses from bounds and attacks together, exact in the limit."""
