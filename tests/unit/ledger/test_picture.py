import pytest

from tests.support.shared_ledger import AT_S, post, record, reserve, void
from zuebee.contracts.admission import Amount, Budget
from zuebee.ledger.entries import Balance, HoldState
from zuebee.ledger.ledger import Ledger
from zuebee.ledger.operations import Expire, Extend, Operation, Renew, Settle
from zuebee.ledger.snapshot import MAX_REMEMBERED, NOTHING_ASKED, Memory, Paths, Snapshot, Terms

KEY = Budget("key:1/tokens/never", "tokens", "never", 1000)
TEAM = Budget("team:1/USD/never", "USD", "never", 5000)
ONE: Paths = {(1,): 11}
BOTH: Paths = {(1,): 11, (2,): 12, (1, 2): 13}


def balances(held: int = 0) -> list[Balance]:
    return [
        Balance(1, KEY.account, "tokens", "never", 0, granted=1000, held=held, limited=1000, changes=1),
        Balance(2, TEAM.account, "USD", "never", 0, granted=5000, limited=5000, changes=1),
    ]


@pytest.fixture
def memory() -> Memory:
    return made_memory()


def made_memory(most: int = MAX_REMEMBERED) -> Memory:
    made = Memory(most)
    made.learn(Snapshot(Ledger(7), AT_S, 3, "hash"), [], 100.0, balances())
    return made


def decided(memory: Memory, *operations: Operation, paths: Paths = ONE) -> Snapshot:
    snapshot = memory.recall(7, operations, paths, 100.0)
    assert snapshot is not None
    snapshot.decide(operations)
    return snapshot


def keep(memory: Memory, *operations: Operation, paths: Paths = ONE, fresh: list[Balance] | None = None) -> None:
    memory.learn(decided(memory, *operations, paths=paths), operations, 100.0, fresh or balances())


def terms(memory: Memory, *operations: Operation, paths: Paths = ONE) -> Terms | None:
    return decided(memory, *operations, paths=paths).terms(operations, paths)


def test_a_hold_that_was_cut_down_depends_on_all_that_others_do(memory: Memory) -> None:
    assert terms(memory, reserve("a", (KEY,), 1001, least=5)) is None
    assert terms(memory, reserve("a", (KEY,), 1000, least=5)) is not None


def test_enough_must_be_left_for_all_that_is_asked(memory: Memory) -> None:
    asked = [reserve("a", (KEY, TEAM), 10, 300), reserve("b", (KEY,), 5)]
    assert terms(memory, *asked, paths=BOTH) == Terms([(1, 1000, 15), (2, 5000, 300)], [])


def test_what_is_given_back_in_the_same_batch_does_not_count(memory: Memory) -> None:
    keep(memory, reserve("old", (KEY,), 100))
    asked = [post("old", 40), reserve("new", (KEY,), 10)]
    assert terms(memory, *asked) == Terms([(1, 1000, 10)], [("old", 100, 0)])


def test_an_overdraft_takes_from_what_others_in_the_batch_ask_for(memory: Memory) -> None:
    keep(memory, reserve("old", (KEY,), 100))
    asked = [post("old", 130), reserve("new", (KEY,), 10)]
    assert terms(memory, *asked) == Terms([(1, 1000, 40)], [("old", 100, 0)])


def test_settlements_ask_for_nothing_but_that_their_holds_are_open(memory: Memory) -> None:
    keep(memory, reserve("a", (KEY,), 100), reserve("b", (KEY,), 50))
    asked = [post("a", 400), void("b"), Settle("", None, record("free", 1)), Renew([("a", 1, 0)], 30.0)]
    assert terms(memory, *asked, paths={}) == Terms([], [("a", 100, 0), ("b", 50, 0)])


def test_an_extension_asks_for_its_hold_and_for_what_it_adds(memory: Memory) -> None:
    keep(memory, reserve("a", (KEY,), 100))
    assert terms(memory, Extend("a", Amount(120), Amount(1)), paths={}) == Terms([(1, 1000, 20)], [("a", 100, 0)])


def test_asking_again_relies_on_the_limit_and_the_hold(memory: Memory) -> None:
    keep(memory, reserve("a", (KEY,), 100))
    assert terms(memory, reserve("a", (KEY,), 100)) == Terms([(1, 1000, NOTHING_ASKED)], [("a", 100, 0)])


def test_no_terms_can_say_that_a_refusal_is_right(memory: Memory) -> None:
    assert terms(memory, reserve("a", (KEY,), 1001)) is None
    keep(memory, reserve("a", (KEY,), 900))
    half = Extend("a", Amount(2000), Amount(950))  # of which the second amount fits
    assert terms(memory, half, paths={}) is None


def test_a_limit_that_changes_is_read(memory: Memory) -> None:
    more = Budget(KEY.account, "tokens", "never", 2000)
    assert terms(memory, reserve("a", (more,), 1)) is None


def test_what_is_not_known_is_read(memory: Memory) -> None:
    assert Memory().recall(7, [reserve("a", (KEY,), 1)], ONE, 0.0) is None, "nothing"
    assert memory.recall(7, [reserve("a", (KEY,), 1)], {(5,): 50}, 0.0) is None, "the balance"
    assert memory.recall(7, [post("never seen", 1)], {}, 0.0) is None, "the hold"
    assert memory.recall(7, [Extend("never seen", Amount(1), Amount(1))], {}, 0.0) is None
    keep(memory, reserve("a", (KEY,), 1))
    assert memory.recall(7, [Expire("a")], {}, 0.0) is None, "when somebody else may have renewed it"
    assert memory.recall(7, [reserve("b", (KEY,), 1), post("b", 1)], ONE, 0.0) is not None
    keep(memory, post("a", 1), paths={})
    assert memory.recall(7, [post("a", 1)], {}, 0.0) is None, "how it was resolved"


def test_others_changes_are_learned_and_tries_forgotten(memory: Memory) -> None:
    decided(memory, reserve("in vain", (KEY,), 500))
    keep(memory, reserve("a", (KEY,), 100), fresh=balances(held=850))
    (answer,) = decided(memory, reserve("b", (KEY,), 51)).answers
    assert not isinstance(answer, HoldState), "100 of 150 were taken"
    (answer,) = decided(memory, reserve("b", (KEY,), 50)).answers
    assert isinstance(answer, HoldState)


def test_the_clock_and_the_chain_go_on_from_where_they_were(memory: Memory) -> None:
    snapshot = memory.recall(7, [], {}, 160.0)
    assert snapshot is not None
    assert (snapshot.now_s, snapshot.sequence, snapshot.digest) == (AT_S + 60, 3, "hash")


def test_a_memory_that_grew_too_large_starts_anew() -> None:
    memory = made_memory(1)
    keep(memory, reserve("a", (KEY,), 1))
    assert memory.recall(7, [reserve("b", (KEY,), 1)], ONE, 100.0) is not None
    memory.learn(Snapshot(Ledger(7), AT_S, 3, "hash"), [], 100.0, [])
    assert memory.recall(7, [reserve("b", (KEY,), 1)], ONE, 100.0) is None
