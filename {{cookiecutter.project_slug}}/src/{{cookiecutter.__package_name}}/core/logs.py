"""Log lines as text or as JSON."""

import json
import logging
from datetime import UTC, datetime

from {{cookiecutter.__package_name}}.core import PACKAGE


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time, level, logger, message, and the fields of `extra={"fields": ...}`."""

    def format(self, record: logging.LogRecord) -> str:
        """A record as one line of JSON."""
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        error = {"error": self.formatException(record.exc_info)} if record.exc_info else {}
        return json.dumps(entry | error | getattr(record, "fields", {}))


def set_log_format(log_format: str) -> None:
    """Log the package's progress to stderr, and all lines as JSON if that is the format."""
    logging.basicConfig(level=logging.ERROR, format="%(message)s")  # unless the process has a configuration
    logging.getLogger(PACKAGE).setLevel(logging.INFO)
    if log_format == "json":
        for handler in logging.getLogger().handlers:
            handler.setFormatter(JsonFormatter())
