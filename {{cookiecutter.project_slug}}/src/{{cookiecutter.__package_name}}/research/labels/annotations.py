"""What annotators said of rows, and the rule by which that becomes labels.

The rule: an annotation that was cancelled, or has no answer, does not count. Of an annotator who answered about a row
more than once, the newest answer counts. What most annotators answered is the label; a tie is none. Of numbers, the
label is the answer in the middle, of two in the middle the lower: always an answer that somebody gave.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from statistics import median_low

Key = tuple[object, ...]
Answer = str | bool | int | float


@dataclass(frozen=True)
class Annotation:
    """What an annotator said of a row.

    Attributes:
        key: The row's.
        annotator: Who.
        created: When.
        answer: Nothing where there is none, or where the annotation was cancelled.
        id: Of the annotation, a number; between two of the same moment, the larger is newer.
    """

    key: Key
    annotator: str
    created: datetime
    answer: Answer | None
    id: str = ""


@dataclass(frozen=True)
class Decision:
    """What became of a row's annotations.

    Attributes:
        key: The row's.
        label: Nothing where the annotators tie.
        known: When the newest of the answers that agree with the label was given; of a tie, the newest of all.
        agreement: The share of annotators whose answer is the label; of a tie, one of the most frequent answers.
        counted: The annotations that count, one an annotator.
    """

    key: Key
    label: Answer | None
    known: datetime
    agreement: float
    counted: tuple[Annotation, ...]


def decide(annotations: Iterable[Annotation]) -> list[Decision]:
    """Hold annotations against the rule, whatever their order: a decision for each row that has an answer."""
    newest: dict[tuple[Key, str], Annotation] = {}
    for given in annotations:
        who = given.key, given.annotator
        if given.answer is not None and (who not in newest or _age(newest[who]) < _age(given)):
            newest[who] = given
    rows: dict[Key, list[Annotation]] = {}
    for given in sorted(newest.values(), key=lambda given: ([str(part) for part in given.key], given.annotator)):
        rows.setdefault(given.key, []).append(given)
    return [_decided(key, counted) for key, counted in rows.items()]


def _age(given: Annotation) -> tuple[datetime, str, str]:
    return given.created, given.id.zfill(20), str(given.answer)


def _decided(key: Key, counted: list[Annotation]) -> Decision:
    answers = [given.answer for given in counted if given.answer is not None]
    numbers = [answer for answer in answers if isinstance(answer, int | float) and not isinstance(answer, bool)]
    votes = Counter(answers)
    first, *others = votes.most_common()
    label: Answer | None = median_low(numbers) if numbers else first[0]
    if not numbers and others and others[0][1] == first[1]:
        label = None
    agree = [given for given in counted if label in {None, given.answer}]
    share = (first[1] if label is None else votes[label]) / len(counted)
    return Decision(key, label, max(given.created for given in agree), share, tuple(counted))
