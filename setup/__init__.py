"""What `make setup` runs: before .venv exists, hence with any Python from 3.9 on and nothing installed.

`setup.compile` alone runs in .venv.
"""
