"""Evaluation with the protocols of the blind face restoration papers: test sets, metrics and reports."""
