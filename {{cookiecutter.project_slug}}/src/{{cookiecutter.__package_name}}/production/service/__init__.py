"""The service: it answers requests as they arrive, from what is released; delete the folder where nobody asks."""
