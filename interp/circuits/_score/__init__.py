"""Scores of edges and nodes: estimates from slopes, shares of the stream, and exact cuts."""
