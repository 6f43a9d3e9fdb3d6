"""What reports show, computed from tables and runs: figures, tables and sentences; programs put them together."""
