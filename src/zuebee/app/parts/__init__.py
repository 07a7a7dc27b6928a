"""The parts of a process. Each builds itself from settings and from the parts that it is given."""
