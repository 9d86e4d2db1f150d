"""Cutting edges: many circuits in one pass, as changes to the run in which nothing is cut."""
