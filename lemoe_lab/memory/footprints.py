"""What an editor keeps of all batches, and what it needs to learn one, before it is attached.

    on_host(LEMoE(), host).footprint(Workload.of(host, stream))       # bytes

Every editor says it of itself; :mod:`lemoe_lab.memory.estimate` adds the host.
"""

from __future__ import annotations

import copy

from ..editors.base import Editor
from ..editors.shared.footprint import FLOAT32, Footprint, Workload, ffn_sizes
from ..host import Host

__all__ = ["FLOAT32", "Footprint", "Workload", "ffn_sizes", "on_host"]


def on_host(editor: Editor, host: Host) -> Editor:
    """A view of an editor on a host, to ask what it would change there; it changes neither."""
    view = copy.copy(editor)
    attribute = "_host" if hasattr(type(editor), "host") else "host"  # read-only, or plain
    setattr(view, attribute, host)
    return view
