"""Exports: each one file format for a trained network. Imports no torch."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from retort.spec import Spec

if TYPE_CHECKING:
    from retort.network import Network


class Export(Spec):
    """Base of every export. A subclass is one file in retort/exports/ and names itself by `name`."""

    name: str
    suffix: ClassVar[str]
    """Ending of the file, with its dot: an artifact is named by its network and this."""
    media_type: ClassVar[str]

    @abstractmethod
    def write(self, network: Network, description: dict[str, Any], file: Path) -> None:
        """Write the network, in eval mode on the CPU, to one file that needs nothing else of ours.

        `description` is the content of `student.json`: input, class names, architecture.
        """
