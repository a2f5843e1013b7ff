"""Several trainings as one study: runs, sweeps, comparisons."""
