"""Judging circuits: faithfulness and its relatives, curves by size, hypothesis tests, overlap."""

MEASURES = ("faithfulness", "kl", "completeness", "minimality")  # of `evaluate`, by what they take
