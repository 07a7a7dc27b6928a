"""What is still in memory, for tests that must see it let go of."""

import gc


def alive(kind: type) -> int:
    """How many objects of just this class there are, once what nobody can reach is gone."""
    gc.collect()
    return sum(type(each) is kind for each in gc.get_objects())
