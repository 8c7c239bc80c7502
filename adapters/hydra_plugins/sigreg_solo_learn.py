"""The Hydra plugin that puts our methods into solo-learn when its main scripts start.

It is part of the wheel because `main_pretrain.py` of an unmodified clone registers methods nowhere else, and
because under DDP every rank runs that script again, so that no launcher of ours can register them.

Hydra 1.3 finds it in this namespace, 1.4 by the entry point `hydra.plugins`.  Every other Hydra program
loads this file, too: it must not import torch, must not raise and must print nothing there.
"""

from __future__ import annotations

import logging
import sys

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

_said: set[str] = set()


class SigregSoloLearn(SearchPathPlugin):
    """Registers when Hydra assembles its search path: after the script's imports, before its main."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Leave the path as it is; register if, and only if, solo-learn's methods have been imported."""
        if "solo.methods" not in sys.modules:
            return
        try:
            from sigreg_adapters.solo_learn import register

            register()
        except Exception as reason:
            if str(reason) not in _said:
                _said.add(str(reason))
                logging.getLogger("sigreg").warning("method lejepa is not available: %s", reason)
