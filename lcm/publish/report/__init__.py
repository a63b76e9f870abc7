"""The page that shows a run."""

from __future__ import annotations

from lcm.outputs.folder import REPORT_NAME
from lcm.publish.report.page import write_page

__all__ = ["REPORT_NAME", "write_page"]
