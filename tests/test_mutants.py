"""The table of mutants follows the library: `make mutations` takes too long for every run of the tests."""

import pytest

from tests.mutants import MUTANTS, ROOT


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.what)
def test_the_line_that_a_mutant_breaks_occurs_once(mutant):
    assert mutant.source().read_text(encoding="utf-8").count(mutant.right) == 1
    assert mutant.wrong != mutant.right
    assert (ROOT / "tests" / mutant.seen_by).exists()
