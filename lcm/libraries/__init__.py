"""What libraries renamed or added between the oldest and the newest release that we run with, one
module a library: beside each part stands the release from which on it can go.
"""
