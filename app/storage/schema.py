"""
The tables, as SQLAlchemy Core knows them. Migrations create them; this module is what the stores query through.

Instants are Unix seconds in REAL columns (`*_at`, `*_until`), days are `YYYY-MM-DD` in UTC. The columns of `keys`,
`daily_stats` and `settings` that older versions of the schema had keep their names and their meaning.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
    func,
    select,
)

# SQLite only makes INTEGER PRIMARY KEY columns aliases of the rowid.
_Id = BigInteger().with_variant(Integer, "sqlite")

#: What stands in for a value that is missing where none may be.
_EMPTY = {String: "", Text: "", Integer: 0, Boolean: false()}

metadata = MetaData()

providers = Table(
    "providers",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=True),
    Column("name", String(64), nullable=False, unique=True),
    Column("kind", String(32), nullable=False),
    Column("base_url", Text, nullable=False, server_default=""),  # empty = the kind's own
    Column("formats", Text, nullable=False, server_default="[]"),  # JSON list; empty = the kind's own
    Column("models", Text, nullable=False, server_default="[]"),  # JSON list of globs
    Column("headers", Text, nullable=False, server_default=""),  # encrypted JSON object; empty = none
    Column("query", Text, nullable=False, server_default="{}"),  # JSON object
    Column("priority", Integer, nullable=False, server_default="100"),
    Column("enabled", Boolean, nullable=False, server_default="1"),
    Column("created_at", Float, nullable=False, server_default="0"),
    Column("updated_at", Float, nullable=False, server_default="0"),
)

keys = Table(
    "keys",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=True),
    Column("name", Text, nullable=False, server_default="Unnamed"),
    Column("key_value", Text, nullable=False),  # encrypted; see app/vault.py
    Column("key_hmac", String(64), nullable=False, unique=True),
    Column("key_hint", String(16), nullable=False, server_default=""),  # first 4 and last 4 characters
    Column("provider", String(64), nullable=False, server_default="gemini"),
    Column("group", String(128), nullable=False, server_default=""),
    Column("models", Text, nullable=False, server_default="[]"),  # JSON list of globs; empty = all
    Column("status", String(16), nullable=False, server_default="Healthy"),
    Column("disabled_until", Float),  # end of the rest of the whole key
    Column("reason", String(64), nullable=False, server_default=""),
    Column("evidence", Text, nullable=False, server_default=""),  # JSON {"status", "message"}, redacted
    Column("failures", Integer, nullable=False, server_default="0"),  # failures in a row: the step on the ladder
    Column("note", Text, nullable=False, server_default=""),
    Column("priority", Integer, nullable=False, server_default="1"),
    Column("last_rotated_at", Float, nullable=False, server_default="0"),
    Column("state_at", Float, nullable=False, server_default="0"),  # when the state changed last
    Column("state_by", String(16), nullable=False, server_default="system"),  # system or person
    Column("version", Integer, nullable=False, server_default="0"),  # compare-and-set counter of the state columns
    Column("total_requests", BigInteger, nullable=False, server_default="0"),
    Column("created_at", Float, nullable=False, server_default="0"),
    sqlite_autoincrement=True,  # an id that was deleted must never name another key
)
Index("ix_keys_provider", keys.c.provider)

# Rests of (key, model), and pairs that are skipped because the key does not offer the model.
key_model_rests = Table(
    "key_model_rests",
    metadata,
    Column("key_id", _Id, ForeignKey("keys.id", ondelete="CASCADE"), primary_key=True),
    Column("model", String(256), primary_key=True),
    Column("until", Float, nullable=False),
    Column("reason", String(64), nullable=False, server_default=""),
    Column("failures", Integer, nullable=False, server_default="0"),
)

# HMACs of keys that came from the environment once, so that a deleted key stays deleted.
imported_keys = Table(
    "imported_keys",
    metadata,
    Column("key_hmac", String(64), primary_key=True),
    Column("imported_at", Float, nullable=False),
)

daily_stats = Table(
    "daily_stats",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=True),
    Column("key_id", _Id, ForeignKey("keys.id", ondelete="CASCADE"), nullable=False),
    Column("date", String(10), nullable=False),
    Column("requests", BigInteger, nullable=False, server_default="0"),
    Column("successes", BigInteger, nullable=False, server_default="0"),
    Column("errors", BigInteger, nullable=False, server_default="0"),
    Column("tokens_in", BigInteger, nullable=False, server_default="0"),
    Column("tokens_out", BigInteger, nullable=False, server_default="0"),
    Column("total_latency_ms", BigInteger, nullable=False, server_default="0"),
    Column("error_codes", Text, nullable=False, server_default="{}"),  # JSON {"429": n}
    Column("model_usage", Text, nullable=False, server_default="{}"),  # JSON {"model": n}
    UniqueConstraint("key_id", "date"),
)

# Tokens per key, model and day.
model_stats = Table(
    "model_stats",
    metadata,
    Column("key_id", _Id, ForeignKey("keys.id", ondelete="CASCADE"), primary_key=True),
    Column("date", String(10), primary_key=True),
    Column("model", String(256), primary_key=True),
    Column("requests", BigInteger, nullable=False, server_default="0"),
    Column("tokens_in", BigInteger, nullable=False, server_default="0"),
    Column("tokens_out", BigInteger, nullable=False, server_default="0"),
    Column("cached_tokens", BigInteger, nullable=False, server_default="0"),
)

# All requests that began in an hour or on a day, so that no page has to add up many hours.
period_stats = Table(
    "period_stats",
    metadata,
    Column("period", String(13), primary_key=True),  # YYYY-MM-DDTHH or YYYY-MM-DD, in UTC
    Column("requests", BigInteger, nullable=False, server_default="0"),
    Column("successes", BigInteger, nullable=False, server_default="0"),
    Column("tokens_in", BigInteger, nullable=False, server_default="0"),
    Column("tokens_out", BigInteger, nullable=False, server_default="0"),
    Column("cached_tokens", BigInteger, nullable=False, server_default="0"),
    # JSON objects {name: n}; see PeriodTotals in app/rollups.py.
    Column("outcomes", Text, nullable=False, server_default="{}"),
    Column("statuses", Text, nullable=False, server_default="{}"),
    Column("verdicts", Text, nullable=False, server_default="{}"),
    Column("error_codes", Text, nullable=False, server_default="{}"),
    # JSON objects {bucket: n}; see app/histograms.py.
    Column("latencies", Text, nullable=False, server_default="{}"),
    Column("first_tokens", Text, nullable=False, server_default="{}"),
    sqlite_with_rowid=False,
)

# All requests per day, client and model. No foreign key: what a deleted client used stays counted.
client_stats = Table(
    "client_stats",
    metadata,
    Column("date", String(10), primary_key=True),
    Column("client_id", _Id, primary_key=True, autoincrement=False),  # 0 = without a client key
    Column("model", String(256), primary_key=True),
    Column("requests", BigInteger, nullable=False, server_default="0"),
    Column("successes", BigInteger, nullable=False, server_default="0"),
    Column("tokens_in", BigInteger, nullable=False, server_default="0"),
    Column("tokens_out", BigInteger, nullable=False, server_default="0"),
    Column("cached_tokens", BigInteger, nullable=False, server_default="0"),
    sqlite_with_rowid=False,
)

settings = Table(
    "settings",
    metadata,
    Column("key", String(64), primary_key=True),
    Column("value", Text, nullable=False),
    Column("created_at", Float, nullable=False, server_default="0"),
    Column("updated_at", Float, nullable=False, server_default="0"),
)

model_aliases = Table(
    "model_aliases",
    metadata,
    Column("alias", String(256), primary_key=True),
    Column("target", String(320), nullable=False),  # `model` or `provider/model`
    Column("created_at", Float, nullable=False, server_default="0"),
)

clients = Table(
    "clients",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=True),
    Column("name", Text, nullable=False),
    Column("key_hash", String(64), nullable=False, unique=True),  # SHA-256 of the client key
    Column("key_prefix", String(16), nullable=False),
    Column("active", Boolean, nullable=False, server_default="1"),
    Column("scopes", Text, nullable=False, server_default="[]"),
    Column("expires_at", Float),
    Column("created_at", Float, nullable=False, server_default="0"),
    Column("last_used_at", Float),
    sqlite_autoincrement=True,  # as for keys
)

# What a client key may use: kind is `model`, `tool`, `mcp_server` ...; pattern is a glob. No row of a kind = all.
client_grants = Table(
    "client_grants",
    metadata,
    Column("client_id", _Id, ForeignKey("clients.id", ondelete="CASCADE"), primary_key=True),
    Column("kind", String(16), primary_key=True),
    Column("pattern", String(256), primary_key=True),
)

# US dollars per million tokens.
model_prices = Table(
    "model_prices",
    metadata,
    Column("model", String(256), primary_key=True),  # glob
    Column("input_per_million", Float, nullable=False),
    Column("output_per_million", Float, nullable=False),
    Column("cached_per_million", Float),
    Column("updated_at", Float, nullable=False, server_default="0"),
)

# What many requests have in common, texts redacted and cut: each row of `requests` names one.
request_shapes = Table(
    "request_shapes",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=False),  # from a hash of the columns up to user_agent
    Column("method", String(16), nullable=False, server_default=""),
    Column("path", Text, nullable=False, server_default=""),
    Column("dialect", String(32), nullable=False, server_default=""),
    Column("operation", String(16), nullable=False, server_default=""),
    Column("model", Text),
    Column("upstream_model", Text),
    Column("provider", String(64)),
    Column("client_id", _Id),
    Column("stream", Boolean, nullable=False, server_default="0"),
    Column("status", Integer, nullable=False, server_default="0"),
    Column("outcome", String(32), nullable=False, server_default=""),
    Column("error_code", String(64), nullable=False, server_default=""),
    Column("peer", String(64), nullable=False, server_default=""),
    Column("user_agent", Text, nullable=False, server_default=""),
    # Whoever uses the shape says so at least once a day, so that one without rows can be told and deleted.
    Column("seen_at", Float, nullable=False, server_default="0"),
)

requests = Table(
    "requests",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=True),
    Column("shape_id", _Id, nullable=False),
    Column("request_id", String(128), nullable=False),
    Column("started_at", Float, nullable=False),
    Column("key_id", _Id),
    Column("duration_ms", Integer, nullable=False, server_default="0"),
    Column("first_byte_ms", Integer),
    Column("request_bytes", BigInteger, nullable=False, server_default="0"),
    Column("response_bytes", BigInteger, nullable=False, server_default="0"),
    Column("input_tokens", BigInteger),
    Column("output_tokens", BigInteger),
    Column("cached_tokens", BigInteger),
    Column("cache_write_tokens", BigInteger),
    Column("reasoning_tokens", BigInteger),
    # JSON list of attempts (AttemptRecord fields): read with the row, never searched by SQL. Empty = one attempt that
    # was ok, with the provider and the status of the shape, the key and the duration of the row.
    Column("attempts", Text, nullable=False, server_default=""),
)
Index("ix_requests_started_at", requests.c.started_at)
Index("ix_requests_request_id", requests.c.request_id)

#: Each request with what its shape says, under the names of the columns. A row whose shape is missing is shown without.
request_log = select(
    requests,
    *(
        func.coalesce(column, _EMPTY[type(column.type)]).label(column.name) if not column.nullable else column
        for column in request_shapes.c
        if column.name not in ("id", "seen_at")
    ),
).join_from(requests, request_shapes, requests.c.shape_id == request_shapes.c.id, isouter=True)

# Lines of the live log: requests, answers and changes of key states.
events = Table(
    "events",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=True),
    Column("at", Float, nullable=False),
    Column("color", String(16), nullable=False, server_default=""),
    Column("message", Text, nullable=False),
)

# Which upstream key holds the state of a conversation or a resource.
session_keys = Table(
    "session_keys",
    metadata,
    Column("hint", String(64), primary_key=True),  # SHA-256 of provider and hint
    Column("key_id", _Id, nullable=False),
    Column("expires_at", Float, nullable=False),
    Column("seq", BigInteger, nullable=False, server_default="0"),  # grows with each change, for polling
)
Index("ix_session_keys_seq", session_keys.c.seq)

admin_sessions = Table(
    "admin_sessions",
    metadata,
    Column("token_hash", String(64), primary_key=True),  # HMAC of the token with SECRET_KEY
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float, nullable=False),
    Column("kind", String(16), nullable=False, server_default="cookie"),  # cookie or bearer
    Column("password_hash", String(64), nullable=False, server_default=""),  # so that a new password ends old sessions
)

login_attempts = Table(
    "login_attempts",
    metadata,
    Column("peer", String(64), primary_key=True),
    Column("failures", Integer, nullable=False, server_default="0"),
    Column("locked_until", Float, nullable=False, server_default="0"),
    Column("last_at", Float, nullable=False, server_default="0"),
)

# One row; grows with every change of configuration or key state. Workers poll it.
revision = Table(
    "revision",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("value", BigInteger, nullable=False, server_default="0"),
)

# Small facts about this database, such as a check value of the encryption key.
meta = Table(
    "meta",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("value", LargeBinary, nullable=False),
)
