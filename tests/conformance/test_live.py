"""Every case of the table over sockets, through a racecar that was started by its command line."""

from collections.abc import Iterator

import pytest
from http1_table import GROUPS, Group
from live import Racecar, Session

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def racecar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Racecar]:
    """In front of a server that is ours; at the end it must have had no trouble."""
    process = Racecar(tmp_path_factory.mktemp("conformance"))
    try:
        yield process
    finally:
        code = process.stop()
    assert code == 0
    assert "Traceback" not in "".join(process.said)


@pytest.mark.parametrize("count", [1, 7], ids=["whole", "in pieces"])
@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.name)
def test_over_sockets(group: Group, count: int, racecar: Racecar) -> None:
    for case in group.cases:
        if any(turn.seconds for turn in case.turns):
            continue
        with Session(racecar, count) as session:
            try:
                session.play(case)
            except BaseException as error:
                error.add_note(f"case: {case.name}")
                raise
