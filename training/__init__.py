"""Training of the bundled models: `python -m training tiny-ioi`."""
