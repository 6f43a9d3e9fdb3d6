"""What runs unattended: it may import `shared`, never `research`."""
