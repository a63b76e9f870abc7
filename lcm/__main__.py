"""`python -m lcm`: the `lcm` command."""

from __future__ import annotations

import sys

from lcm.cli.main import main

sys.exit(main())
