"""The statements that make a new SQLite file as all migrations together make it."""

import sqlite3
from pathlib import Path

from zuebee.schema.migrate import upgrade


def new_file(folder: Path) -> str:
    """Run the migrations in `folder`, and answer with statements that come to the same."""
    path = folder / "migrated.db"
    upgrade(str(path))
    connection = sqlite3.connect(path)
    try:
        # Tables as they were made, indexes by name: the order in which those are made is left to chance.
        order = "ORDER BY type DESC, iif(type = 'table', rowid, 0), name"
        ours = "sql IS NOT NULL AND name NOT LIKE 'sqlite_%'"
        found = connection.execute(f"SELECT sql FROM sqlite_master WHERE {ours} {order}")
        made = [row[0] for row in found]
        (version,) = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        (user_version,) = connection.execute("PRAGMA user_version").fetchone()
    finally:
        connection.close()
    made += [f"INSERT INTO alembic_version VALUES ('{version}')", f"PRAGMA user_version={user_version}"]
    return ";\n".join(made) + "\n"
