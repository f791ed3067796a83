"""Evaluation as the papers of blind face restoration do it: test sets, metrics with their protocol, reports."""
