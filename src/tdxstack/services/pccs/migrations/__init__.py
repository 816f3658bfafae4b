"""Schema versions of the database, for alembic."""
