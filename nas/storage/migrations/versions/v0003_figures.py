"""An index that holds all that a front is computed from."""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

FIGURES = ["quality", "latency_ms_upper", "memory_bytes", "params", "weight_bytes", "macs"]


def upgrade() -> None:
    """To this schema."""
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
