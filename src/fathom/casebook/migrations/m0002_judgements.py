"""Version 2: questions that are put to people, and what they said."""

from sqlalchemy import CheckConstraint, Column, Connection, ForeignKey, Integer, LargeBinary, MetaData, String, Table

METADATA = MetaData()

Table(
    "questions",
    METADATA,
    Column("digest", String, primary_key=True),  # of program, x and y
    Column("program", String, nullable=False, index=True),  # digest
    Column("title", String, nullable=False),
    Column("arrays", LargeBinary, nullable=False),  # safetensors: x in the shape that people see, y
    Column("judges", Integer, nullable=False),  # how many people's word is wanted
    Column("created", String, nullable=False),  # times are ISO 8601, UTC
    CheckConstraint("judges > 0"),
)
Table(
    "judgements",
    METADATA,
    Column("id", Integer, primary_key=True),  # in the order in which they were given
    Column("question", String, ForeignKey("questions.digest"), nullable=False, index=True),
    Column("judge", String, nullable=False),  # a name; one judge may speak of one question several times
    Column("opinion", String, nullable=False),
    Column("note", String, nullable=False),
    Column("created", String, nullable=False),
    CheckConstraint("opinion IN ('fine', 'benign', 'serious', 'malign')"),
)


def upgrade(connection: Connection) -> None:
    METADATA.create_all(connection, checkfirst=False)
