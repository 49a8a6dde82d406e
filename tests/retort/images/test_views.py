from hashlib import sha256

import pytest
import torch
from torchvision.transforms.v2 import functional

from retort import augmentation as asked
from retort.augmentation import Augmentation, BatchMixupOrCutMix, Erasing, ResizedCrop, TrivialAugmentPolicy
from retort.images.views import DrawContext, augment, draw_boxes, make, mix
from retort.view import CLEAN, AutoAugment, CutMix, CutMixPick, Cutout, Mixup, RandAugment

N, SIDE = 16, 12


@pytest.fixture
def pixels():
    return torch.randint(256, (N, 3, SIDE, SIDE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def draw_context(indices=None, epoch=2, step=40, teacher=None):
    fill = torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1)
    return DrawContext(0, epoch, step, torch.arange(N) if indices is None else indices, fill, teacher)


def test_no_augmentation_only_scales(pixels):
    assert torch.equal(augment(pixels, Augmentation(), draw_context()), pixels.float() / 255)


def test_every_image_is_a_crop_of_its_padded_self_mirrored_or_not(pixels):
    cropped = augment(pixels, Augmentation(crop_padding=2, flip=True), draw_context())
    padded = torch.nn.functional.pad(pixels, (2,) * 4).float() / 255
    for image, whole in zip(cropped, padded, strict=True):
        places = [
            (y, x, flipped)
            for y in range(5)
            for x in range(5)
            for flipped in (False, True)
            if torch.equal(image, whole[:, y : y + SIDE, x : x + SIDE].flip(2 if flipped else ()))
        ]
        assert len(places) == 1
    assert len({tuple(image.flatten().tolist()) for image in cropped}) == N


@pytest.mark.parametrize(
    ("settings", "digest"),
    [
        ({"flip": True}, "46ce53a83de047c9"),
        ({"crop_padding": 3}, "dde8d68a964e3655"),
        ({"crop_padding": 2, "flip": True}, "e4ebd82870160cb9"),
    ],
    ids=str,
)
def test_crops_and_flips_keep_their_bits(pixels, settings, digest):
    """Results of earlier recipes; a change here changes all of them."""
    there = DrawContext(5, 2, 40, torch.arange(100, 116), torch.zeros(1, 3, 1, 1))
    found = augment(pixels, Augmentation(**settings), there)
    assert sha256(found.contiguous().numpy().tobytes()).hexdigest()[:16] == digest


EACH = [
    {"crop_padding": 4, "flip": True},
    {"resized_crop": ResizedCrop(), "flip": True},
    {"policy": asked.RandAugmentPolicy()},
    {"policy": asked.AutoAugmentPolicy()},
    {"policy": TrivialAugmentPolicy()},
    {"erasing": Erasing(probability=1)},
    {"erasing": Erasing(probability=0.5, fill="mean")},
    {"cutout": 0.25},
]
ALL = {
    "resized_crop": ResizedCrop(),
    "flip": True,
    "policy": TrivialAugmentPolicy(),
    "erasing": Erasing(),
    "cutout": 0.25,
}


@pytest.mark.parametrize("settings", [*EACH, ALL], ids=lambda settings: " ".join(settings))
def test_augmentation_of_an_image_does_not_depend_on_its_batch(pixels, settings):
    settings = Augmentation(**settings)
    together = augment(pixels, settings, draw_context())
    assert not torch.equal(together, augment(pixels, Augmentation(), draw_context()))
    assert not torch.equal(together, augment(pixels, settings, draw_context(epoch=3)))
    for some in (torch.tensor([5, 2, 11]), torch.tensor([7]), torch.arange(N).flip(0)):
        assert torch.equal(together[some], augment(pixels[some], settings, draw_context(some, step=99)))


def test_offsets_and_flips_are_spread_evenly():
    ramp = torch.arange(9, dtype=torch.uint8).expand(3, 9, 9)
    many = ramp.expand(4000, -1, -1, -1)
    cropped = augment(many, Augmentation(crop_padding=1, flip=True), draw_context(torch.arange(4000))) * 255
    middle_column = cropped[:, 0, 4, 4].round()
    counts = torch.stack([(middle_column == value).sum() for value in (3, 4, 5)]).float()
    assert (counts / 4000 - 1 / 3).abs().max() < 5 * (2 / 9 / 4000) ** 0.5


def boxes_in(height, width, area, ratio, most=None, samples=3000):
    drawing = draw_context(torch.arange(samples)).drawing("test")
    boxes, found = draw_boxes(drawing, (height, width), most or (height, width), area, ratio)
    return [tensor[:, 0] for tensor in boxes], found[:, 0]


def test_boxes_lie_within_the_image_and_have_area_and_shape_of_the_ranges():
    (top, left, high, wide), found = boxes_in(60, 80, (0.1, 0.5), (0.5, 1.5))
    assert found.float().mean() > 0.99
    assert min(top.min(), left.min()) == 0
    assert (top + high)[found].max() == 60
    assert (left + wide)[found].max() == 80
    area, ratio = (high * wide / 4800)[found], (wide / high)[found]
    # Sides are rounded to whole pixels.
    assert 0.09 < area.min() < 0.12
    assert 0.48 < area.max() < 0.52
    assert 0.45 < ratio.min() < 0.55
    assert 1.4 < ratio.max() < 1.6
    halves = (ratio.log() < torch.tensor([0.5, 1.5]).log().mean()).float().mean()
    assert halves == pytest.approx(0.5, abs=0.06)


def test_no_box_is_found_where_none_fits():
    _, found = boxes_in(40, 40, (0.9, 1.0), (3.0, 4.0))
    assert not found.any()


@pytest.mark.parametrize("ratio", [(0.75, 4 / 3), (0.2, 0.25), (4.0, 5.0)])
def test_a_resized_crop_is_torchvisions_of_the_same_box(ratio):
    side, crop = 48, ResizedCrop(area=(0.3, 1.0), ratio=ratio)
    many = torch.randint(256, (N, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    drawing = draw_context().drawing("resized crop")
    (top, left, high, wide), found = draw_boxes(drawing, (side, side), (side, side), crop.area, ratio)
    assert found.any() == (ratio[0] < 1 < ratio[1])
    if not found.any():
        high, wide = (torch.full((N, 1), round(side * min(1, share))) for share in (1 / ratio[0], ratio[1]))
        top, left = (side - high) // 2, (side - wide) // 2
    cropped = augment(many, Augmentation(resized_crop=crop), draw_context())
    flipped = augment(many, Augmentation(resized_crop=crop, flip=True), draw_context())
    mirrored = 0
    for i in range(N):
        box = [int(tensor[i]) for tensor in (top, left, high, wide)]
        wanted = functional.resized_crop(many[i].float() / 255, *box, [side, side], antialias=True)
        torch.testing.assert_close(cropped[i], wanted, rtol=0, atol=2e-5)
        is_mirrored = (flipped[i] - wanted.flip(2)).abs().max() < 2e-5
        assert is_mirrored or (flipped[i] - wanted).abs().max() < 2e-5
        mirrored += is_mirrored
    assert 0 < mirrored < N


@pytest.mark.parametrize("fill", ["noise", "mean"])
def test_erasing_covers_one_box_of_some_images(fill):
    count, side = 1000, 20
    many = torch.full((count, 3, side, side), 255, dtype=torch.uint8)
    erasing = Erasing(probability=0.3, area=(0.1, 0.2), fill=fill)
    erased = augment(many, Augmentation(erasing=erasing), draw_context(torch.arange(count)))
    covered = (erased != 1).any(1)
    happened = covered.flatten(1).any(1)
    assert happened.float().mean() == pytest.approx(0.3, abs=5 * (0.21 / count) ** 0.5)
    rows, columns = covered.any(2).sum(1)[happened], covered.any(1).sum(1)[happened]
    assert torch.equal(rows * columns, covered.sum((1, 2))[happened])
    shares = rows * columns / side**2
    assert 0.08 < shares.min() < shares.max() < 0.23
    assert 0.25 < (rows / columns).min() < 0.5
    assert 2 < (rows / columns).max() < 4
    inside = erased.permute(0, 2, 3, 1)[covered]
    if fill == "mean":
        assert torch.equal(inside, torch.tensor([0.1, 0.2, 0.3]).expand_as(inside))
    else:
        assert inside.mean().item() == pytest.approx(0.5, abs=0.01)
        assert len(inside.unique()) == 256


def test_the_order_is_crop_policy_erasing_cutout(pixels):
    """Each step on what came out of the one before, by itself."""
    together = augment(pixels, Augmentation(**ALL), draw_context())
    mean = torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)
    without = augment(pixels, Augmentation(**(ALL | {"cutout": None})), draw_context())
    covered = (together == mean).all(1, keepdim=True)
    assert torch.equal(together, torch.where(covered, mean, without))
    assert covered.flatten(1).any(1).all()
    nothing = augment(pixels, Augmentation(**(ALL | {"cutout": None, "erasing": None})), draw_context())
    kept = (without == nothing).all(1).float().mean((1, 2))
    assert (kept > 0.5).all()
    assert (kept < 1).any()


MIXES = [asked.BatchMixup(alpha=1.0), asked.BatchCutMix(), BatchMixupOrCutMix(mixup_alpha=1.0)]


@pytest.mark.parametrize("how", MIXES, ids=lambda how: how.name)
def test_of_mixed_images_the_larger_share_is_their_own(how):
    images = torch.rand(N, 3, SIDE, SIDE)
    cut = 0
    for step in range(60):
        made = mix(images, how, draw_context(step=step))
        assert torch.equal(made.mixed.image, torch.arange(N))
        assert torch.equal(made.mixed.partner.sort().values, torch.arange(N))
        assert (made.mixed.partner != made.mixed.image).all()
        weight = made.mixed.weight
        assert 0.5 <= weight.min() == weight.max() <= 1
        other = images[made.mixed.partner]
        own = (made.inputs == images).all(1)
        if weight[0] < 1 and (own | (made.inputs == other).all(1)).all():
            torch.testing.assert_close(own.float().mean((1, 2)), weight)
            cut += 1
        else:
            torch.testing.assert_close(made.inputs, torch.lerp(other, images, weight.view(-1, 1, 1, 1)))
    assert {"mixup": cut == 0, "cutmix": cut > 40, "mixup_or_cutmix": 10 < cut < 50}[how.name]


def test_some_batches_are_left_as_they_are():
    images = torch.rand(N, 3, SIDE, SIDE)
    left = [mix(images, asked.BatchMixup(probability=0.3), draw_context(step=step)) for step in range(200)]
    untouched = [made for made in left if torch.equal(made.inputs, images)]
    assert len(untouched) / 200 == pytest.approx(0.7, abs=0.16)
    assert all(torch.equal(made.mixed.weight, torch.ones(N)) for made in untouched)


def test_without_a_mix_nothing_is_said_to_be_mixed():
    images = torch.rand(N, 3, SIDE, SIDE)
    made = mix(images, None, draw_context())
    assert made.inputs is images
    assert made.mixed is None


def test_clean_is_clean():
    images = torch.rand(N, 3, SIDE, SIDE)
    made = make(CLEAN, images, draw_context())
    assert made.inputs is images
    assert made.mixed is None


def test_mixup_blends_each_image_with_its_partner():
    images = torch.rand(N, 3, SIDE, SIDE)
    made = make(Mixup(alpha=0.5), images, draw_context())
    weight = made.mixed.weight[:, None, None, None]
    torch.testing.assert_close(made.inputs, weight * images + (1 - weight) * images[made.mixed.partner])
    assert torch.equal(made.mixed.partner.sort().values, torch.arange(N))


@pytest.mark.parametrize("step", range(8))
def test_cutmix_says_the_share_that_it_left(step):
    images = torch.rand(N, 3, SIDE, SIDE)
    made = make(CutMix(), images, draw_context(step=step))
    own = (made.inputs == images).all(1)
    other = (made.inputs == images[made.mixed.partner]).all(1)
    assert (own | other).all()
    moved = made.mixed.partner != torch.arange(N)
    torch.testing.assert_close(own[moved].float().mean((1, 2)), made.mixed.weight[moved])


def test_cutout_covers_a_square_of_its_own_with_the_mean_colour():
    images = torch.rand(N, 3, SIDE, SIDE) + 1
    made = make(Cutout(share=0.25), images, draw_context())
    covered = (made.inputs != images).all(1)
    assert covered.flatten(1).sum(1).max() == 9
    assert covered.flatten(1).sum(1).min() >= 2
    assert torch.equal(made.inputs[0][:, covered[0]][:, 0], torch.tensor([0.1, 0.2, 0.3]))
    assert len({tuple(mask.flatten().tolist()) for mask in covered}) > 1


@pytest.mark.parametrize("view", [Mixup(), CutMix(), Cutout()], ids=repr)
def test_views_repeat_and_change_from_step_to_step(view):
    images = torch.rand(N, 3, SIDE, SIDE)
    first, again = make(view, images, draw_context()), make(view, images, draw_context())
    later = make(view, images, draw_context(epoch=3, step=60))
    assert torch.equal(first.inputs, again.inputs)
    assert not torch.equal(first.inputs, later.inputs)


@pytest.mark.parametrize("view", [Mixup(), CutMix(), CutMixPick()])
def test_no_image_is_mixed_with_itself(view):
    images = torch.rand(N, 3, SIDE, SIDE)
    for step in range(20):
        mixed = make(view, images, draw_context(step=step, teacher=lambda x: x.mean((2, 3)))).mixed
        assert (mixed.image != mixed.partner).all()


def test_the_picked_images_are_those_of_highest_entropy():
    images = torch.rand(N, 3, SIDE, SIDE)
    asked = []

    def teacher(candidates):
        asked.append(candidates)
        return 10 * candidates.mean((2, 3))

    made = make(CutMixPick(runs=3), images, draw_context(teacher=teacher))
    (candidates,) = asked
    assert len(candidates) == 3 * N
    entropies = [torch.distributions.Categorical(logits=teacher(x)).entropy() for x in (candidates, made.inputs)]
    torch.testing.assert_close(entropies[1], entropies[0].sort(descending=True).values[:N])
    for image, i, j, weight in zip(made.inputs, *vars(made.mixed).values(), strict=True):
        from_itself = (image == images[i]).all(0)
        assert torch.equal(image, torch.where(from_itself, images[i], images[j]))
        assert from_itself.float().mean() == pytest.approx(weight.item())


@pytest.mark.parametrize("view", [RandAugment(), AutoAugment(), AutoAugment("imagenet")])
def test_each_image_is_changed_by_draws_of_its_own(view):
    images = torch.rand(1, 3, SIDE, SIDE).expand(N, -1, -1, -1)
    state = torch.get_rng_state()
    made = make(view, images, draw_context()).inputs
    assert made.shape == images.shape
    assert 0 <= made.min() <= made.max() <= 1
    assert len({tuple(image.flatten().tolist()) for image in made}) > N / 2
    assert torch.equal(torch.get_rng_state(), state)
    some = torch.tensor([3, 9])
    assert torch.equal(make(view, images[some], draw_context(some, step=99)).inputs, made[some])


@pytest.mark.parametrize("settings", [*EACH, ALL], ids=lambda settings: " ".join(settings))
def test_off_the_cpu_nothing_synchronises_with_the_host_and_shapes_are_fixed(pixels, settings):
    """On the meta device there are shapes and no numbers: whoever looks at one, or selects by one, fails."""
    meta = torch.device("meta")
    there = DrawContext(0, 2, 40, torch.arange(N, device=meta), torch.empty(1, 3, 1, 1, device=meta))
    for how in (None, *MIXES):
        made = mix(augment(pixels.to(meta), Augmentation(**settings), there), how, there)
        assert made.inputs.shape == pixels.shape
        assert made.inputs.dtype == torch.float32
    for view in (RandAugment(), AutoAugment(), Cutout(), CutMix(), Mixup()):
        assert make(view, made.inputs, there).inputs.shape == pixels.shape
