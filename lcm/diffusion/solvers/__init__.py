"""Solvers of the probability-flow ODE: functions (predict, schedule, x_t, t, s) -> x_s, one file
each.
"""
