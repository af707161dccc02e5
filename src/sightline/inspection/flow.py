"""Which operations lie between the image and the score: forwards from the one, backwards from the other."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from sightline.inspection.recording import Flow, Key, Ref

_SHAPE_ONLY = frozenset(
    ["expand_as", "view_as", "reshape_as", "type_as", "to"]
)  # the second tensor lends no value
_NOTHING = frozenset(
    ["zeros_like", "ones_like", "empty_like", "rand_like", "randn_like", "full_like", "new_zeros", "new_ones",
     "new_empty", "new_full", "new_tensor"]
)  # fmt: skip

# Functions that return no tensor and tell nothing of the values in one
_OF_THE_SHAPE = frozenset(
    ["size", "dim", "ndimension", "numel", "nelement", "stride", "storage_offset", "is_contiguous", "is_floating_point",
     "is_complex", "is_signed", "is_inference", "element_size", "itemsize", "get_device", "type", "len", "data_ptr",
     "untyped_storage", "requires_grad_", "register_hook", "hash", "is_pinned", "is_shared", "format", "repr", "set"]
)  # fmt: skip


def _reads(flow: Flow) -> Sequence[Ref]:
    if flow.function in _NOTHING:
        return ()
    return flow.reads[:1] if flow.function in _SHAPE_ONLY else flow.reads


def dependent(flows: Sequence[Flow], sources: Iterable[Ref], blocked: Collection[Key] = ()) -> set[int]:
    """The positions in ``flows`` of all that depends on the sources, by paths that do not lead through ``blocked``.

    A tensor is followed by its identity and version; one that no function made (a view taken by an attribute, the
    base of a view that was written to) by its memory.
    """
    sources = list(sources)
    keys, known = {key for key, _ in sources}, {key for key, _ in sources}
    memory = {place for _, place in sources}
    found = set()
    for position, flow in enumerate(flows):
        if any(key in keys or (key not in known and place in memory) for key, place in _reads(flow)):
            found.add(position)
            keys.update(key for key, _ in flow.writes if key not in blocked)
            memory.update(place for _, place in flow.writes)
        known.update(key for key, _ in flow.writes)
    return found


def leading(flows: Sequence[Flow], sinks: Iterable[Ref], blocked: Collection[Key] = ()) -> set[int]:
    """The positions in ``flows`` of all that the sinks are computed from, by paths not through ``blocked``."""
    written = {key for flow in flows for key, _ in flow.writes}
    keys: set[Key] = set()
    memory: set[int] = set()

    def need(refs: Iterable[Ref]) -> None:
        for key, place in refs:
            if key in written:
                keys.update(() if key in blocked else (key,))
            else:
                memory.add(place)

    need(sinks)
    found = set()
    for position in range(len(flows) - 1, -1, -1):
        flow = flows[position]
        if any(key in keys or place in memory for key, place in flow.writes):
            found.add(position)
            need(_reads(flow))
    return found


def asks_values(flows: Sequence[Flow]) -> bool:
    """Whether values (of the image, a buffer, chance) become numbers, truths or arrays: a branch may follow."""
    return any(
        flow.op is None and flow.function.strip("_") not in _OF_THE_SHAPE and flow.reads for flow in flows
    )
