"""Yours: experiments, scripts in cells, each a tracked run."""
