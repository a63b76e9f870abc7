"""What can be added to the loss of a method: one file each, and one line in the table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lcm.system.registry import Table

if TYPE_CHECKING:
    from lcm.methods.terms.term import TermKind

TERMS: Table[TermKind] = Table(
    "term",
    {
        "latent_perceptual": "lcm.methods.terms.latent_perceptual:TERM",
        "adversarial": "lcm.methods.terms.adversarial:TERM",
        "dmd": "lcm.methods.terms.dmd:TERM",
        "reward": "lcm.methods.terms.reward:TERM",
    },
)
"""Every term by the name that `--terms` has for it; `TERMS.add` takes those of others."""
