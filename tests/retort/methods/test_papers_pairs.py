"""The papers' pairs of unlike networks: a method refuses one in a sentence, or computes with it."""

import math

import pytest

from retort.architectures import CARDS
from retort.dataset import ImageClassFacts
from retort.method import MethodError, Setup
from retort.methods import METHODS

PAIRS = [
    ("shufflenet_v2", "resnet8x4"),
    ("mobilenet_v2_half", "vgg8"),
    *(
        pytest.param(*pair, marks=pytest.mark.long)
        for pair in (("shufflenet_v2", "resnet32x4"), ("mobilenet_v2_half", "vgg13"))
    ),
]
"""Of each published pair the same with the family's smaller teacher, and the published one."""
FACTS = ImageClassFacts(
    classes=10,
    class_names=tuple("0123456789"),
    image_size=32,
    train=40,
    validation=1,
    test=1,
    mean=(0.4, 0.5, 0.6),
    std=(0.2, 0.3, 0.4),
)
REFUSED = {
    # Their last maps stand before a convolution, and not all stages are as wide as the teacher's.
    "cat_kd": "does not end in the mean of its last map and one linear layer",
    "simkd": "does not end in the mean of its last map and one linear layer",
    "fsp": "they must be the same",
}


@pytest.mark.parametrize(("student", "teacher"), PAIRS)
@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_method_refuses_the_pair_in_a_sentence_or_computes_with_it(name, student, teacher, pair):
    method = METHODS[name](name=name)
    if name in REFUSED:
        with pytest.raises(MethodError, match=REFUSED[name]):
            method.check(Setup(FACTS, FACTS.classes, CARDS[student], CARDS[teacher], 8, 2, CARDS))
        return
    made = pair(method, student=student, teacher=teacher, side=32)
    assert made.train_states
    for train_state in made.train_states:
        train_state.network.train()
        terms = made.terms(made.batch(train_state=train_state), train_state)
        assert terms
        assert all(math.isfinite(term.item()) for term in terms.values())
        sum(terms.values()).backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in train_state.network.parameters())
