"""Micro-benchmarks without sockets: ``make microbench``. ``test_bench`` runs each once, as part of the tests.

Every figure is a ratio against a reference loop of the same run, so that a regression shows on any machine.
"""
