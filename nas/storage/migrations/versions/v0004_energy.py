"""A trial's energy and its upper bound, which a front may be computed from."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

TABLE, INDEX = "nas_trials", "ix_nas_trials_figures"
BEFORE = ["study_id", "state", "feasible", "quality", "latency_ms_upper"]
AFTER = ["memory_bytes", "params", "weight_bytes", "macs", "number", "id"]


def upgrade() -> None:
    """To this schema."""
    op.add_column(TABLE, sa.Column("energy_mj", sa.Double(), nullable=True))
    op.add_column(TABLE, sa.Column("energy_mj_upper", sa.Double(), nullable=True))
    op.drop_index(INDEX, TABLE)
    op.create_index(INDEX, TABLE, [*BEFORE, "energy_mj_upper", *AFTER])


def downgrade() -> None:
    """To the schema before."""
    op.drop_index(INDEX, TABLE)
    op.create_index(INDEX, TABLE, [*BEFORE, *AFTER])
    op.drop_column(TABLE, "energy_mj_upper")
    op.drop_column(TABLE, "energy_mj")
