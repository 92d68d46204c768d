"""Errors go through from one process to another."""

import pickle

import pytest

from minitx.errors import BadInputError, InterruptedRunError, MinitxError


@pytest.mark.parametrize(
    "error", [BadInputError("a file is bad", "Mend it"), InterruptedRunError("cut", "Resume", 15)]
)
def test_an_error_is_itself_again_in_another_process(error):
    again = pickle.loads(pickle.dumps(error))
    assert isinstance(again, MinitxError)
    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))
