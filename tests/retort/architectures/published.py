"""Weights of our own making where published ones would lie, so that no test needs a connection."""

import hashlib
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from timm.models import get_pretrained_cfg
from torchvision import models

Weights = dict[str, torch.Tensor]


def torchvision_checkpoint(home: Path, architecture: str, monkeypatch: pytest.MonkeyPatch) -> Weights:
    """A checkpoint in torch's cache below `home`, under a name that bears its digest."""
    monkeypatch.setenv("TORCH_HOME", str(home))
    cache = home / "hub" / "checkpoints"
    cache.mkdir(parents=True, exist_ok=True)
    name = architecture.removeprefix("torchvision.")
    weights: Weights = models.get_model(name, weights=None).state_dict()
    file = cache / "unnamed"
    torch.save(weights, file)
    named = file.rename(cache / f"{name}-{hashlib.sha256(file.read_bytes()).hexdigest()[:8]}.pth")
    published = models.get_model_weights(name).DEFAULT.value
    monkeypatch.setattr(published, "url", f"https://weights.invalid/{named.name}")
    return weights


def offline_hub(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Hugging Face hub without a connection, its cache below `home`."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def hub_file(home: Path, architecture: str, weights: Weights, name: str = "model.safetensors") -> Path:
    """A file of the architecture's repository in the hub's cache below `home`; a pickle under another name."""
    repository = get_pretrained_cfg(architecture.removeprefix("timm.")).hf_hub_id
    folder = home / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    file = folder / "snapshots" / ("0" * 40) / name
    file.parent.mkdir(parents=True)
    if name.endswith(".safetensors"):
        save_file(weights, file)
    else:
        torch.save(weights, file)
    return file
