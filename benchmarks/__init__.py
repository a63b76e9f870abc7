"""Side-by-side measurements. The test suite checks the measures, never the measured numbers."""
