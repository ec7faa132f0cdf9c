"""Whether a host can, and need, learn a stream: asked once, before anything is learned.

check_stream(host, stream)               # EditError that names the edit
stream = drop_known(host, stream)
"""

from __future__ import annotations

import warnings

from .edits import Edit, EditBatch, EditError, EditStream, FactIndex
from .host import Host

ANY_ANSWER = "?"  # stands for what the unedited host will say to a locality prompt


def check_stream(host: Host, stream: EditStream) -> None:
    """Raise :class:`EditError` for the first edit that this host cannot or need not learn."""
    if not len(stream):
        raise EditError(
            f"the stream {stream.name!r} has no edits; the host may have known them all already"
        )
    for batch in stream:
        check_batch(host, batch)
    for edit in known_edits(host, stream):
        raise EditError(
            f"edit {edit.id!r}: the host already answers {edit.prompt!r} with {edit.target!r}; "
            "drop the edit or change its target; drop_known(host, stream) drops all such edits"
        )


def check_batch(host: Host, batch: EditBatch) -> None:
    """Raise :class:`EditError` for the first edit with a question that this host cannot read.

    An answer that is the host's own is cut to the room that its prompt leaves.
    """
    for edit in batch:
        asked = [(edit.prompt, edit.target)]
        asked += [(rephrase.prompt, edit.target) for rephrase in edit.rephrases]
        asked += [(other.prompt, other.target) for other in edit.locality]
        for prompt, target in asked:
            try:
                fed = target or ANY_ANSWER
                if host.encoding.most_tokens(prompt, fed) >= host.context:
                    host.encode(prompt, fed, cut=target is None)
            except EditError as error:
                raise EditError(f"edit {edit.id!r}: {error}") from error


def known_edits(host: Host, stream: EditStream) -> list[Edit]:
    """Edits whose answer the unedited host already says, unless they revise an earlier edit."""
    edits = stream.edits
    said = host.exact_match([edit.prompt for edit in edits], [edit.answers for edit in edits])
    known, earlier = [], FactIndex()
    for edit, says in zip(edits, said, strict=True):
        if says and not earlier.same(edit):
            known.append(edit)
        earlier.add(edit)
    return known


def drop_known(host: Host, stream: EditStream) -> EditStream:
    """The stream without edits that the host already answers; the same object if there are none.

    Batches may become shorter by it, and one without any edit left goes. If the host knows all of
    them, the stream is empty, and a warning says so.
    """
    known = {edit.id for edit in known_edits(host, stream)}
    if not known:
        return stream
    groups = [[edit for edit in batch if edit.id not in known] for batch in stream]
    left = [group for group in groups if group]
    if left:
        return stream.with_groups(left)
    warnings.warn(
        f"{host.name} already answers all {len(known)} edits of the stream {stream.name!r} with "
        "their targets, so none is left to learn; take other edits or other targets",
        stacklevel=2,
    )
    return stream.model_copy(update={"batches": ()})
