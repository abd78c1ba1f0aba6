"""Version 1: cases, the sets they consist of, points found in them, and the runs that worked on them."""

from sqlalchemy import (
    CheckConstraint,
    Column,
    Connection,
    Double,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    UniqueConstraint,
    text,
)

METADATA = MetaData()


def required(name: str, kind: type, *more: ForeignKey, index: bool = False) -> Column[object]:
    """A column that is never NULL. SQLite reads NaN as NULL, so neither is NaN ever stored."""
    return Column(name, kind, *more, nullable=False, index=index)


Table(
    "runs",
    METADATA,
    Column("id", Integer, primary_key=True),
    required("fathom", String),  # the version that ran
    required("command", String),
    required("recipe", String),  # what solved: pastes back
    required("started", String),  # times are ISO 8601, UTC
    Column("ended", String),  # NULL: still running, or killed
    Column("summary", String),  # JSON
)
Table(
    "cases",
    METADATA,
    Column("digest", String, primary_key=True),
    required("program", String),
    required("region", String),
    required("overseer", String),
    required("created", String),
)
Table(
    "sets",
    METADATA,
    Column("id", Integer, primary_key=True),
    required("case_digest", String, ForeignKey("cases.digest")),
    required("place", Integer),  # among the sets of its case
    required("arithmetic", String),  # under which `lower` and `upper` hold
    required("lower", Double),  # proved; only rises
    required("seal", String),  # a checksum over this set's address and `lower`: a proof is not to change by a flipped bit
    required("upper", Double),  # least rigorous upper bound at a point; only falls
    required("deployed", Double),  # least margin of the deployed program at a point; only falls
    required("broken", Integer),  # whether a confirmed witness is known
    required("reason", String),
    Column("lower_run", Integer, ForeignKey("runs.id")),  # whose proof `lower` is
    Column("found_run", Integer, ForeignKey("runs.id")),  # whose point gave `upper` or `deployed`
    required("seconds", Double),
    required("forward", Integer),
    required("backward", Integer),
    required("boxes", Integer),
    required("updated", String),
    UniqueConstraint("case_digest", "arithmetic", "place"),
    CheckConstraint("broken IN (0, 1)"),
)
Table(
    "points",
    METADATA,
    Column("id", Integer, primary_key=True),
    required("set_id", Integer, ForeignKey("sets.id")),
    required("digest", String),  # of x
    required("kind", String),  # witness, rounding failure or near
    required("deployed", Double),
    required("real_lower", Double),
    required("real_upper", Double),
    required("in_written", Integer),
    required("arrays", LargeBinary),  # safetensors: x, y
    required("run", Integer, ForeignKey("runs.id")),
    required("created", String),
    UniqueConstraint("set_id", "digest"),
)
Table(
    "run_cases",
    METADATA,
    Column("run", Integer, ForeignKey("runs.id"), primary_key=True),
    Column("place", Integer, primary_key=True),
    required("case_digest", String, ForeignKey("cases.digest"), index=True),
    required("title", String),
    required("lower", Double),  # the bracket as this run left it
    required("upper", Double),
    required("verdict", String),
)

BRACKETS = """
CREATE VIEW brackets AS
SELECT case_digest, arithmetic, sets, lower, upper, deployed, verdict,
       CASE verdict WHEN 'proved' THEN 'certificate (unchecked)' WHEN 'broken' THEN 'counterexample' ELSE 'unknown' END AS claim,
       CASE verdict WHEN 'unknown' THEN open_reason ELSE 'DECIDED' END AS reason,
       seconds, forward, backward, boxes, updated
FROM (
    SELECT case_digest, arithmetic, count(*) AS sets, min(lower) AS lower, min(upper) AS upper, min(deployed) AS deployed,
           CASE WHEN min(lower) > 0 THEN 'proved' WHEN max(broken) = 1 THEN 'broken' ELSE 'unknown' END AS verdict,
           max(CASE WHEN lower > 0 OR broken = 1 THEN '' ELSE reason END) AS open_reason,
           sum(seconds) AS seconds, sum(forward) AS forward, sum(backward) AS backward, sum(boxes) AS boxes,
           max(updated) AS updated
    FROM sets GROUP BY case_digest, arithmetic
) AS gathered
"""


def upgrade(connection: Connection) -> None:
    METADATA.create_all(connection, checkfirst=False)
    connection.execute(text(BRACKETS))
