"""The tests of the examples share these fixtures."""

import pytest
from space import make_tuned


@pytest.fixture(scope="module")
def tuned_folder(tmp_path_factory):
    return make_tuned(tmp_path_factory.mktemp("tuned"))
