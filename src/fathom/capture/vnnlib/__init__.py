"""VNN-LIB 1 and 2: property files read exactly, turned into problems, and answered with assignments."""

from fathom.capture.vnnlib.assignments import Style, assignment, serialise
from fathom.capture.vnnlib.declarations import Query
from fathom.capture.vnnlib.problem import to_problem
from fathom.capture.vnnlib.property import InputSet, Property, read_property

__all__ = ["InputSet", "Property", "Query", "Style", "assignment", "read_property", "serialise", "to_problem"]
