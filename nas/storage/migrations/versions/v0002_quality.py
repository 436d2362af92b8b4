"""A trial's quality is whatever its data is judged by, not accuracy alone; with its noise."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """To this schema."""
    op.alter_column("nas_trials", "accuracy", new_column_name="quality")
    op.alter_column("nas_trials", "accuracy_test", new_column_name="quality_test")
    op.add_column("nas_trials", sa.Column("quality_noise", sa.Double(), nullable=True))


def downgrade() -> None:
    """To the schema before."""
    op.drop_column("nas_trials", "quality_noise")
    op.alter_column("nas_trials", "quality_test", new_column_name="accuracy_test")
    op.alter_column("nas_trials", "quality", new_column_name="accuracy")
