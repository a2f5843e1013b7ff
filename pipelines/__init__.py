"""One module per command."""

import os

from pipelines.base.openmmlab import arrange_imports

# libgomp's idle threads spin by default: with another process on the same cores, two threads were measured 10 times
# slower than one. It reads this when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

arrange_imports()
