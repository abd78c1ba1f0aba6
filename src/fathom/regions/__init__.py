"""Regions: what the adversary may choose. One kind, one file, found by discovery."""
