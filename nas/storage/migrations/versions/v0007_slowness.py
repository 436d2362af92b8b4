"""How slow the machine was while a figure was measured."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """To this schema."""
    op.add_column("nas_measurements", sa.Column("slowness", sa.Double(), nullable=True))


def downgrade() -> None:
    """To the schema before, which does not say it."""
    op.drop_column("nas_measurements", "slowness")
