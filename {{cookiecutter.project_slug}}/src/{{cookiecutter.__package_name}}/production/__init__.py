"""The production part: ingestion, training, promotion, prediction and monitoring."""
