"""The acceptance criteria in `config/acceptance.toml`: costs, limits, slices, retraining and monitoring."""

from pydantic import BaseModel, ConfigDict, Field


class StrictModel(BaseModel):
    """A section of the configuration; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class DecisionCosts(StrictModel):
    """The costs of wrong decisions; the threshold minimizes the expected cost."""

    cost_false_positive: float = Field(default=1.0, gt=0, description="cost of a false positive")
    cost_false_negative: float = Field(default=1.0, gt=0, description="cost of a false negative")

    @property
    def threshold(self) -> float:
        """The probability above which a positive decision has the lower expected cost."""
        return self.cost_false_positive / (self.cost_false_positive + self.cost_false_negative)


class Window(StrictModel):
    """The newest labelled rows, on which challengers are evaluated."""

    days: int = Field(default=14, gt=0, description="length of the window in days")
    share: float = Field(default=0.2, gt=0, lt=1, description="share of the rows, if rows have no time")
    min_rows: int = Field(default=20, gt=1, description="minimum number of rows for a comparison")


class Leaks(StrictModel):
    """Columns that look like leaks."""

    allow: tuple[str, ...] = Field(default=(), description="columns that are known before the prediction all the same")


class Slices(StrictModel):
    """Slices of rows on which the limits must hold."""

    columns: tuple[str, ...] = Field(default=(), description="columns; each value of each column is a slice")
    min_rows: int = Field(default=100, gt=1, description="minimum number of rows of a slice")
    at_least: dict[str, float] = Field(default={}, description="minimum of a metric on each slice")
    at_most: dict[str, float] = Field(default={}, description="maximum of a metric on each slice")


class Fairness(StrictModel):
    """Groups of rows between which metrics may differ only so much."""

    columns: tuple[str, ...] = Field(default=(), description="columns; each value of each column is a group")
    min_rows: int = Field(default=100, gt=1, description="minimum number of rows of a group")
    max_gap: dict[str, float] = Field(default={}, description="maximum difference of a metric between two groups")


class Retrain(StrictModel):
    """The retraining policy: when a challenger is due, and on which rows it is trained."""

    every_days: float = Field(default=28, gt=0, description="maximum age of the last challenger in days")
    window_days: int = Field(default=7, gt=0, description="length of a window of live quality in days")
    windows: int = Field(default=4, gt=0, description="number of windows")
    min_breached_windows: int = Field(
        default=2, gt=0, description="windows with breached limits, the latest included, from which retraining is due"
    )
    training_window_days: tuple[int, ...] = Field(
        default=(0,), min_length=1, description="candidate lengths of the training window in days; 0 is all rows"
    )


class SmokeTestLimits(StrictModel):
    """The limits of the smoke test in a server process before a release."""

    enabled: bool = Field(default=True, description="whether the smoke test runs")
    max_latency_ms: float = Field(
        default=250, gt=0, description="maximum of the median latency of a request in milliseconds"
    )
    replay_rows: int = Field(default=500, ge=0, description="number of logged rows of the last week that are replayed")


class Monitoring(StrictModel):
    """The limits of the monitor."""

    max_model_age_days: float | None = Field(
        default=None, gt=0, description="maximum age of the champion's training data in days"
    )
    max_table_age_days: float | None = Field(
        default=None, gt=0, description="maximum age of a table's newest row in days"
    )
    max_psi: float = Field(default=0.25, gt=0, description="maximum population stability index (PSI) of a feature")


class Budget(StrictModel):
    """The budget of a feature per row, which the experiment `feature_cost` checks."""

    microseconds: float = Field(default=20, gt=0, description="maximum processor time")
    bytes: float = Field(default=16, gt=0, description="maximum size in the training set")


class Acceptance(StrictModel):
    """The content of `config/acceptance.toml`."""

    decision: DecisionCosts = DecisionCosts()
    window: Window = Window()
    leaks: Leaks = Leaks()
    at_least: dict[str, float] = Field(default={}, description="minimum of a metric")
    at_most: dict[str, float] = Field(default={}, description="maximum of a metric")
    confidence: float = Field(
        default=0.95, ge=0, le=1, description="confidence of the comparisons with baselines and champion"
    )
    slices: Slices = Slices()
    fairness: Fairness = Fairness()
    smoke_test: SmokeTestLimits = SmokeTestLimits()
    retrain: Retrain = Retrain()
    monitor: Monitoring = Monitoring()
    budget: Budget = Budget()
