"""The framework of the template: independent of tables, columns and project."""

PACKAGE = __name__.partition(".")[0]
NAME = PACKAGE.replace("_", "-")  # of the project and its command
