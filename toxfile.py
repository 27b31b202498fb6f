"""Lets tox find the interpreters that pyenv has installed: pyenv's commands on PATH answer for the active versions only."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from tox.plugin import impl

if TYPE_CHECKING:
    from tox.config.sets import ConfigSet
    from tox.session.state import State


@impl
def tox_add_core_config(core_conf: ConfigSet, state: State) -> None:
    """Have every interpreter of pyenv tried, as if named by `--discover`; without pyenv there is none."""
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    found = [str(python) for python in sorted(root.glob("versions/3.1?.*/bin/python"))]
    state.conf.options.discover = [*state.conf.options.discover, *found]
