import pytest
import torch

from worker.engine.views import Moment, augment, make
from worker.recipe import Augmentation
from worker.view import CLEAN, AutoAugment, CutMix, CutMixPick, Cutout, Mixup, RandAugment

N, SIDE = 16, 12


@pytest.fixture
def pixels():
    return torch.randint(256, (N, 3, SIDE, SIDE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def moment(indices=None, epoch=2, step=40, teacher=None):
    fill = torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1)
    return Moment(0, epoch, step, torch.arange(N) if indices is None else indices, fill, teacher)


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


@pytest.mark.parametrize("view", [Mixup(), CutMix(), CutMixPick()])
def test_no_image_is_mixed_with_itself(view):
    images = torch.rand(N, 3, SIDE, SIDE)
    for step in range(20):
        mixed = make(view, images, moment(step=step, teacher=lambda x: x.mean((2, 3)))).mixed
        assert (mixed.image != mixed.partner).all()


def test_the_picked_images_are_those_of_highest_entropy():
    images = torch.rand(N, 3, SIDE, SIDE)
    asked = []

    def teacher(candidates):
        asked.append(candidates)
        return 10 * candidates.mean((2, 3))

    made = make(CutMixPick(runs=3), images, moment(teacher=teacher))
    (candidates,) = asked
    assert len(candidates) == 3 * N
    entropies = [torch.distributions.Categorical(logits=teacher(x)).entropy() for x in (candidates, made.images)]
    torch.testing.assert_close(entropies[1], entropies[0].sort(descending=True).values[:N])
    for image, i, j, weight in zip(made.images, *vars(made.mixed).values(), strict=True):
        from_itself = (image == images[i]).all(0)
        assert torch.equal(image, torch.where(from_itself, images[i], images[j]))
        assert from_itself.float().mean() == pytest.approx(weight.item())


@pytest.mark.parametrize("view", [RandAugment(), AutoAugment(), AutoAugment("imagenet")])
def test_each_image_is_changed_by_draws_of_its_own(view):
    images = torch.rand(1, 3, SIDE, SIDE).expand(N, -1, -1, -1)
    state = torch.get_rng_state()
    made = make(view, images, moment()).images
    assert made.shape == images.shape
    assert 0 <= made.min() <= made.max() <= 1
    assert len({tuple(image.flatten().tolist()) for image in made}) > N / 2
    assert torch.equal(torch.get_rng_state(), state)
    some = torch.tensor([3, 9])
    assert torch.equal(make(view, images[some], moment(some, step=99)).images, made[some])
