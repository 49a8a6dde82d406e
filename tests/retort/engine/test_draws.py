import torch

from retort import draws

CPU = torch.device("cpu")


def test_a_draw_depends_on_its_own_sample_alone():
    together = draws.uniform(3, "flip", 5, torch.arange(100), 4)
    alone = draws.uniform(3, "flip", 5, torch.tensor([42]), 4)
    assert torch.equal(together[42], alone[0])


def test_seed_purpose_and_epoch_each_change_the_draws():
    samples = torch.arange(50)
    drawn = [draws.uniform(*key, samples, 2) for key in ((0, "a", 0), (1, "a", 0), (0, "b", 0), (0, "a", 1))]
    assert all(not torch.equal(x, y) for i, x in enumerate(drawn) for y in drawn[:i])


def test_draws_are_uniform_in_the_unit_interval():
    drawn = draws.uniform(0, "uniform", 0, torch.arange(100_000), 2)
    assert 0 <= drawn.min() <= 1e-4
    assert 1 - 1e-4 <= drawn.max() < 1
    # Standard errors: 0.29 / sqrt(2e5) for the mean, 0.3 / sqrt(1e5) for the correlation; five of each.
    assert abs(drawn.mean() - 0.5) < 5 * 0.29 / 2e5**0.5
    assert abs(torch.corrcoef(drawn.T)[0, 1]) < 5 / 1e5**0.5


def test_bits_are_splitmix64():
    # The generator's published first outputs for the seed 1234567.
    wanted = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    found = [int(draws.bits(1234567, torch.tensor([i]))[0]) % 2**64 for i in range(3)]
    assert found == wanted


def test_an_order_holds_every_position_once_and_changes_with_the_epoch():
    first, second = draws.order(0, 0, 1000, CPU), draws.order(0, 1, 1000, CPU)
    assert torch.equal(first.sort().values, torch.arange(1000))
    assert not torch.equal(first, second)
    assert torch.equal(first, draws.order(0, 0, 1000, CPU))


def test_seeded_leaves_the_global_generator_as_it_was():
    torch.manual_seed(1)
    wanted = torch.rand(3)
    torch.manual_seed(1)
    with draws.seeded(7, "initialisation"):
        torch.rand(10)
    assert torch.equal(torch.rand(3), wanted)


def test_integers_are_below_their_bound_and_even():
    below = torch.tensor([3, 1000])
    drawn = draws.integers(torch.tensor(7), below, 30_000)
    assert drawn.shape == (2, 30_000)
    assert (drawn >= 0).all()
    assert (drawn < below[:, None]).all()
    assert (drawn[0].bincount() / 30_000 - 1 / 3).abs().max() < 0.02
    assert drawn[1].unique().numel() == 1000
    assert not torch.equal(drawn, draws.integers(torch.tensor(8), below, 30_000))
