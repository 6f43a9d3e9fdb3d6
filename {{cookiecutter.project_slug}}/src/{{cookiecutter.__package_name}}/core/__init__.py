"""The template's framework: it knows no table, no column and no project."""
