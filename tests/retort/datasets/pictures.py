"""Small pictures for folders of images."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

Colour = tuple[int, int, int]


def paint(file: Path, colour: Colour, size: tuple[int, int] = (20, 16)) -> Path:
    """Write a picture of one colour, in the format that the file's ending names."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(file)
    return file
