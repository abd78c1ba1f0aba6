"""The report: one page that opens anywhere, from one result. No network, no scripts."""

from fathom.report.page import render, write_report

__all__ = ["render", "write_report"]
