"""Measuring: how good the pictures are, how many bits they cost, how fast it runs."""
