"""What a trial costs on each target of a study that has several."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """To this schema."""
    op.add_column("nas_trials", sa.Column("target_costs", sa.JSON(), nullable=True))


def downgrade() -> None:
    """To the schema before, in which a trial has the figures of the first target alone."""
    op.drop_column("nas_trials", "target_costs")
