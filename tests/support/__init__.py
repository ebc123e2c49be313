"""Tiny models, data sets, runs, a Hub on this machine, and processes, for tests of several rooms. Nothing is downloaded."""
