"""The page that shows a run."""

from __future__ import annotations

from lcm.publish.report.page import write_page

__all__ = ["write_page"]
