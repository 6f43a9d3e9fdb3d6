"""What research and production both use: the problem, once, and the machinery that works from it.

Here is only how anything says no: one line that names the thing, the value and the way out.
"""


class BadInput(Exception):
    """The command, its input or its surroundings can't work as they are: exit status 2."""


class Refused(Exception):
    """The command worked and the answer is no, or a person must act: exit status 1."""


def first_line(error: BaseException) -> str:
    """What an error says, in one line: its kind where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
