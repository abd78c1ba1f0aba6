"""Fathom finds, proves, explains and repairs the worst case of a neural network.

    import fathom

    region = fathom.regions.LinfBall.around(x, radius=0.03, clip=(0, 1))
    result = fathom.audit(module, region, fathom.Misclassification(label=y, classes=10), budget=fathom.Budget(seconds=60))
    print("\\n".join(result.lines()))

The names below are the whole public surface; each is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fathom import overseers as overseers
    from fathom import regions as regions
    from fathom import transforms as transforms
    from fathom.audits.engine import audit as audit
    from fathom.audits.estimation import estimate as estimate
    from fathom.audits.latent import NaturalInputs as NaturalInputs
    from fathom.audits.latent import latent as latent
    from fathom.audits.questions import questions as questions
    from fathom.audits.relaxed import LatentResult as LatentResult
    from fathom.audits.result import AuditResult as AuditResult
    from fathom.audits.verify import verify as verify
    from fathom.capture.export import export as export
    from fathom.capture.onnx_file import read_onnx as read_onnx
    from fathom.capture.torch_module import capture_module as capture_module
    from fathom.capture.torch_module import run_module as run_module
    from fathom.casebook.store import Casebook as Casebook
    from fathom.core.budget import Budget as Budget
    from fathom.core.budget import Goal as Goal
    from fathom.core.confirm import confirm as confirm
    from fathom.core.errors import FathomError as FathomError
    from fathom.core.problem import Problem as Problem
    from fathom.estimates.answer import Estimation as Estimation
    from fathom.estimates.effort import Effort as Effort
    from fathom.hunt.amplify import Amplified as Amplified
    from fathom.hunt.moments import Moments as Moments
    from fathom.hunt.radius import minimum_radius as minimum_radius
    from fathom.hunt.shrink import shrink as shrink
    from fathom.overseers.callable import PythonOverseer as PythonOverseer
    from fathom.overseers.linear_rules import LinearRules as LinearRules
    from fathom.overseers.misclassification import Misclassification as Misclassification
    from fathom.overseers.targeted import Targeted as Targeted
    from fathom.report.page import write_report as write_report

PUBLIC = {
    "audit": "audits.engine",
    "verify": "audits.verify",
    "estimate": "audits.estimation",
    "latent": "audits.latent",
    "questions": "audits.questions",
    "write_report": "report.page",
    "AuditResult": "audits.result",
    "LatentResult": "audits.relaxed",
    "NaturalInputs": "audits.latent",
    "Estimation": "estimates.answer",
    "Effort": "estimates.effort",
    "Casebook": "casebook.store",
    "Problem": "core.problem",
    "Budget": "core.budget",
    "Goal": "core.budget",
    "FathomError": "core.errors",
    "confirm": "core.confirm",
    "Amplified": "hunt.amplify",
    "Moments": "hunt.moments",
    "shrink": "hunt.shrink",
    "minimum_radius": "hunt.radius",
    "Misclassification": "overseers.misclassification",
    "Targeted": "overseers.targeted",
    "LinearRules": "overseers.linear_rules",
    "PythonOverseer": "overseers.callable",
    "capture_module": "capture.torch_module",
    "run_module": "capture.torch_module",
    "read_onnx": "capture.onnx_file",
    "export": "capture.export",
}
"""Name to the module that defines it."""

__all__ = [*PUBLIC, "overseers", "regions", "transforms"]


def __getattr__(name: str) -> Any:
    if name in PUBLIC:
        return getattr(importlib.import_module(f"fathom.{PUBLIC[name]}"), name)
    if name in ("overseers", "regions", "transforms"):
        return importlib.import_module(f"fathom.{name}")
    raise AttributeError(f"module 'fathom' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted(__all__)
