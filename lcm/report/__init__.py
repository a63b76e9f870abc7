"""The page that shows a run."""

from __future__ import annotations

from lcm.report.page import REPORT_NAME, write_page

__all__ = ["REPORT_NAME", "write_page"]
