"""What several test files share: tiny worlds, runs, adapters, pictures, closed forms, a hub."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
"""The folder of the repository."""
