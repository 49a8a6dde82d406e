"""Changes of geometry and colour to a whole batch at once, each image by an operation and a strength of its own.

The formulas are those of torchvision's functional operations on float images. They come in families that are computed
together, each image at a strength that changes nothing where an operation of another family is wanted.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

OPERATIONS = (
    "identity",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "rotate",
    "brightness",
    "color",
    "contrast",
    "sharpness",
    "posterize",
    "solarize",
    "autocontrast",
    "equalize",
    "invert",
)
"""Operations that `apply` knows, by number."""
NUMBER = {name: number for number, name in enumerate(OPERATIONS)}

GREY = (0.2989, 0.587, 0.114)
"""Shares of red, green and blue in the brightness of a colour."""
LEVELS = 256
"""Values of a channel that equalizing distinguishes."""


def apply(images: Tensor, operation: Tensor, strength: Tensor) -> Tensor:
    """(N, 3, H, W) float32 in [0, 1], changed by (N,) int64 operations of (N,) float64 strengths.

    The strength is the shear's slope, whole pixels to the right or down, degrees against the clock; for brightness,
    color, contrast and sharpness the number that is added to a factor of 1; the bits that posterizing leaves, in [0,
    8]; the value from which solarizing inverts, in [0, 1]. The others have none.

    On a CPU each family sees only its own images. Elsewhere it sees all, so that shapes are fixed and the host is not
    waited for. An image becomes the same either way.
    """
    if images.device.type != "cpu":
        for _, change in FAMILIES:
            images = change(images, operation, strength)
        return images
    images = images.clone()
    for names, change in FAMILIES:
        rows = torch.stack([operation == NUMBER[name] for name in names]).any(0).nonzero()[:, 0]
        if len(rows):
            images[rows] = change(images[rows], operation[rows], strength[rows])
    return images


def _wide(values: Tensor) -> Tensor:
    """(N,) as (N, 1, 1, 1)."""
    return values[:, None, None, None]


def _moved(images: Tensor, operation: Tensor, strength: Tensor) -> Tensor:
    """Each pixel from its nearest neighbour under the image's own inverse matrix; black from outside."""
    height, width = images.shape[-2:]

    def of(name: str) -> Tensor:
        return torch.where(operation == NUMBER[name], strength, 0)

    shear_x, shear_y, angle = of("shear_x"), of("shear_y"), of("rotate").deg2rad()
    # Seen from the image's middle; shears leave its top or left edge in place.
    from_x = (angle.cos(), shear_x - angle.sin(), shear_x * height / 2 - of("translate_x"))
    from_y = (shear_y + angle.sin(), angle.cos(), shear_y * width / 2 - of("translate_y"))
    # A grid counts in half sides.
    matrices = [torch.stack(row, 1).float() / (0.5 * side) for row, side in ((from_x, width), (from_y, height))]
    x = torch.arange(width, device=images.device) - (width - 1) / 2
    y = (torch.arange(height, device=images.device) - (height - 1) / 2)[:, None]
    grid = torch.stack([x * m[:, 0, None, None] + y * m[:, 1, None, None] + m[:, 2, None, None] for m in matrices], 3)
    return F.grid_sample(images, grid, mode="nearest", align_corners=False)


def _blended(images: Tensor, operation: Tensor, strength: Tensor) -> Tensor:
    """Away from black, grey, the mean grey or the blurred image, or towards it, by the image's own factor."""
    grey = sum(share * images[:, c : c + 1] for c, share in enumerate(GREY))
    assert isinstance(grey, Tensor)
    mean = grey.double().mean((1, 2, 3), keepdim=True).float()
    named = [_wide(operation == NUMBER[name]) for name in ("brightness", "color", "contrast", "sharpness")]
    brightness, color, contrast, sharpness = named
    other = torch.where(contrast, mean, torch.where(color, grey, torch.zeros_like(grey)))
    other = torch.where(sharpness, _blurred(images), other)
    factor = torch.where(brightness | color | contrast | sharpness, 1 + _wide(strength), 1).float()
    return (images * factor + other * (1 - factor)).clamp(0, 1)


def _blurred(images: Tensor) -> Tensor:
    """Each inner pixel as the mean of itself, five times, and its eight neighbours; the border as it is."""
    if min(images.shape[-2:]) <= 2:
        return images
    rows = images[:, :, :-2] + images[:, :, 1:-1] + images[:, :, 2:]
    context = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
    blurred = images.clone()
    blurred[:, :, 1:-1, 1:-1] = (context + 4 * images[:, :, 1:-1, 1:-1]) / 13
    return blurred


def _posterized(images: Tensor, operation: Tensor, strength: Tensor) -> Tensor:
    posterize = _wide(operation == NUMBER["posterize"])
    levels = _wide(strength.float().exp2())
    return torch.where(posterize, (images * levels).floor().clamp(max=levels - 1) / levels, images)


def _inverted(images: Tensor, operation: Tensor, strength: Tensor) -> Tensor:
    """Values from the threshold on; from 0 on where all is inverted."""
    threshold = torch.where(operation == NUMBER["solarize"], strength.float(), torch.inf)
    threshold = torch.where(operation == NUMBER["invert"], 0, threshold)
    return torch.where(images >= _wide(threshold), 1 - images, images)


def _stretched(images: Tensor, operation: Tensor, strength: Tensor) -> Tensor:
    """Each channel's darkest value to 0, its brightest to 1."""
    low, high = images.aminmax(dim=-1, keepdim=True)
    low, high = low.amin(-2, keepdim=True), high.amax(-2, keepdim=True)
    stretch = _wide(operation == NUMBER["autocontrast"]) & (high > low)
    return ((images - torch.where(stretch, low, 0)) / torch.where(stretch, high - low, 1)).clamp(0, 1)


def _equalized(images: Tensor, operation: Tensor, strength: Tensor) -> Tensor:
    """Each channel's values spread so that all are about equally frequent, in Pillow's whole numbers."""
    count, channels, height, width = images.shape
    pixels = height * width
    values = (images * (LEVELS - 1e-3)).long().view(count, channels, pixels)
    histogram = torch.zeros(count, channels, LEVELS, dtype=torch.int32, device=images.device)
    histogram.scatter_add_(2, values, torch.ones((), dtype=torch.int32, device=images.device).expand_as(values))
    upto = histogram.cumsum(2, dtype=torch.int32)
    brightest = histogram.gather(2, upto.argmax(2, keepdim=True))
    step = (pixels - brightest) // (LEVELS - 1)
    # The number of pixels below a value decides its new value.
    table = ((upto - histogram + step // 2) // step.clamp(min=1)).clamp(0, LEVELS - 1)
    equalize = _wide(operation == NUMBER["equalize"])
    spread = torch.where(step > 0, table.gather(2, values), values).view_as(images)
    return torch.where(equalize, spread / (LEVELS - 1), images)


FAMILIES = (
    (("shear_x", "shear_y", "translate_x", "translate_y", "rotate"), _moved),
    (("brightness", "color", "contrast", "sharpness"), _blended),
    (("posterize",), _posterized),
    (("solarize", "invert"), _inverted),
    (("autocontrast",), _stretched),
    (("equalize",), _equalized),
)
"""Operations that are computed together; an image of none of these names is left as it is."""
