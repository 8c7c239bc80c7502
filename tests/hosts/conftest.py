"""Tests against the installed hosts: `make test-hosts`, in an environment of its own, and nowhere else.

A host that cannot be imported is an error that shows why, not a skip.  Tests of a clone that no variable
names are skipped.
"""

import os

collect_ignore_glob = [] if os.environ.get("SIGREG_HOSTS") else ["test_*.py"]
