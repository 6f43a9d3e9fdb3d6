"""Yours: reports, marimo programs over the live tables; `report` shows them as an app or writes them as pages."""
