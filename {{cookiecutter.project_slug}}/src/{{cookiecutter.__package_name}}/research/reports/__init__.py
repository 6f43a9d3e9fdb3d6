"""Yours: reports, marimo programs over the live tables, served or exported by `report`."""
