"""Trials that were given up after a part of the validation data, and what a trial was judged on."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """To this schema."""
    op.add_column("nas_trials", sa.Column("part_noise", sa.Double(), nullable=True))
    op.add_column("nas_trials", sa.Column("examples", sa.Integer(), nullable=True))
    op.add_column("nas_trials", sa.Column("seconds_saved", sa.Double(), nullable=True))
    _allow("'complete', 'partial', 'failed'")


def downgrade() -> None:
    """To the schema before, which has no place for partial trials."""
    op.execute("DELETE FROM nas_trials WHERE state = 'partial'")
    _allow("'complete', 'failed'")
    for column in ("seconds_saved", "examples", "part_noise"):
        op.drop_column("nas_trials", column)


def _allow(states: str) -> None:
    """Let a trial be in these states and no other."""
    rule = op.f("ck_nas_trials_state")
    with op.batch_alter_table("nas_trials") as table:
        if op.get_bind().dialect.name != "sqlite":  # whose copy of a table leaves its checks behind
            table.drop_constraint(rule, type_="check")
        table.create_check_constraint(rule, f"state IN ({states})")
