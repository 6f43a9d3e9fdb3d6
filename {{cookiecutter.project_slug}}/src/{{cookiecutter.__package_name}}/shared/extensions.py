"""Yours: what this project adds to the framework: metrics, checks, notifications, routes and commands.

Each is a field of `Part`; `docs/guide/extensions.md` has an example of each.
"""

from {{cookiecutter.__package_name}}.core.parts import Part

EXTENSIONS = Part()
