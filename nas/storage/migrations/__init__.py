"""Alembic's migrations of our schema, run from the package by `nas.storage.schema`.

To make the next one, change the models, then in a scratch database of the current schema:

    with open_database("sqlite:///scratch.db").write() as connection:
        alembic.command.revision(
            alembic_config(connection), "what changes", autogenerate=True, rev_id="0002"
        )

and set `SCHEMA` in `nas.storage.schema` to the new revision.
"""
