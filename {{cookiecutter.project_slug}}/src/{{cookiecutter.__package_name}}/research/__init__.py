"""What is explored: it may import `shared`, never `production`."""
