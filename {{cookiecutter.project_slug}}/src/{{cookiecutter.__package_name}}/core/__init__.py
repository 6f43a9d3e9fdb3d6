"""The framework of the template: independent of tables, columns and project."""
