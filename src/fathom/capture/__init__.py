"""Capture: from a file or a module to a `Network`, and from a property to a problem; checked against the original."""
