"""What `config/acceptance.toml` asks of a model: costs, limits, slices, retraining and monitoring."""

from pydantic import BaseModel, ConfigDict, Field


class Closed(BaseModel):
    """A part of the configuration: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Decision(Closed):
    """What wrong decisions cost; the threshold that makes the expected cost smallest follows."""

    false_alert: float = Field(default=1.0, gt=0, description="an alert where nothing happened")
    miss: float = Field(default=1.0, gt=0, description="no alert where it did")

    @property
    def threshold(self) -> float:
        """The probability from which an alert costs less than none."""
        return self.false_alert / (self.false_alert + self.miss)


class Window(Closed):
    """The newest labelled rows, on which challengers are judged."""

    days: int = Field(default=14, gt=0, description="its length")
    share: float = Field(default=0.2, gt=0, lt=1, description="its share of rows, where rows have no time")
    rows: int = Field(default=50, gt=1, description="the fewest rows on which a comparison counts")


class Slices(Closed):
    """Groups of rows for which quality must hold."""

    columns: tuple[str, ...] = Field(default=(), description="a slice for each value of each of these columns")
    rows: int = Field(default=100, gt=1, description="smaller slices are not judged")
    at_least: dict[str, float] = Field(default={}, description="lowest value of a metric in a slice")
    at_most: dict[str, float] = Field(default={}, description="highest value of a metric in a slice")


class Groups(Closed):
    """Groups of rows that must not be served much worse than others."""

    columns: tuple[str, ...] = Field(default=(), description="a group for each value of each of these columns")
    rows: int = Field(default=100, gt=1, description="smaller groups are not judged")
    gap: dict[str, float] = Field(default={}, description="largest difference of a metric between two groups")


class Retrain(Closed):
    """When a new challenger is due, and on which rows it may be trained."""

    every_days: float = Field(default=28, gt=0, description="since the last one, at the latest")
    window_days: int = Field(default=7, gt=0, description="live quality is judged window by window")
    windows: int = Field(default=4, gt=0, description="so many windows are looked at")
    broken: int = Field(default=2, gt=0, description="in so many of them, the latest too, limits broke: one is due")
    train_days: tuple[int, ...] = Field(
        default=(0,), min_length=1, description="lengths of training that compete for the best; 0 is all there is"
    )


class Canary(Closed):
    """What a candidate must do in a server process before it is released."""

    on: bool = Field(default=True, description="whether it is asked at all")
    latency_ms: float = Field(default=250, gt=0, description="one request, in the middle of some")
    shadow_rows: int = Field(default=500, ge=0, description="so many rows of the last week's requests are asked again")


class Monitoring(Closed):
    """When a person must look."""

    stale_days: float | None = Field(default=None, gt=0, description="age from which a champion does badly")
    silent_days: float | None = Field(default=None, gt=0, description="age from which a table's newest row is too old")
    drift: float = Field(default=0.25, gt=0, description="population stability index of a feature that is a warning")


class Budget(Closed):
    """What one feature may cost for a row; the experiment `feature_cost` holds features to it."""

    microseconds: float = Field(default=20, gt=0, description="of the processor, to compute it")
    bytes: float = Field(default=16, gt=0, description="in the training set")


class Acceptance(Closed):
    """What `config/acceptance.toml` holds: what the gate asks of a challenger."""

    decision: Decision = Decision()
    window: Window = Window()
    at_least: dict[str, float] = Field(default={}, description="lowest value of a metric")
    at_most: dict[str, float] = Field(default={}, description="highest value of a metric")
    confidence: float = Field(default=0.95, ge=0, le=1, description="of being better than baselines and champion")
    slices: Slices = Slices()
    groups: Groups = Groups()
    canary: Canary = Canary()
    retrain: Retrain = Retrain()
    monitor: Monitoring = Monitoring()
    budget: Budget = Budget()
