"""Training of the bundled models: `python -m interp.models.train tiny-ioi`."""
