"""Operators, one file each (or a tight family): evaluation, interval, linear relaxation, where it may be split."""
