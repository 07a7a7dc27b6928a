"""How Redis fails. Apart from its client, so that who only catches these need not import the library."""


class RedisError(Exception):
    """Redis refused a command. The message holds no value and no address."""


class RedisDown(RedisError):
    """Redis cannot be used just now: no connection, no answer in time, or it is being left alone."""
