"""Training steps and captures timed side by side: for the step benchmark and `make check-gpu`."""
