"""Run one of solo-learn's scripts with our methods registered:

    python -m sigreg_adapters.solo_learn main_knn.py --pretrained_checkpoint_dir ...

Needed for the argparse scripts (main_knn.py, main_umap.py), which no Hydra plugin reaches; the others
may be run this way, too.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

from sigreg_adapters.solo_learn import register


def main(argv: list[str]) -> None:
    """Run `argv[0]`, a script, as `python SCRIPT ...` would."""
    if not argv or not Path(argv[0]).is_file():
        got = f"no file {argv[0]!r}" if argv else "no script"
        sys.exit(f"{got}; usage: python -m sigreg_adapters.solo_learn main_knn.py [its arguments]")
    sys.path.insert(0, str(Path(argv[0]).resolve().parent))
    try:
        register()
    except ImportError as reason:
        sys.exit(f"sigreg: {reason}")
    sys.argv = argv
    runpy.run_path(argv[0], run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1:])
