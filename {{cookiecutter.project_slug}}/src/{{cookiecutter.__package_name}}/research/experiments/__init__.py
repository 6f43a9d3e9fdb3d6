"""Yours: scripts in cells, run whole from the command line, or cell by cell in an IDE; each is a tracked run."""
