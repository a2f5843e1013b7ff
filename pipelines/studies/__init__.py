"""Several trainings as one study: runs, sweeps, comparisons."""

import pipelines.base.openmmlab  # noqa: F401
