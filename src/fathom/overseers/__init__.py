"""Overseers: what judges an output. One kind, one file, found by discovery."""
