"""One codebase from the first experiment to a continuously retrained service; see the README."""
