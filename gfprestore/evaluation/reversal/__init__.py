"""Evaluation of face retouching reversal: sets of pairs, the rows of the table, and its report."""
