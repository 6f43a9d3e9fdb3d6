"""The research part: experiments, reports, tuning, labels and reproduction of runs."""
