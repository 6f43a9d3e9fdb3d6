"""What monitoring finds, and how urgent it is."""

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """How urgent a finding is."""

    FINE = "fine"
    WARNING = "warning"
    ALARM = "alarm"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    name: str
    state: State
    detail: str

    def __str__(self) -> str:
        """One line for people."""
        return f"{self.state:<8} {self.name}: {self.detail}"
