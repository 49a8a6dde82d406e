"""Given maps as the stages of two networks."""

from dataclasses import replace

from retort.method import STUDENT, TEACHER
from retort.view import CLEAN
from tests.retort.methods.goldens import batch_of, outputs_of


def batch_behind_a_stem(given, **fields):
    """The batch of given maps, with a first stage in front of them that no method may touch."""
    outputs = {
        (network, CLEAN): outputs_of(given, role) for network, role in ((STUDENT, "student"), (TEACHER, "teacher"))
    }
    outputs = {
        key: replace(read, maps=(None, *read.maps), preactivations=(None, *read.preactivations))
        for key, read in outputs.items()
    }
    return batch_of(given, outputs=outputs, **fields)
