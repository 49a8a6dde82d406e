"""Names of a file's tensors matched with a network's by their ends: wrappers put parts before or into names."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

INNER = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""Parts that torch.compile, FSDP and activation checkpointing put anywhere into a name."""
COUNTER = "num_batches_tracked"
"""A counter of batch norm that nothing reads; files of old versions lack it."""


@dataclass(frozen=True)
class NameMatch:
    """Names of a file matched with those of a network."""

    found: Mapping[str, str]
    """Name in the file by name in the network."""
    prefix: str
    """Part before the network's names in the file, with its dot; of the classifier it may be another one."""
    copies: Mapping[str, Mapping[str, str]]
    """The same as `found` for every prefix under which the file has the whole network but its classifier."""
    left: tuple[str, ...]
    """Names of the file that are no names of the network, sorted."""


def match_names(names: Iterable[str], wanted: Iterable[str], heads: tuple[str, ...] = ()) -> NameMatch:
    """The names under the prefix that most of the network's names bear in the file; those that begin with `heads`, of
    its classifiers, may bear another one."""
    plain = _without_inner(names)
    known = frozenset(wanted)
    under = _by_prefix(plain, known)
    body = {name for name in known if not name.startswith(heads) and not name.endswith(COUNTER)}
    prefix = max(under, key=lambda one: (len(under[one] & body), len(under[one]), -len(one)), default="")
    found = {name: plain[prefix + name] for name in under.get(prefix, ())}
    head = {name for name in known - found.keys() if name.startswith(heads)}
    used = set(found.values())
    others = [one for one in under if head and head <= under[one] and used.isdisjoint(plain[one + n] for n in head)]
    if len(others) == 1:
        found |= {name: plain[others[0] + name] for name in head}
    whole = sorted((one for one in under if body and body <= under[one]), key=lambda one: (len(one), one))
    copies = {one: {name: plain[one + name] for name in under[one]} for one in whole}
    return NameMatch(found, prefix, copies, tuple(sorted(set(plain.values()).difference(found.values()))))


def _without_inner(names: Iterable[str]) -> dict[str, str]:
    """Each name by the same without INNER; by itself where two would become one."""
    names = list(names)
    shorter = {".".join(part for part in name.split(".") if part not in INNER): name for name in names}
    return shorter if len(shorter) == len(names) else {name: name for name in names}


def _by_prefix(names: Iterable[str], known: frozenset[str]) -> dict[str, set[str]]:
    """The network's names that the file has under each prefix."""
    most = max((name.count(".") for name in known), default=0)
    found: dict[str, set[str]] = defaultdict(set)
    for name in names:
        for own in _ends(name, most):
            if own in known:
                found[name.removesuffix(own)].add(own)
    return found


def _ends(name: str, most_dots: int) -> Iterator[str]:
    """A name without its first parts, as many as leave at most that many dots."""
    parts = name.rsplit(".", most_dots + 1)
    whole = parts if name.count(".") <= most_dots else parts[1:]
    for first in range(len(whole)):
        yield ".".join(whole[first:])
