"""Hyperparameter tuning on past folds."""
