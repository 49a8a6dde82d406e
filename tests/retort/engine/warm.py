"""Imports the modules of an engine's first steps. Computes nothing: a fork takes none of its parent's threads along."""

import sklearn.datasets  # noqa: F401
import torch
import torchvision.models  # noqa: F401

import retort.engine.estimate
import retort.engine.run  # noqa: F401
from retort.engine.__main__ import _warm_up

torch.set_num_threads(1)
_warm_up()
