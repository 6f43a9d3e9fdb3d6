"""All input and output: lake, releases, registry, provenance, predictions and request log."""
