"""What tables are made of, and the validation of batches."""
