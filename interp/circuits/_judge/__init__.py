"""Judging circuits: faithfulness and its relatives, curves by size, hypothesis tests, overlap."""
