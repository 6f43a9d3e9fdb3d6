"""Schemas, validation of batches, sample data and the data dictionary."""
