"""The mathematics: noise schedule, solvers, consistency function, losses. It needs torch alone."""
