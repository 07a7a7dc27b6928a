"""How a store says that it cannot."""


class StoreBusy(Exception):
    """Not now: the same batch may be tried again."""


class StoreFailed(Exception):
    """Nothing more can be written; what was not confirmed may or may not be there."""


class UnknownOwner(StoreFailed):
    """The store does not know the process whose operations these are."""
