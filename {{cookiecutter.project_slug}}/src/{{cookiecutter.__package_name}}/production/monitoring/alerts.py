"""What monitoring finds, and how urgent it is."""

from dataclasses import dataclass
from enum import StrEnum

from {{cookiecutter.__package_name}}.core.acceptance import Acceptance, Slices
from {{cookiecutter.__package_name}}.production.gate import threshold_checks


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


def missed(figures: dict[str, float], ask: Acceptance | Slices) -> tuple[str, ...]:
    """The limits that figures miss."""
    return tuple(str(check) for check in threshold_checks("", figures, ask.at_least, ask.at_most) if not check.passed)
