"""Studies in SQL: one row a trial, SQLite or PostgreSQL through the same code.

`database.open_database` opens and migrates, `studies.Studies` reads and writes, `records` are the
plain dataclasses that go in and come out. Nothing outside this package sees SQLAlchemy.
"""
