"""Tests against the installed hosts: `make test-hosts`, in an environment of its own, and nowhere else.

A host that cannot be imported is an error that shows why, not a skip.
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))  # host_parity, pool

collect_ignore_glob = [] if os.environ.get("SIGREG_HOSTS") else ["test_*.py"]
