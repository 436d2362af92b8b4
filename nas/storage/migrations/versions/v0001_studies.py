"""Studies, trials and what belongs to them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

MOMENT = sa.DateTime(timezone=True)
DOCUMENT = sa.JSON(none_as_null=True)


def upgrade() -> None:
    """To this schema."""
    op.create_table(
        "nas_device_profiles",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.String(200), nullable=False),
        sa.Column("document", DOCUMENT, nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_nas_device_profiles"),
        sa.UniqueConstraint("fingerprint", name="uq_nas_device_profiles_fingerprint"),
    )
    op.create_table(
        "nas_studies",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("space", sa.Text(), nullable=False),
        sa.Column("preset", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("runtime", sa.Text(), nullable=False),
        sa.Column("batch_size", sa.Integer(), nullable=False),
        sa.Column("data", sa.Text(), nullable=False),
        sa.Column("objectives", DOCUMENT, nullable=False),
        sa.Column("budgets", DOCUMENT, nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("sampler", sa.Text(), nullable=False),
        sa.Column("request", DOCUMENT, nullable=False),
        sa.Column("supernet_fingerprint", sa.Text(), nullable=False),
        sa.Column("supernet_digest", sa.Text(), nullable=False),
        sa.Column("profile_fingerprint", sa.String(200), nullable=True),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("holder", DOCUMENT, nullable=True),
        sa.Column("holder_token", sa.String(32), nullable=True),
        sa.Column("active_at", MOMENT, nullable=False),
        sa.ForeignKeyConstraint(
            ["profile_fingerprint"],
            ["nas_device_profiles.fingerprint"],
            name="fk_nas_studies_profile_fingerprint",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_nas_studies"),
        sa.UniqueConstraint("name", name="uq_nas_studies_name"),
    )
    op.create_table(
        "nas_trials",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("key", sa.String(200), nullable=False),
        sa.Column("genome", DOCUMENT, nullable=False),
        sa.Column("architecture", DOCUMENT, nullable=False),
        sa.Column("policy", DOCUMENT, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("accuracy", sa.Double(), nullable=True),
        sa.Column("accuracy_test", sa.Double(), nullable=True),
        sa.Column("latency_ms", sa.Double(), nullable=True),
        sa.Column("latency_ms_upper", sa.Double(), nullable=True),
        sa.Column("memory_bytes", sa.BigInteger(), nullable=True),
        sa.Column("params", sa.BigInteger(), nullable=True),
        sa.Column("weight_bytes", sa.BigInteger(), nullable=True),
        sa.Column("macs", sa.BigInteger(), nullable=True),
        sa.Column("feasible", sa.Boolean(), nullable=False),
        sa.Column("origin", DOCUMENT, nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.CheckConstraint("state IN ('complete', 'failed')", name=op.f("ck_nas_trials_state")),
        sa.ForeignKeyConstraint(
            ["study_id"], ["nas_studies.id"], name="fk_nas_trials_study_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_nas_trials"),
        sa.UniqueConstraint("study_id", "number", name="uq_nas_trials_study_id"),
        sa.UniqueConstraint("study_id", "key", name="uq_nas_trials_key"),
    )
    op.create_index(
        "ix_nas_trials_front", "nas_trials", ["study_id", "feasible", "latency_ms", "accuracy"]
    )
    op.create_table(
        "nas_measurements",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("trial_id", sa.Integer(), nullable=False),
        sa.Column("quantity", sa.Text(), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.Column("spread_within", sa.Double(), nullable=True),
        sa.Column("spread_between", sa.Double(), nullable=True),
        sa.Column("repeats", sa.Integer(), nullable=False),
        sa.Column("processes", sa.Integer(), nullable=False),
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("runtime", sa.Text(), nullable=False),
        sa.Column("precision", sa.Text(), nullable=False),
        sa.Column("batch_size", sa.Integer(), nullable=False),
        sa.Column("threads", sa.Integer(), nullable=True),
        sa.Column("agreement", sa.Double(), nullable=True),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.ForeignKeyConstraint(
            ["trial_id"], ["nas_trials.id"], name="fk_nas_measurements_trial_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_nas_measurements"),
    )
    op.create_index("ix_nas_measurements_trial_id", "nas_measurements", ["trial_id"])
    op.create_table(
        "nas_artefacts",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("trial_id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.ForeignKeyConstraint(
            ["trial_id"], ["nas_trials.id"], name="fk_nas_artefacts_trial_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_nas_artefacts"),
    )
    op.create_index("ix_nas_artefacts_trial_id", "nas_artefacts", ["trial_id"])


def downgrade() -> None:
    """To an empty database."""
    for name in ("artefacts", "measurements", "trials", "studies", "device_profiles"):
        op.drop_table(f"nas_{name}")
