import pytest
import torch

from worker.engine.views import Moment, augment, make
from worker.recipe import Augmentation
from worker.view import CLEAN, CutMix, Cutout, Mixup

N, SIDE = 16, 12


@pytest.fixture
def pixels():
    return torch.randint(256, (N, 3, SIDE, SIDE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def moment(indices=None, epoch=2, step=40):
    fill = torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1)
    return Moment(0, epoch, step, torch.arange(N) if indices is None else indices, fill)


def test_no_augmentation_only_scales(pixels):
    assert torch.equal(augment(pixels, Augmentation(), moment()), pixels.float() / 255)


def test_every_image_is_a_crop_of_its_padded_self_mirrored_or_not(pixels):
    cropped = augment(pixels, Augmentation(crop_padding=2, flip=True), moment())
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


def test_augmentation_of_an_image_does_not_depend_on_its_batch(pixels):
    settings = Augmentation(crop_padding=4, flip=True)
    some = torch.tensor([5, 2, 11])
    assert torch.equal(augment(pixels, settings, moment())[some], augment(pixels[some], settings, moment(some)))


def test_offsets_and_flips_are_spread_evenly():
    ramp = torch.arange(9, dtype=torch.uint8).expand(3, 9, 9)
    many = ramp.expand(4000, -1, -1, -1)
    cropped = augment(many, Augmentation(crop_padding=1, flip=True), moment(torch.arange(4000))) * 255
    middle_column = cropped[:, 0, 4, 4].round()
    counts = torch.stack([(middle_column == value).sum() for value in (3, 4, 5)]).float()
    assert (counts / 4000 - 1 / 3).abs().max() < 5 * (2 / 9 / 4000) ** 0.5


def test_clean_is_clean():
    images = torch.rand(N, 3, SIDE, SIDE)
    made = make(CLEAN, images, moment())
    assert made.images is images
    assert made.mixed is None


def test_mixup_blends_each_image_with_its_partner():
    images = torch.rand(N, 3, SIDE, SIDE)
    made = make(Mixup(alpha=0.5), images, moment())
    weight = made.mixed.weight[:, None, None, None]
    torch.testing.assert_close(made.images, weight * images + (1 - weight) * images[made.mixed.partner])
    assert torch.equal(made.mixed.partner.sort().values, torch.arange(N))


@pytest.mark.parametrize("step", range(8))
def test_cutmix_says_the_share_that_it_left(step):
    images = torch.rand(N, 3, SIDE, SIDE)
    made = make(CutMix(), images, moment(step=step))
    own = (made.images == images).all(1)
    other = (made.images == images[made.mixed.partner]).all(1)
    assert (own | other).all()
    moved = made.mixed.partner != torch.arange(N)
    torch.testing.assert_close(own[moved].float().mean((1, 2)), made.mixed.weight[moved])


def test_cutout_covers_a_square_of_its_own_with_the_mean_colour():
    images = torch.rand(N, 3, SIDE, SIDE) + 1
    made = make(Cutout(share=0.25), images, moment())
    covered = (made.images != images).all(1)
    assert covered.flatten(1).sum(1).max() == 9
    assert covered.flatten(1).sum(1).min() >= 2
    assert torch.equal(made.images[0][:, covered[0]][:, 0], torch.tensor([0.1, 0.2, 0.3]))
    assert len({tuple(mask.flatten().tolist()) for mask in covered}) > 1


@pytest.mark.parametrize("view", [Mixup(), CutMix(), Cutout()], ids=repr)
def test_views_repeat_and_change_from_step_to_step(view):
    images = torch.rand(N, 3, SIDE, SIDE)
    first, again = make(view, images, moment()), make(view, images, moment())
    later = make(view, images, moment(epoch=3, step=60))
    assert torch.equal(first.images, again.images)
    assert not torch.equal(first.images, later.images)
