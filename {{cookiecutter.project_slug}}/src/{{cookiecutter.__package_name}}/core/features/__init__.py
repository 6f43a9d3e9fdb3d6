"""Point-in-time windows."""
