"""What research and production both use: the problem, once, and the machinery that works from it.

Here is only how anything says no: one line that names the thing, the value and the way out.
"""


class BadInput(Exception):
    """The command, its input or its surroundings can't work as they are: exit status 2."""


class Refused(Exception):
    """The command worked and the answer is no, or a person must act: exit status 1."""
