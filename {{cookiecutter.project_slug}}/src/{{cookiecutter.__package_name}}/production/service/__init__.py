"""The HTTP service: the champion's predictions over FastAPI; delete the folder where `predict` is enough."""
