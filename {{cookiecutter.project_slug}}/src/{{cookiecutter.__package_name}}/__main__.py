"""The console script as a module: `python -m {{cookiecutter.__package_name}}`."""

from {{cookiecutter.__package_name}}.cli import main

if __name__ == "__main__":
    main()
