"""An index that holds all that a front is computed from, and its networks as a table shows them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

FIGURES = ["quality", "latency_ms_upper", "memory_bytes", "params", "weight_bytes", "macs"]


def upgrade() -> None:
    """To this schema."""
    op.add_column("nas_trials", sa.Column("architecture_short", sa.Text(), nullable=True))
    op.add_column("nas_trials", sa.Column("policy_short", sa.Text(), nullable=True))
    op.drop_index("ix_nas_trials_front", "nas_trials")
    op.create_index(
        "ix_nas_trials_figures",
        "nas_trials",
        ["study_id", "state", "feasible", *FIGURES, "number", "id"],
    )


def downgrade() -> None:
    """To the schema before."""
    op.drop_index("ix_nas_trials_figures", "nas_trials")
    op.create_index(
        "ix_nas_trials_front", "nas_trials", ["study_id", "feasible", "latency_ms", "quality"]
    )
    op.drop_column("nas_trials", "policy_short")
    op.drop_column("nas_trials", "architecture_short")
