"""The tables of watching: people's feedback, and counts of what live answers were like; no text of an answer is here
unless a client sent it as feedback.
"""

from sqlalchemy import JSON, BigInteger, Column, Float, Integer, MetaData, String, Table, Text

metadata = MetaData()

feedback = Table(
    "feedback",
    metadata,
    Column("request_id", String(64), primary_key=True),
    Column("key_id", String(64), primary_key=True),
    Column("tenant", String(64), nullable=False, index=True),
    Column("adapter", String(64), index=True),
    Column("digest", String(64)),
    Column("rating", Float, nullable=False),
    Column("tags", JSON, nullable=False),
    Column("comment", Text),
    Column("expected", Text),
    Column("messages", JSON(none_as_null=True)),
    Column("at_us", BigInteger, nullable=False, index=True),
)
# How many answers of a version fell into a bucket of a measure on a day (UTC, days since the epoch).
watched_answers = Table(
    "watched_answers",
    metadata,
    Column("adapter", String(64), primary_key=True),
    Column("digest", String(64), primary_key=True),
    Column("day", Integer, primary_key=True),
    Column("measure", String(96), primary_key=True),
    Column("bucket", String(96), primary_key=True),
    Column("answers", BigInteger, nullable=False),
)
