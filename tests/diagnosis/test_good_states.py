"""States to go back to: which are kept, which is used, and what a checkpoint holds of them."""

import pytest
import torch
from small_runs import TINY_MODEL

from minitx.config import ModelConfig, TrainConfig
from minitx.errors import DamagedFileError
from minitx.model import Transformer
from minitx.training.good_states import MARGIN, SPACING, GoodStates
from minitx.training.hooks import AnomalyDetector
from minitx.training.optimizers import make_optimizer


class Remembers(AnomalyDetector):
    """A detector whose state is one number."""

    def __init__(self):
        self.number = 0

    def state(self):
        return {"number": self.number}

    def restore(self, state):
        self.number = state["number"]


class Training:
    def __init__(self, optimizer="muon"):
        torch.manual_seed(1)
        self.model = Transformer(ModelConfig(vocab_size=20, head_dim=8, **TINY_MODEL))
        config = TrainConfig(steps=100, batch_size=1, learning_rate=0.1, optimizer=optimizer)
        self.optimizer, self.detector = make_optimizer(self.model, config), Remembers()
        self.good = GoodStates(self.model, self.optimizer, self.detector)

    def learn(self, number):
        self.detector.number = number
        ids = torch.randint(20, (1, 9), generator=torch.Generator().manual_seed(number))
        self.model.loss(ids[:, :-1], ids[:, 1:]).backward()
        self.optimizer.step(1.0)

    def everything(self):
        tensors = {**self.model.state_dict(), **self.optimizer.state_tensors()}
        return {name: tensor.clone() for name, tensor in tensors.items()}


def same(one, other):
    return one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one)


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_everything_is_as_it_was(optimizer):
    training = Training(optimizer)
    training.learn(1)
    wanted = training.everything()
    training.good.take(1)
    training.learn(2)
    training.learn(3)
    assert not same(training.everything(), wanted)
    assert training.good.go_back(since=1 + MARGIN + 1) == 1
    assert same(training.everything(), wanted)
    assert training.detector.number == 1
    # And once more: a state that was gone back to is as good as before.
    training.learn(2)
    assert training.good.go_back(since=30) == 1
    assert same(training.everything(), wanted)


def test_two_are_kept_some_steps_apart():
    training = Training()
    for step in range(3 * SPACING + 1):
        training.good.take(step)
    steps = [entry["step"] for entry in training.good.description()]
    assert steps == [2 * SPACING, 3 * SPACING]


@pytest.mark.parametrize(
    ("since", "expected"),
    [
        (SPACING + MARGIN + 1, SPACING),
        (SPACING + MARGIN, 0),
        (SPACING, 0),
        # Nothing is early enough: the oldest.
        (1, 0),
        (10_000, SPACING),
    ],
)
def test_the_newest_from_well_before_the_trouble(since, expected):
    training = Training()
    training.good.take(0)
    training.good.take(SPACING)
    assert training.good.go_back(since) == expected
    assert training.good.description()[-1]["step"] == expected


def test_a_checkpoint_gives_them_back():
    training = Training()
    training.learn(1)
    training.good.take(1)
    first = training.everything()
    training.learn(2)
    training.good.take(1 + SPACING)
    present = training.everything()
    description = training.good.description()
    tensors = training.good.tensors(present_step=1 + SPACING)
    # The present state stands in the checkpoint already.
    assert {name.split(".")[0] for name in tensors} == {"1"}

    resumed = Training()
    resumed.model.load_state_dict(training.model.state_dict())
    resumed.optimizer.load_state_tensors(training.optimizer.state_tensors())
    resumed.good.load(description, tensors, present_step=1 + SPACING)
    resumed.learn(3)
    assert resumed.good.go_back(since=1 + SPACING + MARGIN + 1) == 1 + SPACING
    assert same(resumed.everything(), present)
    assert resumed.good.go_back(since=MARGIN + 2) == 1
    assert same(resumed.everything(), first)


@pytest.mark.parametrize(
    "damage",
    [
        lambda described, tensors: tensors.popitem(),
        lambda described, tensors: tensors.update(
            {k: v.flatten()[None] for k, v in tensors.items()}
        ),
        lambda described, tensors: described[0].pop("step"),
        lambda described, tensors: described[0].update(step="first"),
        lambda described, tensors: described[0].pop("watch"),
        lambda described, tensors: described[0].update(watch=3),
        lambda described, tensors: described.insert(0, None),
    ],
)
def test_what_does_not_fit_is_refused(damage):
    training = Training()
    training.learn(1)
    training.good.take(1)
    description, tensors = training.good.description(), training.good.tensors(present_step=9)
    damage(description, tensors)
    with pytest.raises(DamagedFileError, match="good states of the checkpoint can't be used"):
        Training().good.load(description, tensors, present_step=9)
