"""Searching for circuits: ACDC, and masks that are trained."""
