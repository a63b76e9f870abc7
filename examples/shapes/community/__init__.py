"""Models that others made of the bundled teacher, and how far one adapter speeds them up."""
