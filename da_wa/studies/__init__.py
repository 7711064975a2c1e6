"""Experiments in stages: a question that takes several experiments, each built on the results of those before."""
