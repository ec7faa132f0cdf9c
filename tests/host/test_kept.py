"""What an owner keeps is made once, and lives as long as the owner."""

import copy
import gc
import pickle
import weakref

import pytest
from torch import nn

from lemoe_lab.host.kept import cached_on


class Owner:
    """Somebody who can keep things."""


class Thing:
    """Something that is costly to make."""


@pytest.fixture(params=[Owner, lambda: nn.Linear(2, 3)], ids=["object", "module"])
def owner(request):
    return request.param()


def test_equal_keys_share_one_value(owner):
    first = cached_on(owner, ("thing", 1), Thing)
    assert cached_on(owner, ("thing", 1), Thing) is first
    assert cached_on(owner, ("thing", 2), Thing) is not first


def test_owners_share_nothing():
    assert cached_on(Owner(), "thing", Thing) is not cached_on(Owner(), "thing", Thing)


def test_a_value_goes_with_its_owner():
    owner = Owner()
    value = weakref.ref(cached_on(owner, "thing", Thing))
    del owner
    gc.collect()
    assert value() is None


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda owner: pickle.loads(pickle.dumps(owner))])
def test_a_copy_of_an_owner_starts_with_nothing(owner, copied):
    first = cached_on(owner, "thing", Thing)
    assert cached_on(copied(owner), "thing", Thing) is not first
    assert cached_on(owner, "thing", Thing) is first


def test_what_fails_is_made_again(owner):
    with pytest.raises(ZeroDivisionError):
        cached_on(owner, "thing", lambda: 1 / 0)
    assert cached_on(owner, "thing", lambda: 1) == 1


def test_a_module_shows_nothing_of_what_it_keeps():
    module = nn.Linear(2, 3)
    cached_on(module, "layer", lambda: nn.Linear(2, 2))
    assert set(module.state_dict()) == {"weight", "bias"}
    assert list(module.children()) == []
