"""What research and production both use: the problem, once, and the machinery that works from it."""
