"""Imports OpenMMLab with its import-time messages on standard error: standard output belongs to a command's result.

Commands import this module before anything that imports mmdet.
"""

import sys
import warnings
from contextlib import redirect_stdout

with redirect_stdout(sys.stderr), warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import mmdet.datasets  # noqa: F401
    import mmrotate.datasets
    import mmrotate.models  # noqa: F401

# mmdet's own GFL head asks for it at every start.
warnings.filterwarnings("ignore", message="DeprecationWarning: `num_anchors` is deprecated")
