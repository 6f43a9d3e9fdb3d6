"""Whether data, model and served predictions are well."""
