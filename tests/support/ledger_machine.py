"""One state machine for every ledger: calls in any order, repeated, late, across crashes, periods and limits.

After each step the ledger is compared with the model (`ledger_model.py`), and the invariants of docs/billing.md are
checked. Choices are single integers, taken apart below: that is what makes 10,000 steps a second possible. They are
uniform and have bits enough for the last choice of a step; a generator that prefers small integers (as hypothesis
does) leaves the later choices at their first value, and what only they can break is not seen for a long time.
"""

import random
from collections.abc import Callable, Sequence

from tests.support.ledger_model import Model, Pair
from tests.support.ledger_targets import Target
from zuebee.contracts.admission import MAX_AMOUNT, MAX_BALANCE, Budget, Period
from zuebee.contracts.limits import period_start_s
from zuebee.ledger.ledger import UnknownHold

START_S = 1_794_700_000.0  # in November 2026
HOLD_S = 30.0
CHOICE_BITS = 64

PERIODS: tuple[Period, ...] = ("never", "daily", "weekly", "monthly")
LEVELS = ("key", "user", "team", "organization")
SCOPES_OF_A_LEVEL = (3, 2, 2, 1)
STEPS_S = (0.0, 0.5, 20.0, 40.0, 3_600.0, 86_400.0, 7 * 86_400.0, 31 * 86_400.0)


class Choices:
    """An integer, taken apart."""

    def __init__(self, choice: int) -> None:
        self._left = choice

    def one_of(self, count: int) -> int:
        self._left, chosen = divmod(self._left, count)
        return chosen

    def amount(self) -> int:
        kind = self.one_of(16)
        if kind == 15:
            return (0, 1, MAX_AMOUNT)[self.one_of(3)]
        return self.one_of(60)


class LedgerMachine:
    """Asks a fresh target and the model the same; each step is one method and one integer."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.model = Model()
        self.now_s = START_S
        self.ids: list[str] = []
        self.count = 0
        self.limits: dict[str, int | None] = {}
        self.known: dict[tuple[int, ...], tuple[Budget, ...]] = {}
        self.forgotten: set[str] = set()
        self.only: int | None = None
        self._remember()

    def _remember(self) -> None:
        self.kept = self.model.copy(), list(self.ids)

    # --- what is asked for ---

    def _budgets(self, c: Choices) -> tuple[Budget, ...]:
        """1 to 4 levels; the same object again while nothing changed, as from a cache of keys."""
        first = c.one_of(4)
        picks = tuple((level, c.one_of(SCOPES_OF_A_LEVEL[level])) for level in range(first, 4))
        if self.only is not None:
            picks = ((self.only, 0),)
        budgets = tuple(self._budget(level, scope) for level, scope in picks)
        return self.known.setdefault(tuple(hash(budget) for budget in budgets), budgets)

    def _budget(self, level: int, scope: int) -> Budget:
        unit = "tokens" if (level + scope) % 2 else "USD"
        period = PERIODS[(level * 3 + scope) % 4] if level < 3 else "never"  # prepaid
        account = f"{LEVELS[level]}:{scope}/{unit}/{period}"
        before = 7 if period == "never" and level == 0 else 0
        limit = self.limits.setdefault(account, None if account.startswith("organization") else 150)
        return Budget(account, unit, period, limit, before)

    def _edge(self, budgets: tuple[Budget, ...], c: Choices) -> Pair:
        """All that is left, or one more than that."""
        left = [MAX_AMOUNT, MAX_AMOUNT]
        for budget in budgets:
            balance = self.model.balances.get((budget.account, period_start_s(budget.period, self.now_s)))
            available = balance.left() if balance else budget.limit or 0
            left[budget.unit != "tokens"] = min(left[budget.unit != "tokens"], max(0, available))
        return min(left[0] + c.one_of(4) // 3, MAX_AMOUNT), min(left[1] + c.one_of(4) // 3, MAX_AMOUNT)

    def _any(self, c: Choices) -> str | None:
        return self.ids[-1 - c.one_of(len(self.ids))] if self.ids else None

    def _compare(self, hold: str, ask: Callable[[], object], expected: Callable[[], object]) -> None:
        try:
            said = ask()
        except UnknownHold:
            assert hold in self.forgotten, f"{hold} is not known any more"
            return
        wanted = expected()
        assert said in (None, wanted), f"{hold}: the ledger says {said}, the model {wanted}"

    # --- steps ---

    def top_up_first(self, choice: int) -> None:
        """In every second run one account sees everything that happens."""
        c = Choices(choice)
        self.only = c.one_of(4) if c.one_of(2) else None
        self._grant(200 + c.one_of(300))
        self._after()

    def reserve(self, choice: int) -> None:
        c = Choices(choice)
        hold = self._any(c) if c.one_of(8) == 7 else None  # a repeated call
        budgets = self._budgets(c)
        amount = self._edge(budgets, c) if c.one_of(3) == 2 else (c.amount(), c.amount())
        least = (min(c.amount(), amount[0]), min(c.amount(), amount[1])) if c.one_of(2) else None
        self._reserve_in(budgets, amount, hold, least)
        self._after()

    def _reserve_in(
        self, budgets: tuple[Budget, ...], amount: Pair, hold: str | None, least: Pair | None = None
    ) -> None:
        if hold is None or hold in self.forgotten:
            self.count += 1
            hold = f"r{self.count}"
        until_s = self.now_s + HOLD_S
        said = self.target.reserve(hold, budgets, amount, self.now_s, until_s, least)
        wanted = self.model.reserve(hold, budgets, amount, self.now_s, until_s, least)
        assert said == wanted, f"{hold}: the ledger says {said}, the model {wanted}"
        if said[0] == "short":
            assert int(said[3]) > int(said[2])  # type: ignore[call-overload]
        elif hold not in self.ids:
            self.ids.append(hold)

    def extend(self, choice: int) -> None:
        c = Choices(choice)
        if hold := self._any(c):
            amount = (c.amount(), c.amount())
            known = self.model.holds.get(hold)
            if known is not None and sum(known.owed) and c.one_of(2):  # to all that it lacks
                amount = (known.amount[0] + known.owed[0], known.amount[1] + known.owed[1])
            self._compare(
                hold, lambda: self.target.extend(hold, amount, self.now_s), lambda: self.model.extend(hold, amount)
            )
        self._after()

    def post(self, choice: int) -> None:
        """Within the hold or beyond, early or late, the first time or again."""
        c = Choices(choice)
        if hold := self._any(c):
            amount = (c.amount(), c.amount())
            self._compare(
                hold,
                lambda: self.target.post(hold, amount, self.now_s),
                lambda: self.model.resolve(hold, "posted", amount),
            )
        self._after()

    def void(self, choice: int) -> None:
        if hold := self._any(Choices(choice)):
            self._compare(
                hold,
                lambda: self.target.void(hold, self.now_s),
                lambda: self.model.resolve(hold, "voided", (0, 0)),
            )
        self._after()

    def heartbeat(self, choice: int) -> None:
        c = Choices(choice)
        hold = self._any(c)
        if hold and hold not in self.forgotten and self.model.holds[hold].state == "open":
            before, until_s = self.model.holds[hold].progress, self.now_s + HOLD_S
            amount = (max(before[0], c.amount()), max(before[1], c.amount()))  # what is delivered only grows
            self.target.progress(hold, amount, until_s)
            self.model.holds[hold].progress, self.model.holds[hold].expires_at_s = amount, until_s
        self._after()

    def let_time_pass(self, choice: int) -> None:
        """Also into the next period; then expire what nobody renewed."""
        self.now_s += STEPS_S[choice % len(STEPS_S)]
        for hold, state in self.model.holds.items():
            if state.state == "open" and state.expires_at_s < self.now_s:
                self._expire(hold, state.progress)
        self._after()

    def _expire(self, hold: str, progress: Pair) -> None:
        self._compare(
            hold,
            lambda: self.target.expire(hold, self.now_s),
            lambda: self.model.resolve(hold, "expired", progress),
        )

    def change_a_limit(self, choice: int) -> None:
        self._change_a_limit(Choices(choice))
        self._after()

    def _change_a_limit(self, c: Choices) -> None:
        """Once, or several times on end."""
        level = c.one_of(4) if self.only is None else self.only
        scope = c.one_of(SCOPES_OF_A_LEVEL[level]) if self.only is None else 0
        if c.one_of(3) == 2:  # where nothing is left, a lower limit has nothing to take back
            budgets = (self._budget(level, scope),)
            self._reserve_in(budgets, self._edge(budgets, c), None)
        for _ in range(1 + c.one_of(3)):
            self.known.clear()  # keys are read anew
            account = self._budget(level, scope).account
            limits: list[int | None] = [0, 20, 60, 100, 150, 200, 400, MAX_BALANCE]
            if account.endswith("/never"):
                limits += [None, None]  # it goes, and the account is prepaid
            self.limits[account] = limits[c.one_of(len(limits))]
            if c.one_of(4):  # it takes effect with the next request
                budgets = (self._budget(level, scope),)
                self._reserve_in(budgets, self._edge(budgets, c) if c.one_of(2) else (c.one_of(2), c.one_of(2)), None)

    def top_up(self, choice: int) -> None:
        self._grant(min(Choices(choice).amount(), 100))
        self._after()

    def _grant(self, amount: int) -> None:
        """What is to be paid in beyond what can be counted is refused beforehand."""
        budget = self._budget(3, 0)
        self._reserve_in((budget,), (0, 0), None)  # its limit, or that it has none, takes effect
        self.count += 1
        balance = self.model.balances[self.model.limited(budget, self.now_s)]
        if balance.granted + amount <= MAX_BALANCE:
            self.target.grant(f"payment-{self.count}", budget, amount, self.now_s)
            balance.granted += amount

    def keep(self, _choice: int) -> None:
        self.target.keep()
        self._remember()
        self._after()

    def crash(self, choice: int) -> None:
        """What was not kept is gone, as if it had never been asked."""
        if choice % 4:
            self.target.keep()
            self._remember()
        self.target.crash(self.now_s)
        self.model, self.ids = self.kept[0].copy(), list(self.kept[1])
        for hold, state in self.model.holds.items():
            if self.target.expires_orphans:
                if state.state == "open":
                    self.model.resolve(hold, "expired", state.progress)
                else:
                    self.forgotten.add(hold)
        self.known.clear()
        self._remember()
        if choice % 3 == 2:  # what counts on from before is looked at first
            self._change_a_limit(Choices(choice // 12))
        self._after()

    # --- after each step ---

    def _after(self) -> None:
        if self.target.keeps_at_once:
            self._remember()
        figures = self.target.figures()
        open_holds = [hold for hold in self.model.holds.values() if hold.state == "open"]
        for key, (granted, held, used, overdraft) in figures.items():
            assert key in self.model.balances, f"nobody asked for {key}"
            assert self.model.balances[key].figures() == (granted, held, used, overdraft), key  # I1, I9, I10, I13, I14
            assert min(held, used, overdraft) >= 0, key  # I2
            assert used + held <= granted + overdraft, key  # I2
            explained = sum(hold.amount[unit != "tokens"] for hold in open_holds for on, unit in hold.path if on == key)
            assert held == explained, key  # I11

    def finish(self) -> None:
        """What `zuebee ledger verify` looks at, after the last step."""
        found = self.target.violations()
        assert not found, found[:3]


Step = tuple[str, int]
"""The name of a method of the machine, and its choice."""

OFTEN = ("reserve", "reserve")
SOMETIMES = (
    "extend",
    "post",
    "void",
    "heartbeat",
    "let_time_pass",
    "change_a_limit",
    "top_up",
    "keep",
    "crash",
)


def script(seed: int, count: int) -> list[Step]:
    """The steps of one run. Each run goes without some kinds of them: much is only seen while nothing undoes it."""
    dice = random.Random(seed)
    kinds = [*OFTEN, *(name for name in SOMETIMES if dice.random() < 0.8)]
    names = ["top_up_first", *dice.choices(kinds, k=count - 1)]
    return [(name, dice.getrandbits(CHOICE_BITS)) for name in names]


def play(make: Callable[[], Target], steps: Sequence[Step]) -> None:
    """Drive a fresh target through these steps."""
    machine = LedgerMachine(make())
    try:
        for name, choice in steps:
            getattr(machine, name)(choice)
        machine.finish()
    finally:
        machine.target.close()


def fails(make: Callable[[], Target], steps: Sequence[Step]) -> bool:
    """Whether these steps break it, in whatever way."""
    try:
        play(make, steps)
    except Exception:
        return True
    return False


def shortened(make: Callable[[], Target], steps: list[Step]) -> list[Step]:
    """A failing script without the steps that it fails without, from the last one on."""
    for number in reversed(range(len(steps))):
        fewer = steps[:number] + steps[number + 1 :]
        if fails(make, fewer):
            steps = fewer
    return steps


def run(
    make: Callable[[], Target], steps: int, *, first_seed: int = 0, shorten: bool = True, steps_each: int = 50
) -> int:
    """Drive fresh targets for at least so many steps; answers with how many it were. Prints what a failure needs."""
    taken, seed = 0, first_seed
    while taken < steps:
        chosen = script(seed, steps_each)
        try:
            play(make, chosen)
        except Exception:
            print(f"The ledger's state machine fails with seed {seed}.")
            if shorten:
                print("It takes no more than:", *shortened(make, chosen), sep="\n")
            raise
        taken, seed = taken + len(chosen), seed + 1
    return taken
